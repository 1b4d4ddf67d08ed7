// SPDX-License-Identifier: GPL-2.0

//! A PCI device that user space drives through VFIO: QEMU's disk `nvme`, which carries out reads while
//! the kernel is replaced.
//!
//! The driver of the machine has the disk take its time, and checks what was written to the
//! configuration space between two marks.

use crate::support::{
    error::{ensure, ensure_eq, Result},
    nvme::{self, Nvme, ID, MOST_READS},
    pci::{self, PciDevice},
    registry::{Case, Stage, Suite},
    sessions::{create, retrieve},
    vfio::{self, DmaMemory, Ioas, VfioDevice},
};
use std::{fs::File, mem, thread::sleep, time::Duration};

/// The group of these suites, which need a machine with the disk.
pub const GROUP: &str = "nvme";

/// The tokens of the files.
const MEMORY: u64 = 1;
const DEVICE: u64 = 2;

/// Starts the device. The address space must exist as long as it works.
fn start() -> Result<(Ioas, Nvme)> {
    let cdev = vfio::bind(ID)?.vfio_cdev()?;
    let ioas = Ioas::new()?;
    let device = VfioDevice::open(&cdev, &ioas)?;
    let memory = DmaMemory::new(DmaMemory::create(Nvme::MEMORY)?, &ioas)?;
    let nvme = Nvme::start(device, memory)?;
    nvme.order(4)?;
    nvme.wait_for_all()?;
    nvme.check(4)?;
    Ok((ioas, nvme))
}

/// The files of a device that are preserved when the kernel is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preserved {
    /// The memory and the device.
    All,
    /// The memory only.
    Memory,
    /// Nothing: the session with both is closed.
    Nothing,
}

/// Preserves the files, and orders many reads from the device.
fn before(stage: &mut Stage<'_>, what: Preserved) -> Result {
    let (ioas, nvme) = start()?;
    let session = create("nvme")?;
    session.preserve(nvme.memory(), MEMORY)?;
    if what != Preserved::Memory {
        session.preserve(nvme.device(), DEVICE)?;
    }
    if what != Preserved::Nothing {
        stage.hold(session);
    }
    stage.last(move || {
        nvme.order(MOST_READS)?;
        nvme.complete()?;
        let result = pci::mark(pci::BEFORE);
        // To close the files would stop the device.
        mem::forget((ioas, nvme));
        result
    });
    Ok(())
}

/// The device continues the reads while the kernel is replaced, and with the next kernel.
pub fn preserved_suite() -> Suite {
    let case = Case::two(
        "reads_are_carried_out",
        |stage| before(stage, Preserved::All),
        |stage| {
            let session = retrieve("nvme")?;
            vfio::bind(ID)?;
            let ioas = Ioas::new()?;
            let device = VfioDevice::retrieved(session.retrieve(DEVICE)?, &ioas)?;
            let memory = DmaMemory::new(session.retrieve(MEMORY)?.into(), &ioas)?;
            let nvme = Nvme::attach(device, memory)?;
            ensure!(nvme.device().is_master()?, "the device was stopped");
            pci::mark(pci::AFTER)?;
            let (before, after) = (nvme.seen(), nvme.complete()?);
            stage.note(format_args!(
                "{before} of {} reads were complete before, {after} are now",
                nvme.ordered()
            ));
            ensure!(before < nvme.ordered(), "all reads were complete before");
            ensure!(after > before, "no read was carried out");
            nvme.wait_for_all()?;
            nvme.check(MOST_READS)?;
            session.finish()?;
            nvme.order(8)?;
            nvme.wait_for_all()?;
            nvme.check(8)?;
            nvme.stop()
        },
    );
    suite("nvme_preserved", case)
}

/// Only the memory is preserved: the device is stopped, and does not report that further reads are
/// complete. (QEMU carries those out for which it has mapped the memory before.)
pub fn stopped_suite() -> Suite {
    let case = Case::two(
        "reads_are_stopped",
        |stage| before(stage, Preserved::Memory),
        |_| {
            let session = retrieve("nvme")?;
            let memory = File::from(session.retrieve(MEMORY)?);
            let before = nvme::completions(&memory)?;
            sleep(Duration::from_secs(2));
            let now = nvme::completions(&memory)?;
            ensure_eq!(now, before, "reads that are complete");
            ensure!(now < MOST_READS, "all reads are complete");
            session.finish()?;
            start()?.1.stop()
        },
    );
    suite("nvme_stopped", case)
}

/// The session is closed before the kexec: the device is stopped.
pub fn closed_suite() -> Suite {
    let case = Case::two(
        "closed_session",
        |stage| before(stage, Preserved::Nothing),
        |_| {
            ensure!(!PciDevice::find(ID)?.is_master()?, "it was not stopped");
            ensure!(retrieve("nvme").is_err(), "there is a session");
            Ok(())
        },
    );
    suite("nvme_closed", case)
}

/// The device is not retrieved, and its driver is not loaded: it keeps working until the session is
/// finished, and is silenced then.
pub fn forgotten_suite() -> Suite {
    let case = Case::two(
        "never_retrieved",
        |stage| before(stage, Preserved::All),
        |_| {
            let session = retrieve("nvme")?;
            let device = PciDevice::find(ID)?;
            ensure!(device.is_master()?, "the device was stopped");
            pci::mark(pci::AFTER)?;
            ensure!(!vfio::is_loaded(), "the driver is loaded");
            session.finish()?;
            ensure!(!device.is_master()?, "the device was not silenced");
            Ok(())
        },
    );
    suite("nvme_forgotten", case)
}

fn suite(name: &'static str, case: Case) -> Suite {
    Suite::on_machine(GROUP, name, case)
}
