// SPDX-License-Identifier: GPL-2.0

//! The data of a working device cannot be used, or is wrong.
//!
//! The next kernel must boot, and must silence devices for which it has no valid data before it
//! frees memory. The driver of the machine checks which devices were silenced, and that nothing
//! else was written to them before.

use super::{begin, suite};
use crate::{
    support::{
        edu::{Edu, DEVICE},
        error::{ensure_eq, Result},
        kexec,
        registry::{Case, Stage, Suite},
        sessions::{expect_errno, retrieve},
    },
    tests::damage::fate::{damage, reported},
};
use rustix::io::Errno;
use std::fs::File;

/// The name of the FLB with the table of devices.
const FLB: &str = "luo-pci-v2";

/// The fields of an entry of the table of devices, by the number of the entry: the device is the
/// first one, then come the bridge above it and the root port.
fn field(size: &str, entry: usize, offset: usize) -> String {
    const HEADER: usize = 8;
    const ENTRY: usize = 96;
    let offset = HEADER + entry * ENTRY + offset;
    format!("{size} {offset} u64 0 flb {FLB} data")
}

/// The bus, the device and the function.
const BDF: usize = 4;
/// Vendor and device.
const ID: usize = 8;
/// The ACS control register.
const ROUTING: usize = 92;
/// The bus numbers of a bridge.
const BUSES: usize = 28;

/// The device copies when the kernel is replaced, with data that is damaged.
fn before(stage: &mut Stage<'_>, lines: &[String]) -> Result {
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    damage("edu", &lines)?;
    let session = begin(stage, "edu", &[])?;
    stage.hold(session);
    Ok(())
}

/// The file of the device cannot be retrieved, the session ends, and the device works for others.
fn after(errno: Errno, words: &[&str]) -> Result {
    reported(words)?;
    let session = retrieve("edu")?;
    expect_errno(session.retrieve(1), errno, "RETRIEVE_FD")?;
    session.finish()?;
    Edu::open()?.works(3)
}

fn case(
    name: &'static str,
    lines: impl IntoIterator<Item = String>,
    errno: Errno,
    words: &'static [&'static str],
) -> Case {
    let lines: Vec<_> = lines.into_iter().collect();
    Case::two(
        name,
        move |stage| before(stage, &lines),
        move |_| after(errno, words),
    )
}

/// The next kernel does not support the format of the devices: it has no FLB of this name.
pub fn version_suite() -> Suite {
    let lines = ["flb", "policy"].map(|list| format!("{list} {FLB} name = \"luo-pci-v9\""));
    let words = &["cannot use 'luo-pci-v9'", "does not support"];
    suite(
        "edu_version",
        case("other_version", lines, Errno::NOENT, words),
    )
}

/// The list of vital data names the FLB of the devices, but there is none of this name.
pub fn missing_suite() -> Suite {
    let lines = [format!("flb {FLB} name = \"luo-pci-v9\"")];
    let words = &["cannot use 'luo-pci-v2'", "not in the list of FLBs"];
    suite(
        "edu_missing",
        case("flb_is_missing", lines, Errno::NOENT, words),
    )
}

/// Two entries have the same address, so that one device is missing.
pub fn twice_suite() -> Suite {
    let lines = [format!(
        "{} = {}",
        field("u16", 1, BDF),
        field("u16", 0, BDF)
    )];
    let words = &["cannot read which devices"];
    suite(
        "edu_twice",
        case("same_address_twice", lines, Errno::NOENT, words),
    )
}

/// The bridge has no bus numbers in its entry: the entry of the device below it is not used
/// either.
pub fn bus_zero_suite() -> Suite {
    let lines = [format!("{} = 0", field("u32", 1, BUSES))];
    let words = &["the bridge above it is not as described"];
    suite(
        "edu_bus_zero",
        case("bus_numbers_are_zero", lines, Errno::NODEV, words),
    )
}

/// The ACS control register of the root port differs from its entry: no device below it is used.
pub fn routing_suite() -> Suite {
    let lines = [format!("{} = 0x7f", field("u32", 2, ROUTING))];
    let words = &["its ACS or ARI control has changed"];
    suite(
        "edu_routing",
        case("other_routing", lines, Errno::NODEV, words),
    )
}

/// The entry of the device is for a bus that does not exist: it is not described.
pub fn bus_range_suite() -> Suite {
    let lines = [format!("{} = 0xff00", field("u16", 0, BDF))];
    let words = &["silenced: nothing is known about it"];
    suite(
        "edu_bus_range",
        case("bus_is_out_of_range", lines, Errno::NOENT, words),
    )
}

/// The entry is that of another device: only that one is silenced.
pub fn other_suite() -> Suite {
    let lines = [format!("{} = 0x11e91234", field("u32", 0, ID))];
    let words = &["silenced: it is another device"];
    suite(
        "edu_other",
        case("other_device", lines, Errno::NODEV, words),
    )
}

/// Live updates are off in the next kernel.
pub fn off_suite() -> Suite {
    let case = Case::two(
        "live_updates_are_off",
        |stage| {
            kexec::add_param("liveupdate=off")?;
            before(stage, &[])
        },
        |_| {
            reported(&["cannot use 'luo-pci-v2'", "liveupdate=on is missing"])?;
            Edu::open()?.works(3)
        },
    );
    suite("edu_off", case)
}

/// The next kernel has no handler for the file: the device keeps working, and the memory stays
/// reserved.
pub fn handler_suite() -> Suite {
    let case = Case::two(
        "handler_is_missing",
        |stage| {
            before(
                stage,
                &["file @ 1 compatible = \"edu-of-others-v1\"".to_owned()],
            )
        },
        |_| {
            let session = retrieve("edu")?;
            expect_errno(session.retrieve(1), Errno::OPNOTSUPP, "RETRIEVE_FD")?;
            session.finish()?;
            reported(&["cannot be freed", "edu-of-others-v1"])?;
            let busy = File::open(DEVICE).err().and_then(|e| e.raw_os_error());
            ensure_eq!(busy, Some(libc::EBUSY), "the error of open()");
            Ok(())
        },
    );
    suite("edu_handler", case)
}
