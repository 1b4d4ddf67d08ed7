// SPDX-License-Identifier: GPL-2.0

//! Files that depend on other files of their session.

use crate::support::{
    error::{ensure, ensure_eq, At, Failure, Result},
    memfd,
    pattern::Pattern,
    registry::{Case, Stage},
    sessions::{create, expect_errno, fdinfo, retrieve},
    test_device::{load_handler, TestDevice},
};
use liveupdate::{IncomingSession, OutgoingSession, Policy};
use rustix::io::Errno;
use std::{
    error::Error,
    io,
    os::fd::{AsFd, AsRawFd},
};

const MEMORY: Pattern = Pattern {
    seed: 320,
    len: 50_000,
};

/// Preserves a file of the test handler, after writing commands to it.
fn preserve(
    stage: &mut Stage<'_>,
    session: &OutgoingSession,
    token: u64,
    lines: &[&str],
) -> Result {
    let device = TestDevice::open(TestDevice::C)?;
    device.write(&(1000 + token).to_string())?;
    for line in lines {
        device.write(line)?;
    }
    session.preserve(&device, token).at(token)?;
    stage.hold(device);
    Ok(())
}

/// A memfd with token 1, a file with token 2 that depends on it, and one with token 3 that depends on
/// the latter.
pub fn fill_chain(stage: &mut Stage<'_>, name: &str) -> Result {
    let session = create(name)?;
    let memory = memfd::with(MEMORY)?;
    session.preserve(&memory, 1)?;
    preserve(stage, &session, 2, &["needs 1"])?;
    preserve(stage, &session, 3, &["needs 2"])?;
    stage.hold((session, memory));
    Ok(())
}

/// Retrieves the files of [`fill_chain`] and finishes the session.
pub fn take_chain(session: IncomingSession) -> Result {
    for token in [3, 2] {
        let device = TestDevice::from(session.retrieve(token).at(token)?);
        ensure_eq!(device.value()?, 1000 + token, "the value of file {token}");
    }
    memfd::check(session.retrieve(1)?, MEMORY)?;
    Ok(session.finish()?)
}

/// FINISH fails; the session is as before.
pub fn not_finished(session: IncomingSession) -> Result<IncomingSession> {
    match session.finish() {
        Ok(()) => Err(Failure::new("FINISH succeeded although a file is missing")),
        Err(error) => {
            let source = error.source().and_then(|s| s.downcast_ref::<io::Error>());
            let errno = source.and_then(liveupdate::errno);
            ensure_eq!(errno, Some(libc::EBUSY), "the error of FINISH");
            Ok(error.into_session())
        }
    }
}

/// The state of a file according to the session.
fn state(session: &IncomingSession, token: u64) -> Result<String> {
    let start = format!("token {token} ");
    let lines = fdinfo(session)?;
    let line = lines
        .into_iter()
        .find(|(key, value)| key == "luo-file" && value.starts_with(&start));
    let (_, value) = line.at("fdinfo does not have the file")?;
    Ok(value.split_once("state ").at("no state")?.1.into())
}

/// A file can only depend on files that are already preserved.
fn preserved_in_order() -> Case {
    Case::one("dependency_is_preserved_first", |_| {
        for path in [TestDevice::C, TestDevice::RUST] {
            let session = create("needs-order")?;
            let (device, other) = (TestDevice::open(path)?, TestDevice::open(path)?);
            device.write(if path == TestDevice::C {
                "needs 7"
            } else {
                "1 of 7"
            })?;
            expect_errno(session.preserve(&device, 1), Errno::NOENT, "of nothing")?;
            expect_errno(session.preserve(&device, 7), Errno::NOENT, "of itself")?;
            // A file of another session is not sufficient.
            let elsewhere = create("needs-elsewhere")?;
            elsewhere.preserve(&other, 7)?;
            expect_errno(session.preserve(&device, 1), Errno::NOENT, "of elsewhere")?;
            drop(elsewhere);
            session.preserve(&other, 7)?;
            session.preserve(&device, 1)?;
        }
        Ok(())
    })
}

/// A chain that is too long for the next kernel is refused.
fn too_long() -> Case {
    Case::one("chain_of_dependencies_is_limited", |stage| {
        let session = create("needs-limit")?;
        preserve(stage, &session, 1, &[])?;
        for token in 2..=8 {
            preserve(stage, &session, token, &[&format!("needs {}", token - 1)])?;
        }
        let device = TestDevice::open(TestDevice::C)?;
        device.write("needs 8")?;
        expect_errno(session.preserve(&device, 9), Errno::LOOP, "the ninth file")?;
        device.write("needs 7")?;
        Ok(session.preserve(&device, 9)?)
    })
}

/// The longest chain is retrieved at once.
fn longest() -> Case {
    Case::two(
        "longest_chain",
        |stage| {
            let session = create("needs-longest")?;
            preserve(stage, &session, 1, &[])?;
            for token in 2..=8 {
                preserve(stage, &session, token, &[&format!("needs {}", token - 1)])?;
            }
            stage.hold(session);
            Ok(())
        },
        |_| {
            let mut session = retrieve("needs-longest")?;
            for token in (1..=8).rev() {
                let device = TestDevice::from(session.retrieve(token).at(token)?);
                ensure_eq!(device.value()?, 1000 + token, "the value of file {token}");
                if token > 1 {
                    session = not_finished(session)?;
                }
            }
            Ok(session.finish()?)
        },
    )
}

/// The files are retrieved in any order, and finished only as a whole.
fn any_order() -> Case {
    Case::two(
        "retrieved_in_any_order",
        |stage| fill_chain(stage, "needs-any-order"),
        |_| {
            let mut session = retrieve("needs-any-order")?;
            // The kernel retrieves the others as well, but returns no descriptors of them.
            drop(session.retrieve(3)?);
            for token in 1..=3 {
                ensure_eq!(state(&session, token)?, "retrieved", "file {token}");
            }
            session = not_finished(session)?;
            // Closing it does not lose the missing files.
            drop(session);
            session = not_finished(retrieve("needs-any-order")?)?;
            memfd::check(session.retrieve(1)?, MEMORY)?;
            take_chain(not_finished(session)?)
        },
    )
}

/// A graph can be finished if none of its files was retrieved, or without its dependent files.
fn not_needed() -> Case {
    Case::two(
        "finished_without_dependent_files",
        |stage| {
            fill_chain(stage, "needs-none")?;
            fill_chain(stage, "needs-part")
        },
        |_| {
            retrieve("needs-none")?.finish()?;
            let session = retrieve("needs-part")?;
            memfd::check(session.retrieve(1)?, MEMORY)?;
            Ok(session.finish()?)
        },
    )
}

/// Malformed data of another kernel: dependencies on the file itself, in a circle, and on a file
/// that does not exist.
fn circles() -> Case {
    Case::two(
        "circles_of_the_previous_kernel",
        |stage| {
            let session = create("needs-circle")?;
            preserve(stage, &session, 1, &["asks 1"])?;
            preserve(stage, &session, 2, &["asks 3"])?;
            preserve(stage, &session, 3, &["asks 2"])?;
            preserve(stage, &session, 4, &["asks 99"])?;
            preserve(stage, &session, 5, &[])?;
            stage.hold(session);
            Ok(())
        },
        |_| {
            let session = retrieve("needs-circle")?;
            for _ in 0..2 {
                for token in 1..=3 {
                    expect_errno(session.retrieve(token), Errno::LOOP, "RETRIEVE_FD")?;
                }
                expect_errno(session.retrieve(4), Errno::NOENT, "RETRIEVE_FD of file 4")?;
            }
            ensure_eq!(
                state(&session, 2)?,
                format!("failed error -{}", libc::ELOOP),
                "file 2"
            );
            session.retrieve(5)?;
            Ok(session.finish()?)
        },
    )
}

/// A failure of the other file is temporary or permanent for both.
fn failures() -> Case {
    Case::two(
        "failure_of_a_dependency",
        |stage| {
            let session = create("needs-failure")?;
            preserve(stage, &session, 1, &["fail-retrieve-once 12"])?;
            preserve(stage, &session, 2, &["needs 1"])?;
            preserve(stage, &session, 3, &["fail-retrieve 5"])?;
            preserve(stage, &session, 4, &["needs 3"])?;
            stage.hold(session);
            Ok(())
        },
        |_| {
            let session = retrieve("needs-failure")?;
            expect_errno(session.retrieve(2), Errno::NOMEM, "the first RETRIEVE_FD")?;
            session.retrieve(2)?;
            session.retrieve(1)?;
            expect_errno(session.retrieve(4), Errno::IO, "RETRIEVE_FD of file 4")?;
            for token in [3, 4] {
                let line = state(&session, token)?;
                ensure!(line.starts_with("failed"), "file {token}: {line}");
            }
            Ok(session.finish()?)
        },
    )
}

/// A kexec that skips a file also skips those that depend on it.
fn skipped() -> Case {
    Case::two(
        "skipped_with_its_dependency",
        |stage| {
            let session = create("needs-skipped")?;
            session.set_policy(Policy::Skip)?;
            preserve(stage, &session, 1, &["fail-freeze 5"])?;
            preserve(stage, &session, 2, &["needs 1"])?;
            preserve(stage, &session, 3, &["needs 2"])?;
            preserve(stage, &session, 4, &[])?;
            stage.hold(session);
            Ok(())
        },
        |_| {
            let session = retrieve("needs-skipped")?;
            let files = ("luo-files".into(), "1".into());
            ensure!(
                fdinfo(&session)?.contains(&files),
                "other files than file 4 were handed over"
            );
            for token in 1..=3 {
                expect_errno(session.retrieve(token), Errno::NOENT, "RETRIEVE_FD")?;
            }
            session.retrieve(4)?;
            Ok(session.finish()?)
        },
    )
}

/// The handler gets the file itself: the sample in Rust shows the number of the other file.
fn same_file() -> Case {
    Case::two(
        "handler_gets_the_other_file",
        |stage| {
            let (one, two) = (
                TestDevice::open(TestDevice::RUST)?,
                TestDevice::open(TestDevice::RUST)?,
            );
            one.write("77")?;
            two.write("5 of 8")?;
            let session = create("needs-sample")?;
            session.preserve(&one, 8)?;
            session.preserve(&two, 4)?;
            stage.hold((session, one, two));
            Ok(())
        },
        |_| {
            load_handler(TestDevice::RUST)?;
            let session = retrieve("needs-sample")?;
            let two = TestDevice::from(session.retrieve(4)?);
            let one = TestDevice::from(session.retrieve(8)?);
            one.write("78")?;
            let path = format!("/proc/self/fdinfo/{}", two.as_fd().as_raw_fd());
            let text = std::fs::read_to_string(&path).at(path)?;
            ensure!(text.contains("other:\t78\n"), "fdinfo says: {text}");
            Ok(session.finish()?)
        },
    )
}

pub fn cases() -> Vec<Case> {
    vec![
        preserved_in_order(),
        too_long(),
        longest(),
        any_order(),
        not_needed(),
        circles(),
        failures(),
        skipped(),
        same_file(),
    ]
}
