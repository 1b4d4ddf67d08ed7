// SPDX-License-Identifier: GPL-2.0

//! The handler of files, and the data that it hands over.

use crate::{
    device::edu,
    file::{
        EduFile,
        NewFile,
        Retrieved, //
    },
};
use kernel::{
    anon_inode,
    fs::{
        file::flags,
        File, //
    },
    kho::{
        shared::{
            PreservedPage,
            SharedPage, //
        },
        Claimed,
        PhysAddr, //
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
    sync::{
        aref::ARef,
        atomic::Relaxed, //
    }, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// The data that is handed over for a file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct EduSer {
    domain: u32,
    bdf: u16,
    /// Whether the device keeps working.
    kept: u16,
    /// The physical address of the buffer.
    buffer: u64,
}

/// The state of a preserved file. The device is released before the memory to which it
/// writes.
struct Outgoing {
    _device: Option<PreservedDevice>,
    _buffer: PreservedPage,
}

/// A file in the next kernel, until it is retrieved.
enum Incoming {
    /// The device keeps working, and may write to the buffer.
    Working(WorkingDevice<SharedPage>),
    /// The device was stopped.
    Stopped(Option<SharedPage>, Address),
    /// The buffer was not handed over.
    Damaged,
}

struct Handler;

kernel::builtin_file_handler!(Handler, flbs: [DEVICES]);

#[vtable]
impl FileHandler for Handler {
    const COMPATIBLE: &'static CStr = c"rust-sample-edu-v1";

    type Ser = EduSer;
    // There is nothing to wait for.
    type Prepared = ();
    type Outgoing = Outgoing;
    type Incoming = Incoming;

    fn can_preserve(&self, file: &File) -> bool {
        EduFile::of(file).is_some()
    }

    fn preserve(
        &self,
        file: &File,
        _prepared: &mut (),
        ser: &mut EduSer,
        _session: &OutgoingSession<'_>,
    ) -> Result<Outgoing> {
        let file = EduFile::of(file).ok_or(EINVAL)?;
        let keep = file.keep.load(Relaxed);
        let buffer = file.buffer.clone();
        let Address { domain, bdf } = file.edu.pdev.address();
        *ser = EduSer {
            domain,
            bdf,
            kept: keep.into(),
            buffer: buffer.phys(),
        };
        let buffer = buffer.preserve()?;
        let device = match keep {
            true => Some(PreservedDevice::new(&file.edu.pdev)?),
            false => None,
        };
        Ok(Outgoing {
            _device: device,
            _buffer: buffer,
        })
    }

    fn adopt(&self, ser: Claimed<EduSer>) -> Incoming {
        let address = Address {
            domain: ser.domain,
            bdf: ser.bdf,
        };
        let buffer = PhysAddr::new(ser.buffer).ok_or(EINVAL);
        match buffer.and_then(SharedPage::claim) {
            Ok(buffer) if ser.kept == 0 => Incoming::Stopped(Some(buffer), address),
            Ok(buffer) => Incoming::Working(WorkingDevice::new(address, buffer)),
            Err(_) => Incoming::Damaged,
        }
    }

    fn retrieve(
        &self,
        incoming: &mut Incoming,
        _session: &IncomingSession<'_>,
    ) -> Result<ARef<File>, RetrieveError> {
        let edu = edu()?;
        let file = NewFile::new(edu.clone())?;
        let permanent = RetrieveError::Permanent;
        let buffer = match incoming {
            Incoming::Working(device) => device.take_over(&edu.pdev).map_err(permanent)?,
            Incoming::Stopped(buffer, address) if *address == edu.pdev.address() => {
                buffer.take().ok_or(permanent(EINVAL))?
            }
            Incoming::Stopped(..) | Incoming::Damaged => return Err(permanent(EINVAL)),
        };
        // If this fails, the buffer is dropped when the device does not use it any more.
        let file = file.with(buffer);
        anon_inode::getfile::<Retrieved>(c"[rust_edu]", file, flags::O_RDWR).map_err(permanent)
    }
}
