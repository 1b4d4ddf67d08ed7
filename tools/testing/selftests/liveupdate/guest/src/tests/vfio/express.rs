// SPDX-License-Identifier: GPL-2.0

//! The next kernel does not configure the PCI Express capabilities of a working device or of the
//! port above it, since the previous kernel has done so.

use super::{before_with, start, suite, take_over, variants::open_again, USUAL};
use crate::support::{
    config_space::ConfigSpace,
    error::{ensure, ensure_eq, Result},
    igb::ID,
    pci::{self, PciDevice, PortService},
    registry::{Case, Stage, Suite},
    sessions::{expect_errno, retrieve},
};
use rustix::io::Errno;

/// Saves the configuration spaces of the device and of the bridges above it for the next kernel.
fn put_config(stage: &Stage<'_>) -> Result {
    let spaces = PciDevice::find(ID)?.config_spaces()?;
    stage.put("spaces", spaces.len())?;
    for (number, space) in spaces.iter().enumerate() {
        stage.put(&format!("space-{number}"), space.to_text())?;
    }
    Ok(())
}

/// Fails if a configuration space is not that of the previous kernel.
fn check_config(stage: &Stage<'_>) -> Result {
    let spaces = PciDevice::find(ID)?.config_spaces()?;
    ensure!(spaces.len() > 1, "there is no bridge above the device");
    ensure_eq!(
        spaces.len() as u64,
        stage.get("spaces")?,
        "the number of configuration spaces"
    );
    for (number, space) in spaces.iter().enumerate() {
        let before = ConfigSpace::from_text(&stage.text(&format!("space-{number}"))?)?;
        let changes = before.changes(space);
        ensure!(
            changes.is_empty(),
            "{number} levels above the device, the configuration space was changed: {}",
            changes.join(", ")
        );
    }
    Ok(())
}

/// Fails unless the kernel's own drivers handle the errors and the slot of the port above the device.
fn check_services() -> Result {
    let device = PciDevice::find(ID)?;
    for service in [PortService::Errors, PortService::Hotplug] {
        ensure!(device.port_has(service)?, "{service:?} has no driver");
    }
    Ok(())
}

/// Fails unless the slot of the device cannot be powered off.
fn power_stays_on() -> Result {
    let off = PciDevice::find(ID)?.power_slot_off()?;
    expect_errno(off, Errno::BUSY, "turning the power of the slot off")
}

/// The device is in a slot whose port reports errors. Both kernels have drivers for the port.
pub fn ports_suite() -> Suite {
    let case = Case::two(
        "port_is_left_alone",
        |stage| {
            check_services()?;
            before_with(stage, start(USUAL)?, "vfio", USUAL)?;
            power_stays_on()?;
            put_config(stage)
        },
        |stage| {
            check_services()?;
            check_config(stage)?;
            power_stays_on()?;
            let (_ioas, link) = take_over(stage, "vfio", USUAL)?;
            check_services()?;
            link.igb.stop()
        },
    );
    suite("vfio_ports", case)
}

/// Fails unless turning virtual functions on fails with `errno`.
fn refused(errno: Errno, what: &str) -> Result {
    let device = PciDevice::find(ID)?;
    ensure!(device.total_functions()? > 0, "there are no functions");
    expect_errno(device.enable_functions(1), errno, what)
}

/// The device supports virtual functions: they cannot be turned on while it is preserved, and in
/// the next kernel not before it is discovered again.
pub fn functions_suite() -> Suite {
    let case = Case::two(
        "functions_are_refused",
        |stage| {
            before_with(stage, start(USUAL)?, "vfio", USUAL)?;
            refused(Errno::BUSY, "turning functions on, preserved")?;
            put_config(stage)
        },
        |stage| {
            check_config(stage)?;
            refused(Errno::BUSY, "turning functions on, handed over")?;
            let (_ioas, link) = take_over(stage, "vfio", USUAL)?;
            refused(Errno::OPNOTSUPP, "turning functions on, finished")?;
            link.receive(1000)?;
            link.igb.stop()
        },
    );
    suite("vfio_functions", case)
}

/// The device is silenced, since it is not retrieved. When it is discovered again, it is an ordinary one,
/// which can have virtual functions.
pub fn discovered_suite() -> Suite {
    let case = Case::two(
        "device_is_discovered_again",
        |stage| before_with(stage, start(USUAL)?, "vfio", USUAL),
        |_| {
            pci::mark(pci::AFTER)?;
            retrieve("vfio")?.finish()?;
            refused(Errno::OPNOTSUPP, "turning functions on, finished")?;
            PciDevice::find(ID)?.discover_again()?;
            refused(Errno::NOENT, "turning functions on without a driver")?;
            open_again()
        },
    );
    suite("vfio_discovered", case)
}
