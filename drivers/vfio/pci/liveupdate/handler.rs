// SPDX-License-Identifier: GPL-2.0

//! The handler of files of vfio-pci.

use crate::{
    abi::{
        ConfigSer,
        FormatError,
        VfioPci,
        VfioPciSer,
        MAX_MEMORIES, //
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
    sync::aref::ARef, //
};

impl From<FormatError> for Error {
    fn from(err: FormatError) -> Self {
        match err {
            FormatError::UnknownFlags => EOPNOTSUPP,
            FormatError::BadSize | FormatError::BadCount => EINVAL,
        }
    }
}

/// The state of a preserved file in this kernel.
pub(crate) struct Outgoing {
    _device: PreservedDevice,
    config: Preserved<ConfigSer>,
    /// The files to whose memory the device may write, which are preserved.
    memories: KVec<ARef<File>>,
}

/// A file in the next kernel.
pub(crate) struct Incoming {
    ser: Claimed<VfioPciSer>,
    /// [`None`] if it was not handed over.
    config: Option<Claimed<ConfigSer>>,
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
    /// Whether user space has bound the file and has mapped the memory again, so that the memory
    /// stays where it is after its files are finished.
    fn is_mapped(&self) -> bool {
        let Some(vfio) = VfioFile::of(&self.file).filter(|vfio| vfio.check().is_ok()) else {
            return false;
        };
        let mut mapped = [false; MAX_MEMORIES];
        let visited = vfio.for_each_mapping(|memory| {
            for (known, mapped) in self.memories.iter().zip(&mut mapped) {
                *mapped |= memory.is_some_and(|memory| memory.as_ptr() == known.as_ptr());
            }
            Ok(())
        });
        visited.is_ok() && self.memories.iter().zip(&mapped).all(|(_, mapped)| *mapped)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.retrieved.as_ref().is_some_and(Retrieved::is_mapped) {
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
}

pub(crate) struct Handler;

kernel::builtin_file_handler!(Handler, flbs: [DEVICES]);

#[vtable]
impl FileHandler for Handler {
    const COMPATIBLE: &'static CStr = c"vfio-pci-v1";

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
    /// many files or devices), ENOMEM.
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
        vfio.for_each_mapping(|memory| {
            let memory = memory.ok_or(EOPNOTSUPP)?;
            if find(&memories, memory) {
                return Ok(());
            }
            let slot = ser.memories.get_mut(memories.len()).ok_or(ENOSPC)?;
            *slot = session.dma_target(memory)?;
            Ok(memories.push(memory.into(), GFP_KERNEL_ACCOUNT)?)
        })?;
        let config = Preserved::<ConfigSer>::new_zeroed()?;
        let Address { domain, bdf } = vfio.device().address();
        ser.domain = domain;
        ser.bdf = bdf;
        ser.nr_memories = u16::try_from(memories.len())?;
        ser.config = config.phys().get();
        Ok(Outgoing {
            _device: PreservedDevice::new(vfio.device())?,
            config,
            memories,
        })
    }

    /// Saves the configuration space as user space reads it.
    ///
    /// Errors: EBUSY (memory was mapped since the file was preserved).
    fn freeze(&self, file: &File, ser: &mut VfioPciSer, outgoing: &mut Outgoing) -> Result {
        let vfio = VfioFile::of(file).ok_or(EINVAL)?;
        vfio.for_each_mapping(|memory| match memory {
            Some(memory) if find(&outgoing.memories, memory) => Ok(()),
            _ => Err(EBUSY),
        })?;
        let (cfg_size, reset_works) = vfio.save(&mut outgoing.config.0)?;
        ser.cfg_size = cfg_size;
        ser.flags = match reset_works {
            true => VfioPciSer::RESET_WORKS,
            false => 0,
        };
        Ok(())
    }

    fn adopt(&self, ser: Claimed<VfioPciSer>) -> Incoming {
        let config = PhysAddr::new(ser.config).ok_or(EINVAL);
        Incoming {
            config: config.and_then(Claimed::new).ok(),
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
        let vfio = VfioPci::parse(&incoming.ser).map_err(|err| permanent(err.into()))?;
        let config = incoming.config.as_ref().ok_or(permanent(EINVAL))?;
        let mut memories = KVec::new();
        for token in vfio.memories {
            memories.push(session.file(*token)?, GFP_KERNEL)?;
        }
        let address = Incoming::address(&incoming.ser);
        let file = create_file(address, &vfio, &config.0)?;
        incoming.retrieved = Some(Retrieved {
            file: file.clone(),
            memories,
        });
        Ok(file)
    }
}

/// Whether `file` is one of `files`.
fn find(files: &[ARef<File>], file: &File) -> bool {
    files.iter().any(|other| other.as_ptr() == file.as_ptr())
}

static_assert!(MAX_MEMORIES <= u16::MAX as usize);
