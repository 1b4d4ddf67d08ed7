// SPDX-License-Identifier: GPL-2.0

//! The device is not preserved, or nobody takes it over; memory on which other code works; refusals.

use super::{after, before_with, bind, start, suite, AFTER, DEVICE, LONG, MEMORY, SHORT};
use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    igb::ID,
    mapping::{frames, map_shared},
    meminfo,
    pci::{self, PciDevice},
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
    vfio::{Ioas, VfioDevice, PAGE},
};
use crate::tests::memfd::changes::swap_on;
use rustix::{
    fs::{fallocate, FallocateFlags},
    io::Errno,
};
use std::{fs::File, mem};

/// Whether the device may write to memory.
fn is_master() -> Result<bool> {
    PciDevice::find(ID)?.is_master()
}

/// Opens the device, which resets it: it is one like any other again.
fn open_again() -> Result {
    let cdev = bind()?.vfio_cdev()?;
    VfioDevice::open(&cdev, &Ioas::new()?).map(drop)
}

/// Lets the device receive frames until the kexec.
fn run_until_the_end<T: 'static>(stage: &mut Stage<'_>, things: T) {
    stage.last(move || {
        // To close the files would stop the device.
        mem::forget(things);
        Ok(())
    });
}

/// Only the memory is preserved: the device is stopped.
pub fn stopped_suite() -> Suite {
    let case = Case::two(
        "only_memory",
        |stage| {
            let (ioas, link) = start(LONG)?;
            link.receive(1000)?;
            let session = create("vfio")?;
            session.preserve(link.0.memory(), MEMORY)?;
            stage.hold(session);
            run_until_the_end(stage, (ioas, link));
            Ok(())
        },
        |_| {
            ensure!(!is_master()?, "the device was not stopped");
            let session = retrieve("vfio")?;
            session.retrieve(MEMORY)?;
            session.finish()?;
            open_again()
        },
    );
    suite("vfio_stopped", case)
}

/// The session is closed before the kexec: the device is stopped.
pub fn closed_suite() -> Suite {
    let case = Case::two(
        "closed_session",
        |stage| {
            let (ioas, link) = start(LONG)?;
            link.receive(1000)?;
            let session = create("vfio")?;
            session.preserve(link.0.memory(), MEMORY)?;
            session.preserve(link.0.device(), DEVICE)?;
            drop(session);
            link.receive(1000)?;
            run_until_the_end(stage, (ioas, link));
            Ok(())
        },
        |_| {
            ensure!(!is_master()?, "the device was not stopped");
            let error = retrieve("vfio").err();
            ensure!(error.is_some(), "there is a session");
            open_again()
        },
    );
    suite("vfio_closed", case)
}

/// Nobody retrieves the device: it goes on until the session is finished, and is silenced then.
pub fn forgotten_suite() -> Suite {
    let case = Case::two(
        "never_retrieved",
        |stage| before_with(stage, start(LONG)?, "vfio"),
        |_| {
            let session = retrieve("vfio")?;
            ensure!(is_master()?, "the device was stopped");
            pci::mark(AFTER)?;
            session.finish()?;
            ensure!(!is_master()?, "the device was not silenced");
            open_again()
        },
    );
    suite("vfio_forgotten", case)
}

/// The retrieved file is never bound to an iommufd: the device is silenced as well.
pub fn unbound_suite() -> Suite {
    let case = Case::two(
        "never_bound",
        |stage| before_with(stage, start(LONG)?, "vfio"),
        |_| {
            bind()?;
            let session = retrieve("vfio")?;
            let file = session.retrieve(DEVICE)?;
            // This has retrieved the memory on which it depends.
            session.retrieve(MEMORY)?;
            ensure!(is_master()?, "the device was stopped");
            pci::mark(AFTER)?;
            session.finish()?;
            ensure!(!is_master()?, "the device was not silenced");
            drop(file);
            open_again()
        },
    );
    suite("vfio_unbound", case)
}

/// The memory is retrieved, and everything is done to move it or to take it away, while the device
/// writes to it. Then the program dies, and other code uses all memory that is free.
pub fn forced_suite() -> Suite {
    let case = Case::two(
        "memory_stays_where_it_is",
        |stage| before_with(stage, start(LONG)?, "vfio"),
        |stage| {
            /// A page of the memory that neither the driver nor the device uses.
            const UNUSED: u64 = 5 * PAGE as u64;

            swap_on()?;
            let session = retrieve("vfio")?;
            let memory = File::from(session.retrieve(MEMORY)?);
            let len = memory.metadata().at("fstat")?.len();
            let map = map_shared(&memory, 0, len)?;
            let before = frames(map, 2)?;
            for advice in [libc::MADV_PAGEOUT, libc::MADV_COLLAPSE, libc::MADV_PAGEOUT] {
                // The kernel may refuse it, but must not do it.
                // SAFETY: The memory is mapped, and the advice does not change its content.
                let _ = unsafe { libc::madvise(map, len as usize, advice) };
            }
            compact()?;
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&memory, punch, UNUSED, PAGE as u64).at("fallocate")?;
            ensure_eq!(frames(map, 2)?, before, "the page frames");
            // SAFETY: Nobody refers to the mapping any more.
            unsafe { rustix::mm::munmap(map, len as usize) }.at("munmap")?;
            drop((session, memory));

            let filled = Filled::new()?;
            compact()?;
            filled.check()?;
            drop(filled);
            after(stage, "vfio")
        },
    );
    suite("vfio_forced", case)
}

/// Moves all memory that can be moved.
fn compact() -> Result {
    const FILE: &str = "/proc/sys/vm/compact_memory";
    std::fs::write(FILE, "1").at(FILE)
}

/// Most of the free memory, with a pattern.
struct Filled(Vec<u64>);

impl Filled {
    const PATTERN: u64 = 0xa5a5_5a5a_a5a5_5a5a;

    fn new() -> Result<Self> {
        let kib = meminfo::line("MemAvailable")?;
        // Some is left for the kernel and this program.
        // CAST: Less than the memory of the machine.
        let words = (kib * 1024 / 4 * 3 / 8) as usize;
        Ok(Self(vec![Self::PATTERN; words]))
    }

    fn check(&self) -> Result {
        let wrong = self.0.iter().position(|word| *word != Self::PATTERN);
        ensure!(wrong.is_none(), "something has written to memory of others");
        Ok(())
    }
}

/// What cannot be preserved.
pub fn refused_suite() -> Suite {
    let case = Case::one("refusals", |_| {
        let cdev = bind()?.vfio_cdev()?;
        let open = || File::options().read(true).write(true).open(&cdev);
        let session = create("vfio")?;

        let unbound = open().at(cdev.display())?;
        expect_errno(
            session.preserve(&unbound, 1),
            Errno::INVAL,
            "a file without iommufd",
        )?;
        drop(unbound);

        let (ioas, link) = start(SHORT)?;
        expect_errno(
            session.preserve(link.0.device(), 2),
            Errno::NOENT,
            "a device whose memory is not preserved",
        )?;
        session.preserve(link.0.memory(), 3)?;
        let plain = vec![0u8; 2 * PAGE];
        let start = plain.as_ptr().addr().next_multiple_of(PAGE);
        ioas.map_memory(start as u64, PAGE as u64, 1 << 40)?;
        expect_errno(
            session.preserve(link.0.device(), 2),
            Errno::OPNOTSUPP,
            "a device with memory that is no file",
        )?;
        ioas.unmap(1 << 40, PAGE as u64)?;
        session.preserve(link.0.device(), 2)?;
        link.receive(1000)?;
        drop(session);
        link.receive(1000)?;
        link.0.stop()?;
        drop(ioas);
        Ioas::new().map(drop)
    });
    suite("vfio_refused", case)
}
