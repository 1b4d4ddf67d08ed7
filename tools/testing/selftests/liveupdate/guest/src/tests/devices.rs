// SPDX-License-Identifier: GPL-2.0

//! A PCI device that keeps working through a live update: QEMU's `edu`, with the sample driver.
//!
//! Each suite orders a copy by DMA right before the kexec. It takes 100 ms, so that the device
//! carries it out while no kernel runs, or during the boot of the next one. The driver of the
//! machine checks that it was not complete when the kernel shut the device down, and what was
//! written to the configuration space.

pub mod damage;

use crate::support::{
    edu::{Edu, DEVICE, HALF},
    error::{ensure, ensure_eq, Result},
    pci::{PciDevice, HEADER},
    registry::{Case, Stage, Suite},
    sessions::{create, retrieve},
    wait::eventually,
};
use liveupdate::OutgoingSession;
use std::{fs::File, mem};

/// The group of these suites, which need a machine with the device.
pub const GROUP: &str = "devices";

/// The vendor and the device.
const ID: (u16, u16) = (0x1234, 0x11e8);

/// The headers of the device, and of the bridges above it.
fn headers() -> Result<Vec<[u8; HEADER]>> {
    PciDevice::find(ID)?.headers()
}

/// Bytes of a header that may change: the status, the interrupt disable bit, the secondary status.
const MAY_CHANGE: [usize; 5] = [5, 6, 7, 0x1e, 0x1f];

/// Remembers the headers for the next kernel.
fn put_headers(stage: &Stage<'_>) -> Result {
    for (device, header) in headers()?.into_iter().enumerate() {
        for (at, byte) in header.into_iter().enumerate() {
            stage.put(&format!("header-{device}-{at}"), byte)?;
        }
    }
    Ok(())
}

/// Fails if the headers are not those of the previous kernel.
fn check_headers(stage: &Stage<'_>) -> Result {
    let headers = headers()?;
    ensure!(
        headers.len() >= 3,
        "there are no two bridges above the device"
    );
    for (device, header) in headers.into_iter().enumerate() {
        for (at, byte) in header.into_iter().enumerate() {
            let before = stage.get(&format!("header-{device}-{at}"))?;
            if !MAY_CHANGE.contains(&at) {
                ensure_eq!(u64::from(byte), before, "byte {at:#x} of header {device}");
            }
        }
    }
    Ok(())
}

/// Whether the device may write to memory.
fn is_master() -> Result<bool> {
    PciDevice::find(ID)?.is_master()
}

/// Opens the device, preserves its file, and has it copy to memory right before the kexec.
fn begin(stage: &mut Stage<'_>, name: &str, orders: &[&str]) -> Result<Option<OutgoingSession>> {
    begin_with(Edu::open()?, stage, name, orders)
}

/// The same, with a file.
fn begin_with(
    edu: Edu,
    stage: &mut Stage<'_>,
    name: &str,
    orders: &[&str],
) -> Result<Option<OutgoingSession>> {
    edu.works(1)?;
    edu.send(2)?;
    edu.device.write("factorial 5")?;
    for order in orders {
        edu.device.write(order)?;
    }
    let session = create(name)?;
    session.preserve(&edu.device, 1)?;
    put_headers(stage)?;
    stage.last(move || {
        let result = edu.device.write("receive");
        // Closing the file would wait for the copy.
        mem::forget(edu);
        result
    });
    Ok(Some(session))
}

/// Retrieves the file.
fn take(name: &str) -> Result<(liveupdate::IncomingSession, Edu)> {
    let session = retrieve(name)?;
    let edu = Edu::new(session.retrieve(1)?)?;
    edu.device.write("wait")?;
    Ok((session, edu))
}

fn suite(name: &'static str, case: Case) -> Suite {
    Suite::on_machine(GROUP, name, case)
}

/// Retrieves the file of a device that kept working, and checks that the copy has arrived in its
/// buffer.
fn take_working(stage: &Stage<'_>, name: &str) -> Result<Edu> {
    check_headers(stage)?;
    let busy = File::open(DEVICE).err().and_then(|e| e.raw_os_error());
    ensure_eq!(busy, Some(libc::EBUSY), "the error of open()");
    let (session, edu) = take(name)?;
    ensure_eq!(edu.received(2), HALF, "bytes that arrived");
    ensure_eq!(edu.device.value()?, 120, "the register of the factorial");
    eventually("the interrupt of the copy is missing", || {
        Ok(edu.interrupts()? > 0)
    })?;
    check_headers(stage)?;
    edu.works(3)?;
    session.finish()?;
    Ok(edu)
}

/// The device keeps working, and the copy arrives in the buffer, through two live updates.
pub fn preserved_suite() -> Suite {
    let mut case = Case::two(
        "dma_arrives",
        |stage| {
            let session = begin(stage, "edu", &[])?;
            stage.hold(session);
            Ok(())
        },
        |stage| {
            let edu = take_working(stage, "edu")?;
            let session = begin_with(edu, stage, "edu-again", &[])?;
            stage.hold(session);
            Ok(())
        },
    );
    case.parts
        .push(Box::new(|stage| take_working(stage, "edu-again")?.works(4)));
    suite("edu_preserved", case)
}

/// Only the buffer is preserved: the device is stopped, and nothing arrives.
pub fn stopped_suite() -> Suite {
    let case = Case::two(
        "dma_is_stopped",
        |stage| {
            let session = begin(stage, "edu", &["keep off"])?;
            stage.hold(session);
            Ok(())
        },
        |_| {
            let (session, edu) = take("edu")?;
            ensure!(edu.received(2) < HALF / 2, "the device was not stopped");
            edu.works(3)?;
            Ok(session.finish()?)
        },
    );
    suite("edu_stopped", case)
}

/// The session is closed before the kexec: the device is stopped as any other.
pub fn closed_suite() -> Suite {
    let case = Case::two(
        "session_is_closed",
        |stage| {
            drop(begin(stage, "edu", &[])?);
            Ok(())
        },
        |_| {
            let edu = Edu::open()?;
            edu.works(3)
        },
    );
    suite("edu_closed", case)
}

/// The file is not retrieved: the device is silenced when the session is finished.
pub fn forgotten_suite() -> Suite {
    let case = Case::two(
        "device_is_silenced",
        |stage| {
            let session = begin(stage, "edu", &[])?;
            stage.hold(session);
            Ok(())
        },
        |stage| {
            check_headers(stage)?;
            ensure!(is_master()?, "the device was stopped");
            retrieve("edu")?.finish()?;
            ensure!(!is_master()?, "the device was not silenced");
            Ok(())
        },
    );
    suite("edu_forgotten", case)
}

/// The file is not retrieved in the second kernel: it is carried over, and the device keeps
/// working.
pub fn carried_suite() -> Suite {
    let mut case = Case::two(
        "device_is_carried_over",
        |stage| {
            let session = begin(stage, "edu", &[])?;
            stage.hold(session);
            Ok(())
        },
        |stage| {
            check_headers(stage)?;
            ensure!(is_master()?, "the device was stopped");
            put_headers(stage)
        },
    );
    case.parts.push(Box::new(|stage| {
        check_headers(stage)?;
        let (session, edu) = take("edu")?;
        ensure_eq!(edu.received(2), HALF, "bytes that arrived");
        ensure_eq!(edu.device.value()?, 120, "the register of the factorial");
        edu.works(3)?;
        session.finish()?;
        edu.works(4)
    }));
    suite("edu_carried", case)
}
