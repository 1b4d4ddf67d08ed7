// SPDX-License-Identifier: GPL-2.0

//! The driver comes late, or the device does not come at all.

use super::{after, before_with, forced, preserve, start, suite, DEVICE, MEMORY, USUAL};
use crate::support::{
    error::{ensure, Result},
    igb::ID,
    pci::PciDevice,
    registry::{Case, Stage, Suite},
    sessions::{expect_errno, retrieve},
    vfio,
};
use rustix::io::Errno;
use std::{fs::File, mem, thread::sleep, time::Duration};

/// How long the driver is not loaded.
const LATE: Duration = Duration::from_secs(30);

/// The device keeps working without a driver, until one is loaded.
pub fn late_suite() -> Suite {
    let case = Case::two(
        "driver_is_loaded_late",
        |stage| before_with(stage, start(USUAL)?, "vfio", USUAL),
        |stage| {
            sleep(LATE);
            ensure!(!vfio::is_loaded(), "the driver is loaded");
            let device = PciDevice::find(ID)?;
            ensure!(!device.has_driver(), "the device has a driver");
            ensure!(device.is_master()?, "the device was stopped");
            after(stage, "vfio", USUAL)
        },
    );
    suite("vfio_late", case)
}

/// Preserves the memory and the file of the device, and has it taken away after that.
fn before_unplugged(stage: &mut Stage<'_>) -> Result {
    let (ioas, link) = start(USUAL)?;
    stage.hold(preserve(&link, "vfio")?);
    stage.last(move || {
        let result = PciDevice::find(ID)?.unplug();
        mem::forget((ioas, link));
        result
    });
    Ok(())
}

/// The device was unplugged when the next kernel looks for it.
pub fn unplugged_suite() -> Suite {
    let case = Case::two("device_is_unplugged", before_unplugged, |_| {
        ensure!(PciDevice::find(ID).is_err(), "the device is there");
        vfio::load_modules()?;
        let session = retrieve("vfio")?;
        let memory = forced::Mapped::new(&File::from(session.retrieve(MEMORY)?))?;
        let frames = memory.frames()?;
        let retrieved = session.retrieve(DEVICE).map(drop);
        expect_errno(retrieved, Errno::NODEV, "RETRIEVE_FD of the device")?;
        drop(memory);
        session.finish()?;
        // A device that has disappeared cannot be stopped: its memory stays reserved.
        forced::fill(&frames)
    });
    suite("vfio_unplugged", case)
}
