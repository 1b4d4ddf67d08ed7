// SPDX-License-Identifier: GPL-2.0

//! The handler of files of vfio-pci.

use crate::{
    abi::{
        covers,
        FormatError,
        RangeSer,
        StateSer,
        VfioPci,
        VfioPciSer,
        MAX_MEMORIES,
        MAX_RANGES, //
    },
    ops::{
        create_file,
        VfioFile, //
    }, //
};
use kernel::{
    fs::File,
    kho::{
        Claimed,
        PhysAddr,
        Preserved, //
    },
    liveupdate::{
        session::{
            IncomingSession,
            OutgoingSession, //
        },
        FileHandler,
        RetrieveError, //
    },
    pci::liveupdate::{
        Address,
        PreservedDevice,
        WorkingDevice,
        DEVICES, //
    },
    prelude::*,
    rbtree::RBTree,
    sync::aref::ARef, //
};

impl From<FormatError> for Error {
    fn from(err: FormatError) -> Self {
        match err {
            FormatError::UnknownFlags => EOPNOTSUPP,
            FormatError::BadSize | FormatError::BadCount | FormatError::BadRange => EINVAL,
        }
    }
}

/// The state of a preserved file in this kernel.
pub(crate) struct Outgoing {
    _device: PreservedDevice,
    state: Preserved<StateSer>,
    /// The files to whose memory the device may write, which are preserved.
    memories: KVec<ARef<File>>,
}

/// A file in the next kernel.
pub(crate) struct Incoming {
    ser: Claimed<VfioPciSer>,
    /// [`None`] if it was not handed over.
    state: Option<Claimed<StateSer>>,
    /// The device is silenced when this is dropped, unless user space uses it. The memory to which
    /// it writes belongs to files that are finished later.
    device: WorkingDevice<()>,
    /// [`None`] if it was not retrieved.
    retrieved: Option<Retrieved>,
}

/// A retrieved file.
struct Retrieved {
    file: ARef<File>,
    /// The files to whose memory the device may write.
    memories: KVec<ARef<File>>,
}

impl Retrieved {
    /// Whether user space has bound the file and has mapped the parts `wanted` of the memory again, so
    /// that they stay where they are after the files of the memory are finished.
    fn is_mapped(&self, wanted: &[RangeSer]) -> bool {
        let Some(vfio) = VfioFile::of(&self.file).filter(|vfio| vfio.check().is_ok()) else {
            return false;
        };
        mapped_ranges(&vfio, |memory| {
            Ok(memory.and_then(|memory| find(&self.memories, memory)))
        })
        .is_ok_and(|mapped| covers(mapped.keys().copied(), wanted))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.is_mapped() {
            self.device.must_stop();
        }
    }
}

impl Incoming {
    fn address(ser: &VfioPciSer) -> Address {
        Address {
            domain: ser.domain,
            bdf: ser.bdf,
        }
    }

    /// Whether the file was retrieved, and all memory is mapped again that the device could reach when
    /// the file was frozen.
    fn is_mapped(&self) -> bool {
        let (Some(retrieved), Some(state)) = (&self.retrieved, &self.state) else {
            return false;
        };
        VfioPci::parse(&self.ser, state).is_ok_and(|vfio| retrieved.is_mapped(vfio.ranges))
    }
}

pub(crate) struct Handler;

kernel::builtin_file_handler!(Handler, flbs: [DEVICES]);

#[vtable]
impl FileHandler for Handler {
    const COMPATIBLE: &'static CStr = c"vfio-pci-v2";

    type Ser = VfioPciSer;
    // There is nothing to wait for.
    type Prepared = ();
    type Outgoing = Outgoing;
    type Incoming = Incoming;

    fn can_preserve(&self, file: &File) -> bool {
        VfioFile::of(file).is_some()
    }

    /// Preserves the device, and its memory.
    ///
    /// Errors: EOPNOTSUPP (the device has an IOMMU, another driver or properties that cannot be
    /// preserved, or reaches memory that is not a file of a kind that devices can use), EINVAL (the file
    /// is not bound to an iommufd), ENOENT (memory that is not preserved in this session), ENOSPC (too
    /// many files, ranges of them or devices), ENOMEM.
    fn preserve(
        &self,
        file: &File,
        _prepared: &mut (),
        ser: &mut VfioPciSer,
        session: &OutgoingSession<'_>,
    ) -> Result<Outgoing> {
        let vfio = VfioFile::of(file).ok_or(EINVAL)?;
        vfio.check()?;
        let mut memories: KVec<ARef<File>> = KVec::new();
        let mapped = mapped_ranges(&vfio, |memory| {
            let memory = memory.ok_or(EOPNOTSUPP)?;
            if let Some(index) = find(&memories, memory) {
                return Ok(Some(index));
            }
            let index = memories.len();
            let slot = ser.memories.get_mut(index).ok_or(ENOSPC)?;
            *slot = session.dma_target(memory)?;
            memories.push(memory.into(), GFP_KERNEL_ACCOUNT)?;
            Ok(Some(index))
        })?;
        let mut state = Preserved::<StateSer>::new_zeroed()?;
        ser.set_ranges(&mut state, mapped.keys().copied())
            .ok_or(ENOSPC)?;
        let Address { domain, bdf } = vfio.device().address();
        ser.domain = domain;
        ser.bdf = bdf;
        ser.nr_memories = u16::try_from(memories.len())?;
        ser.state = state.phys().get();
        Ok(Outgoing {
            _device: PreservedDevice::new(vfio.device())?,
            state,
            memories,
        })
    }

    /// Saves the configuration space as user space reads it, and what is mapped.
    ///
    /// Errors: EBUSY (memory of other files was mapped since the file was preserved), ENOSPC (too
    /// many ranges), ENOMEM.
    fn freeze(&self, file: &File, ser: &mut VfioPciSer, outgoing: &mut Outgoing) -> Result {
        let vfio = VfioFile::of(file).ok_or(EINVAL)?;
        let mapped = mapped_ranges(&vfio, |memory| {
            let index = memory.and_then(|memory| find(&outgoing.memories, memory));
            index.ok_or(EBUSY).map(Some)
        })?;
        ser.set_ranges(&mut outgoing.state, mapped.keys().copied())
            .ok_or(ENOSPC)?;
        let (cfg_size, reset_works) = vfio.save(&mut outgoing.state.config)?;
        ser.cfg_size = cfg_size;
        ser.flags = match reset_works {
            true => VfioPciSer::RESET_WORKS,
            false => 0,
        };
        Ok(())
    }

    fn adopt(&self, ser: Claimed<VfioPciSer>) -> Incoming {
        let state = PhysAddr::new(ser.state).ok_or(EINVAL);
        Incoming {
            state: state.and_then(Claimed::new).ok(),
            device: WorkingDevice::new(Incoming::address(&ser), ()),
            retrieved: None,
            ser,
        }
    }

    /// Retrieves the memory, and creates the file, which user space binds to an iommufd.
    ///
    /// Errors: ENODEV (vfio-pci is not bound to the device yet, or the device was silenced), ENOMEM,
    /// ENFILE, and those of retrieving the memory. Permanent: EINVAL, EOPNOTSUPP (malformed data).
    fn retrieve(
        &self,
        incoming: &mut Incoming,
        session: &IncomingSession<'_>,
    ) -> Result<ARef<File>, RetrieveError> {
        let permanent = RetrieveError::Permanent;
        let state = incoming.state.as_ref().ok_or(permanent(EINVAL))?;
        let vfio = VfioPci::parse(&incoming.ser, state).map_err(|err| permanent(err.into()))?;
        let mut memories = KVec::new();
        for token in vfio.memories {
            memories.push(session.file(*token)?, GFP_KERNEL)?;
        }
        let address = Incoming::address(&incoming.ser);
        let file = create_file(address, &vfio)?;
        incoming.retrieved = Some(Retrieved {
            file: file.clone(),
            memories,
        });
        Ok(file)
    }
}

/// Returns the position of `file` in `files`.
fn find(files: &[ARef<File>], file: &File) -> Option<usize> {
    files
        .iter()
        .position(|other| other.as_ptr() == file.as_ptr())
}

/// Returns the memory that the device of a file reaches. `index` returns the number of a file,
/// or [`None`] for memory that is to be left out.
///
/// Errors: those of `index`, ENOMEM, EBUSY (a mapping is being changed).
fn mapped_ranges(
    vfio: &VfioFile<'_>,
    mut index: impl FnMut(Option<&File>) -> Result<Option<usize>>,
) -> Result<RBTree<RangeSer, ()>> {
    let mut ranges = RBTree::new();
    vfio.for_each_mapping(|memory, bytes| {
        let Some(index) = index(memory)? else {
            return Ok(());
        };
        let range = RangeSer {
            // CAST: `usize` has at most 64 bits.
            memory: index as u64,
            start: bytes.start,
            end: bytes.end,
        };
        ranges
            .try_create_and_insert(range, (), GFP_KERNEL)
            .map(drop)
    })?;
    Ok(ranges)
}

static_assert!(MAX_MEMORIES <= u16::MAX as usize && MAX_RANGES <= u16::MAX as usize);
