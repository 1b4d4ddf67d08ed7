// SPDX-License-Identifier: GPL-2.0

//! The device is not preserved, or nobody takes it over; refusals.

use super::{
    before_with, bind, map_elsewhere, preserve, start, suite, Setup, DEVICE, ELSEWHERE, MEMORY,
    SHORT, USUAL,
};
use crate::support::{
    error::{ensure, At, Result},
    igb::{Ring, ID},
    pci::{self, PciDevice},
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
    vfio::{self, Ioas, VfioDevice, PAGE},
};
use liveupdate::Policy;
use rustix::io::Errno;
use std::{fs::File, mem};

/// Whether the device may write to memory.
fn is_master() -> Result<bool> {
    PciDevice::find(ID)?.is_master()
}

/// Opens the device, which resets it: it is an ordinary device again.
pub(super) fn open_again() -> Result {
    let cdev = bind()?.vfio_cdev()?;
    VfioDevice::open(&cdev, &Ioas::new()?).map(drop)
}

/// Lets the device receive frames until the kexec.
fn run_until_the_end<T: 'static>(stage: &mut Stage<'_>, things: T) {
    stage.last(move || {
        // Closing the files would stop the device.
        mem::forget(things);
        Ok(())
    });
}

/// Only the memory is preserved: the device is stopped.
pub fn stopped_suite() -> Suite {
    let case = Case::two(
        "only_memory",
        |stage| {
            let (ioas, link) = start(USUAL)?;
            link.receive(1000)?;
            let session = create("vfio")?;
            session.preserve(link.igb.memory(), MEMORY)?;
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

/// Nothing is preserved: the device is stopped, and the program of the next kernel starts it again, and
/// has lost frames. What is measured of a device that keeps working is compared with this.
pub fn restarted_suite() -> Suite {
    let setup = Setup {
        ring: Ring::Small,
        ..USUAL
    };
    let case = Case::two(
        "device_is_started_again",
        move |stage| {
            let (ioas, link) = start(setup)?;
            link.receive(1000)?;
            let last = move || {
                link.send(1)?;
                mem::forget((ioas, link));
                Ok(())
            };
            stage.last(last);
            Ok(())
        },
        move |_| {
            ensure!(!is_master()?, "the device was not stopped");
            let (_ioas, link) = start(setup)?;
            link.receive(1000)?;
            ensure!(link.lost() > 0, "no frame was lost");
            link.igb.stop()
        },
    );
    suite("vfio_restarted", case)
}

/// The session is closed before the kexec: the device is stopped.
pub fn closed_suite() -> Suite {
    let case = Case::two(
        "closed_session",
        |stage| {
            let (ioas, link) = start(USUAL)?;
            drop(preserve(&link, "vfio")?);
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

/// Memory is mapped after the device was preserved, and the policy of the session permits a kexec
/// without a file that cannot be frozen: the device is stopped.
pub fn skipped_suite() -> Suite {
    let case = Case::two(
        "device_is_left_out",
        |stage| {
            let (ioas, link) = start(USUAL)?;
            let session = preserve(&link, "vfio")?;
            session.set_policy(Policy::Skip)?;
            let later = map_elsewhere(&ioas)?;
            link.receive(1000)?;
            stage.hold(session);
            run_until_the_end(stage, (ioas, link, later));
            Ok(())
        },
        |_| {
            ensure!(!is_master()?, "the device was not stopped");
            let session = retrieve("vfio")?;
            session.retrieve(MEMORY)?;
            let retrieved = session.retrieve(DEVICE).map(drop);
            expect_errno(retrieved, Errno::NOENT, "RETRIEVE_FD of the device")?;
            session.finish()?;
            open_again()
        },
    );
    suite("vfio_skipped", case)
}

/// The device is not retrieved, and its driver is not loaded: it keeps working until the session is
/// finished, and is silenced then.
pub fn forgotten_suite() -> Suite {
    let case = Case::two(
        "never_retrieved",
        |stage| before_with(stage, start(USUAL)?, "vfio", USUAL),
        |_| {
            let session = retrieve("vfio")?;
            ensure!(is_master()?, "the device was stopped");
            pci::mark(pci::AFTER)?;
            ensure!(!vfio::is_loaded(), "the driver is loaded");
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
        |stage| before_with(stage, start(USUAL)?, "vfio", USUAL),
        |_| {
            bind()?;
            let session = retrieve("vfio")?;
            let file = session.retrieve(DEVICE)?;
            // This has retrieved the memory on which it depends.
            session.retrieve(MEMORY)?;
            ensure!(is_master()?, "the device was stopped");
            pci::mark(pci::AFTER)?;
            session.finish()?;
            ensure!(!is_master()?, "the device was not silenced");
            drop(file);
            open_again()
        },
    );
    suite("vfio_unbound", case)
}

/// The retrieved file is bound to an iommufd, but the memory is never mapped, so that it is not
/// pinned when the session is finished: the device is silenced, although user space has it open.
pub fn unmapped_suite() -> Suite {
    let case = Case::two(
        "never_mapped",
        |stage| before_with(stage, start(USUAL)?, "vfio", USUAL),
        |_| {
            bind()?;
            let session = retrieve("vfio")?;
            let ioas = Ioas::new()?;
            let device = VfioDevice::retrieved(session.retrieve(DEVICE)?, &ioas)?;
            session.retrieve(MEMORY)?;
            ensure!(is_master()?, "the device was stopped");
            pci::mark(pci::AFTER)?;
            session.finish()?;
            ensure!(!is_master()?, "the device was not silenced");
            drop(device);
            open_again()
        },
    );
    suite("vfio_unmapped", case)
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

        let (ioas, link) = start(Setup {
            len: SHORT,
            ..USUAL
        })?;
        expect_errno(
            session.preserve(link.igb.device(), 2),
            Errno::NOENT,
            "a device whose memory is not preserved",
        )?;
        session.preserve(link.igb.memory(), 3)?;
        let plain = vec![0u8; 2 * PAGE];
        let start = plain.as_ptr().addr().next_multiple_of(PAGE);
        ioas.map_memory(start as u64, PAGE as u64, ELSEWHERE)?;
        expect_errno(
            session.preserve(link.igb.device(), 2),
            Errno::OPNOTSUPP,
            "a device with memory that is no file",
        )?;
        ioas.unmap(ELSEWHERE, PAGE as u64)?;
        session.preserve(link.igb.device(), 2)?;
        link.receive(1000)?;
        drop(session);
        link.receive(1000)?;
        link.igb.stop()?;
        drop(ioas);
        Ioas::new().map(drop)
    });
    suite("vfio_refused", case)
}
