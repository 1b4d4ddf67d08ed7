// SPDX-License-Identifier: GPL-2.0

//! Vital data: a kernel that cannot use it panics, or silences devices.

use crate::{
    support::{
        error::{ensure_eq, Failure, Result},
        kexec,
        registry::{Case, Stage, Suite},
        sessions::{create, expect_errno, retrieve},
        test_device::TestDevice,
    },
    tests::damage::fate::{damage, reported},
};
use liveupdate::Policy;
use rustix::io::Errno;
use std::io::{self, Write};

/// Suites whose last kernel panics, which the driver of the machine checks.
const GROUP: &str = "panic";

/// Preserves a file of a handler whose data is vital.
fn preserve(stage: &mut Stage<'_>, name: &str, lines: &[&str]) -> Result {
    let device = TestDevice::open(TestDevice::C)?;
    device.write("31")?;
    for line in lines {
        device.write(line)?;
    }
    let session = create(name)?;
    session.preserve(&device, 1)?;
    stage.hold((session, device));
    Ok(())
}

/// Announces the panic of the kernel.
fn expect_panic(name: &str, why: &str) {
    println!("# expect-panic liveupdate: cannot use '{name}' of the previous kernel: {why}");
    let _ = io::stdout().flush();
}

/// A kernel that can use the data continues.
fn understood() -> Case {
    Case::two(
        "vital_data_is_understood",
        |stage| preserve(stage, "vital", &["vital 1"]),
        |_| {
            let session = retrieve("vital")?;
            let device = TestDevice::from(session.retrieve(1)?);
            ensure_eq!(device.value()?, 31, "the value");
            Ok(session.finish()?)
        },
    )
}

/// A kexec that fails does not prevent the next one, although its names of vital data exist already.
fn aborted() -> Case {
    Case::two(
        "vital_data_after_a_kexec_that_fails",
        |stage| {
            preserve(stage, "vital-aborted", &["vital 1"])?;
            let device = TestDevice::open(TestDevice::C)?;
            device.write("33")?;
            let session = create("vital-aborted-fails")?;
            session.preserve(&device, 1)?;
            kexec::Plan::dry()?.load()?;
            device.write("fail-freeze 5")?;
            for nth in ["first", "second", "third"] {
                let result: io::Result<()> = Err(kexec::try_jump());
                expect_errno(result, Errno::IO, &format!("the {nth} reboot(KEXEC)"))?;
            }
            Ok(())
        },
        |_| {
            let session = retrieve("vital-aborted")?;
            let device = TestDevice::from(session.retrieve(1)?);
            ensure_eq!(device.value()?, 31, "the value");
            Ok(session.finish()?)
        },
    )
}

/// Vital data that is not handed over has no effect.
fn closed() -> Case {
    Case::two(
        "vital_data_is_not_handed_over",
        |_| {
            let device = TestDevice::open(TestDevice::C)?;
            device.write("vital 2")?;
            Ok(create("vital-closed")?.preserve(&device, 1)?)
        },
        |_| Ok(()),
    )
}

/// The same of a file that could not be frozen, and of the FLB that only it needs.
fn skipped() -> Case {
    Case::two(
        "vital_data_is_skipped",
        |stage| {
            let session = create("vital-skipped")?;
            session.set_policy(Policy::Skip)?;
            for (token, kind) in [(1, "vital 2"), (2, "vital 3")] {
                let device = TestDevice::open(TestDevice::C)?;
                device.write(kind)?;
                device.write("fail-freeze 5")?;
                session.preserve(&device, token)?;
            }
            let device = TestDevice::open(TestDevice::C)?;
            device.write("32")?;
            session.preserve(&device, 3)?;
            stage.hold((session, device));
            Ok(())
        },
        |_| {
            let session = retrieve("vital-skipped")?;
            let device = TestDevice::from(session.retrieve(3)?);
            ensure_eq!(device.value()?, 32, "the value");
            Ok(session.finish()?)
        },
    )
}

/// A kernel that cannot use the data silences devices, and continues.
fn silenced() -> Case {
    Case::two(
        "devices_are_silenced",
        |stage| preserve(stage, "silenced", &["vital 4"]),
        |_| {
            reported(&["luo-test-silenced-v1", "does not support", "silenced"])?;
            let session = retrieve("silenced")?;
            let device = TestDevice::from(session.retrieve(1)?);
            ensure_eq!(device.value()?, 31, "the value");
            Ok(session.finish()?)
        },
    )
}

pub fn cases() -> Vec<Case> {
    vec![understood(), aborted(), closed(), skipped(), silenced()]
}

fn suite(name: &'static str, case: Case) -> Suite {
    Suite {
        group: GROUP,
        // A suite with parameters only runs if it is named.
        cmdline: "liveupdate=on",
        ..Suite::new(name, vec![case])
    }
}

/// The next kernel has no handler of this name.
pub fn unknown_suite() -> Suite {
    let case = Case::two(
        "unknown_format",
        |stage| {
            preserve(stage, "vital-unknown", &["vital 2"])?;
            expect_panic("luo-test-vital-v2", "this kernel does not support it");
            Ok(())
        },
        |_| Err(Failure::new("the kernel continues")),
    );
    suite("vital_unknown", case)
}

/// The next kernel has no FLB of this name, on which a file depends that is not vital itself.
pub fn flb_suite() -> Suite {
    let case = Case::two(
        "unknown_flb",
        |stage| {
            preserve(stage, "vital-flb", &["vital 3"])?;
            expect_panic("luo-test-vital-flb-v1", "this kernel does not support it");
            Ok(())
        },
        |_| Err(Failure::new("the kernel continues")),
    );
    suite("vital_flb", case)
}

/// A kernel that can use the data carries it over to one that does not read it.
pub fn carried_suite() -> Suite {
    let mut case = Case::two(
        "carried_over",
        |stage| preserve(stage, "vital-carried", &["vital 1"]),
        |_| {
            kexec::add_param("liveupdate=off")?;
            expect_panic("luo-test-vital-v1", "liveupdate=on is missing");
            Ok(())
        },
    );
    let continues = |_: &mut Stage<'_>| Err(Failure::new("the kernel continues"));
    case.parts.push(Box::new(continues));
    suite("vital_carried", case)
}

/// Live updates are disabled in the next kernel, so that it does not read the data.
pub fn off_suite() -> Suite {
    let case = Case::two(
        "live_updates_are_off",
        |stage| {
            preserve(stage, "vital-off", &["vital 1"])?;
            kexec::add_param("liveupdate=off")?;
            expect_panic("luo-test-vital-v1", "liveupdate=on is missing");
            Ok(())
        },
        |_| Err(Failure::new("the kernel continues")),
    );
    suite("vital_off", case)
}

/// The next kernel cannot read the sessions, and therefore not the data.
pub fn version_suite() -> Suite {
    let case = Case::two(
        "other_version",
        |stage| {
            damage("vital-version", &["root compatible = \"luo-v6\""])?;
            preserve(stage, "vital-version", &["vital 1"])?;
            expect_panic("luo-test-vital-v1", "the sessions cannot be read");
            Ok(())
        },
        |_| Err(Failure::new("the kernel continues")),
    );
    suite("vital_version", case)
}

/// The next kernel has the handler, but the data is damaged.
pub fn failed_suite() -> Suite {
    let case = Case::two(
        "permanent_failure",
        |stage| {
            preserve(stage, "vital-failed", &["vital 1", "fail-retrieve 5"])?;
            expect_panic("luo-test-vital-v1", "it cannot be retrieved");
            Ok(())
        },
        |_| {
            let result = retrieve("vital-failed")?.retrieve(1);
            Err(Failure::new(format!("RETRIEVE_FD returns {result:?}")))
        },
    );
    suite("vital_failed", case)
}
