// SPDX-License-Identifier: GPL-2.0

//! Handlers in C and in Rust together.

pub mod dependencies;

use crate::support::{
    error::{ensure_eq, At, Failure},
    memfd,
    pattern::Pattern,
    registry::{Case, Suite},
    sessions::{create, expect_errno, retrieve},
    test_device::{load_handler, open_test_device, TestDevice, NO_HANDLER},
};
use crate::tests::hazards::not_in_c;
use rustix::io::Errno;
use std::io::{self, Write};

const MEMORY: Pattern = Pattern {
    seed: 300,
    len: 70_000,
};

/// Files of three handlers in one session.
fn side_by_side() -> Case {
    Case::two(
        "c_and_rust_side_by_side",
        |stage| {
            let (c, rust) = (
                TestDevice::open(TestDevice::C)?,
                TestDevice::open(TestDevice::RUST)?,
            );
            c.write("4711")?;
            rust.write("815")?;
            let memory = memfd::with(MEMORY)?;
            let session = create("handlers")?;
            session.preserve(&c, 1)?;
            session.preserve(&memory, 2)?;
            session.preserve(&rust, 3)?;
            stage.hold((session, c, memory, rust));
            Ok(())
        },
        |_| {
            load_handler(TestDevice::RUST)?;
            let session = retrieve("handlers")?;
            let rust = TestDevice::from(session.retrieve(3)?);
            let c = TestDevice::from(session.retrieve(1)?);
            memfd::check(session.retrieve(2)?, MEMORY)?;
            ensure_eq!(c.value()?, 4711, "the value in C");
            ensure_eq!(rust.value()?, 815, "the value in Rust");
            session.finish()?;
            c.write("1")?;
            rust.write("2")?;
            ensure_eq!(
                (c.value()?, rust.value()?),
                (1, 2),
                "the pair of new values"
            );
            Ok(())
        },
    )
}

/// The value at the time of the freeze is handed over.
fn late_value(name: &'static str, path: &'static str) -> Case {
    Case::two(
        name,
        move |stage| {
            let device = TestDevice::open(path)?;
            device.write("1")?;
            let session = create(name)?;
            session.preserve(&device, 1)?;
            device.write("2")?;
            stage.hold((session, device));
            Ok(())
        },
        move |_| {
            load_handler(path)?;
            let session = retrieve(name)?;
            let device = TestDevice::from(session.retrieve(1)?);
            ensure_eq!(device.value()?, 2, "the value");
            Ok(session.finish()?)
        },
    )
}

/// Several files of one handler are different files.
fn many(name: &'static str, path: &'static str) -> Case {
    Case::two(
        name,
        move |stage| {
            let session = create(name)?;
            for token in 0..20 {
                let device = TestDevice::open(path)?;
                device.write(&(1000 + token).to_string())?;
                session.preserve(&device, token)?;
                stage.hold(device);
            }
            stage.hold(session);
            Ok(())
        },
        move |_| {
            load_handler(path)?;
            let session = retrieve(name)?;
            for token in (0..20).rev() {
                let device = TestDevice::from(session.retrieve(token)?);
                ensure_eq!(device.value()?, 1000 + token, "the value of file {token}");
            }
            Ok(session.finish()?)
        },
    )
}

/// After a temporary failure of a handler, the file can be retrieved.
fn transient_failure() -> Case {
    Case::two(
        "transient_failure_to_retrieve",
        |stage| {
            let device = TestDevice::open(TestDevice::C)?;
            device.write("99")?;
            device.write("fail-retrieve-once 12")?;
            let session = create("handlers-transient")?;
            session.preserve(&device, 1)?;
            stage.hold((session, device));
            Ok(())
        },
        |_| {
            let session = retrieve("handlers-transient")?;
            expect_errno(session.retrieve(1), Errno::NOMEM, "the first RETRIEVE_FD")?;
            let device = TestDevice::from(session.retrieve(1)?);
            ensure_eq!(device.value()?, 99, "the value");
            Ok(session.finish()?)
        },
    )
}

/// If a file cannot be retrieved, only this file is lost.
fn permanent_failure() -> Case {
    Case::two(
        "permanent_failure_to_retrieve",
        |stage| {
            let (bad, good) = (
                TestDevice::open(TestDevice::C)?,
                TestDevice::open(TestDevice::C)?,
            );
            bad.write("fail-retrieve 5")?;
            good.write("7")?;
            let session = create("handlers-permanent")?;
            session.preserve(&bad, 1)?;
            session.preserve(&good, 2)?;
            stage.hold((session, bad, good));
            Ok(())
        },
        |_| {
            let session = retrieve("handlers-permanent")?;
            for _ in 0..2 {
                expect_errno(
                    session.retrieve(1),
                    Errno::IO,
                    "RETRIEVE_FD of the bad file",
                )?;
            }
            let good = TestDevice::from(session.retrieve(2)?);
            ensure_eq!(good.value()?, 7, "the value of the good file");
            Ok(session.finish()?)
        },
    )
}

/// A session that is not ready to be finished can still be used, also after it was closed.
fn not_ready() -> Case {
    Case::two(
        "finish_refused_twice",
        |stage| {
            let device = TestDevice::open(TestDevice::C)?;
            device.write("31")?;
            device.write("fail-can-finish 2")?;
            let memory = memfd::with(MEMORY)?;
            let session = create("handlers-not-ready")?;
            session.preserve(&memory, 1)?;
            session.preserve(&device, 2)?;
            stage.hold((session, device, memory));
            Ok(())
        },
        |_| {
            let mut session = retrieve("handlers-not-ready")?;
            for _ in 0..2 {
                session = match session.finish() {
                    Ok(()) => return Err(Failure::new("FINISH succeeded too early")),
                    Err(error) => error.into_session(),
                };
                memfd::check(session.retrieve(1)?, MEMORY)?;
                drop(session);
                session = retrieve("handlers-not-ready")?;
            }
            Ok(session.finish()?)
        },
    )
    .hazard_unseen("1A.11", NO_HANDLER)
}

/// A refusal of a handler leaves no state.
fn preserve_fails() -> Case {
    Case::one("preserve_fails_once", |_| {
        let device = TestDevice::open(TestDevice::C)?;
        device.write("fail-preserve 6")?;
        let session = create("handlers-preserve-fails")?;
        let result: io::Result<()> = session.preserve(&device, 1);
        expect_errno(result, Errno::NXIO, "PRESERVE_FD")?;
        device.write("fail-preserve 0")?;
        Ok(session.preserve(&device, 1)?)
    })
}

/// A failure to preserve folios does not unpreserve other folios.
fn rollback() -> Case {
    Case::one("failure_takes_back_nothing_else", |_| {
        let mut device = open_test_device(TestDevice::C)?;
        match device.write_all(b"rollback") {
            Err(error) if liveupdate::errno(&error) == Some(libc::EOPNOTSUPP) => Err(
                Failure::skip("this kernel was built without the check, or would print a warning"),
            ),
            result => result.at("kho_preserve_folios()"),
        }
    })
    .hazard_unseen("5.14", not_in_c::NO_BATCHES)
}

pub fn suite() -> Suite {
    let mut cases = vec![
        rollback(),
        side_by_side(),
        late_value("late_value_c", TestDevice::C),
        late_value("late_value_rust", TestDevice::RUST),
        many("many_files_c", TestDevice::C),
        many("many_files_rust", TestDevice::RUST),
        transient_failure(),
        permanent_failure(),
        not_ready(),
        preserve_fails(),
    ];
    cases.extend(dependencies::cases());
    cases.extend(super::vital::cases());
    Suite::new("handlers", cases)
}
