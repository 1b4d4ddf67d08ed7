// SPDX-License-Identifier: GPL-2.0

//! Failures with the file of a device: it cannot be frozen, or the next kernel cannot use it.

use super::{
    before_with, forced, map_elsewhere, preserve, start, suite, DEVICE, ELSEWHERE, MEMORY, USUAL,
};
use crate::{
    support::{
        error::{ensure, ensure_eq},
        igb::ID,
        kexec,
        pci::{self, PciDevice},
        registry::{Case, Suite},
        sessions::{expect_errno, retrieve},
        vfio::PAGE,
    },
    tests::damage::fate::damage,
};
use rustix::io::Errno;
use std::{fs::File, io};

/// Memory is mapped after the device was preserved: the kexec is refused, and the device keeps
/// working. When this memory is unmapped, the device can be preserved again.
pub fn mapped_suite() -> Suite {
    let case = Case::two(
        "memory_is_mapped_later",
        |stage| {
            let (ioas, link) = start(USUAL)?;
            let session = preserve(&link, "vfio-mapped")?;
            let _later = map_elsewhere(&ioas)?;
            kexec::Plan::dry()?.load()?;
            let jump: io::Result<()> = Err(kexec::try_jump());
            expect_errno(jump, Errno::BUSY, "reboot(KEXEC)")?;
            link.receive(1000)?;
            ioas.unmap(ELSEWHERE, PAGE as u64)?;
            drop(session);
            before_with(stage, (ioas, link), "vfio", USUAL)
        },
        |stage| super::after(stage, "vfio", USUAL),
    );
    suite("vfio_mapped", case)
}

/// After the damage in `line`, the next kernel cannot use the file of the device; RETRIEVE_FD fails
/// with `errno`. At the end, the bus master bit of the device is `master`. Its memory stays
/// reserved.
fn damaged(
    name: &'static str,
    case: &str,
    line: &'static str,
    errno: Errno,
    master: bool,
) -> Suite {
    let case = Case::two(
        case,
        move |stage| {
            damage("vfio", &[line])?;
            before_with(stage, start(USUAL)?, "vfio", USUAL)
        },
        move |_| {
            let session = retrieve("vfio")?;
            let is_master = || PciDevice::find(ID)?.is_master();
            ensure!(is_master()?, "the device was stopped");
            pci::mark(pci::AFTER)?;
            let memory = forced::Mapped::new(&File::from(session.retrieve(MEMORY)?))?;
            let frames = memory.frames()?;
            let retrieved = session.retrieve(DEVICE).map(drop);
            expect_errno(retrieved, errno, "RETRIEVE_FD of the device")?;
            drop(memory);
            session.finish()?;
            ensure_eq!(is_master()?, master, "the bus master bit");
            forced::fill(&frames)
        },
    );
    suite(name, case)
}

/// The next kernel has no handler for the file: the device keeps working.
pub fn handler_suite() -> Suite {
    let line = "file @ 2 compatible = \"vfio-pci-v9\"";
    let errno = Errno::OPNOTSUPP;
    damaged("vfio_handler", "handler_is_missing", line, errno, true)
}

/// The data of the file is lost: the device is silenced when the last file of a device is finished.
pub fn lost_suite() -> Suite {
    let line = "file @ 2 data = 0";
    damaged("vfio_lost", "data_is_lost", line, Errno::INVAL, false)
}
