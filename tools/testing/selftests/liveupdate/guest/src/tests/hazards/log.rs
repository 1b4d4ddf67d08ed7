// SPDX-License-Identifier: GPL-2.0

//! Names of files, and text of users in the kernel log.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    fault::Faults,
    ioctl_arg::{numbers, Arg},
    kernel_log::kernel_log,
    memfd,
    pattern::Pattern,
    registry::{Case, Suite},
    sessions::{create, expect_errno, retrieve},
};
use crate::tests::{
    damage::fate::damage,
    handlers::dependencies::{fill_chain, not_finished},
};
use liveupdate::raw::{self, Command};
use rustix::io::Errno;
use std::{
    fs::{self, File},
    os::fd::AsRawFd,
};

/// The number of attempts.
const TIMES: usize = 200;
/// The maximum number of log lines.
const LINES: usize = 20;

fn link(file: &File) -> Result<String> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(fs::read_link(&path)
        .at(path)?
        .to_string_lossy()
        .into_owned())
}

/// A retrieved memfd can be distinguished from other files.
fn retrieved_name() -> Case {
    let pattern = Pattern::new(1200, 100);
    Case::two(
        "retrieved_memfd_is_called_memfd",
        move |stage| {
            let file = memfd::with(pattern)?;
            let session = create("log-name")?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("log-name")?;
            let link = link(&memfd::check(session.retrieve(1)?, pattern)?)?;
            ensure!(link.starts_with("/memfd:"), "the link is '{link}'");
            Ok(session.finish()?)
        },
    )
    .hazard("1B.4")
}

/// Fails if `act` floods the kernel log.
fn quiet(what: &str, act: impl FnOnce() -> Result) -> Result {
    let lines = || -> Result<usize> {
        let log = kernel_log()?;
        // Messages of the base's lib/tests/liveupdate.c are ignored.
        let lines = log
            .lines()
            .filter(|line| !line.contains("liveupdate test:"));
        Ok(lines.count())
    };
    let before = lines()?;
    act()?;
    let more = lines()?.saturating_sub(before);
    ensure!(more <= LINES, "{what}, {TIMES} times: {more} lines");
    Ok(())
}

/// Fails unless the kernel has logged `count` lines about a session.
fn logged(session: &str, count: usize) -> Result {
    let log = kernel_log()?;
    let about = format!("session '{session}': ");
    let lines = log.lines().filter(|line| line.contains(&about));
    ensure_eq!(lines.count(), count, "the lines about '{session}'");
    Ok(())
}

/// A file without a handler is reported once.
fn no_handler() -> Case {
    const NAME: &str = "log-no-handler";
    let pattern = Pattern::new(1202, 20_000);
    Case::two(
        "missing_handler_is_logged_once",
        move |stage| {
            damage(NAME, &["file @ 1 compatible = \"unknown-v1\""])?;
            let session = create(NAME)?;
            for token in [1, 2] {
                session.preserve(memfd::with(pattern)?, token)?;
            }
            stage.hold(session);
            Ok(())
        },
        move |_| {
            let session = retrieve(NAME)?;
            for _ in 0..TIMES {
                let retrieved = session.retrieve(1);
                expect_errno(retrieved, Errno::OPNOTSUPP, "RETRIEVE_FD")?;
            }
            logged(NAME, 1)?;
            memfd::check(session.retrieve(2)?, pattern)?;
            session.finish()?;
            // FINISH reports that its memory stays reserved.
            logged(NAME, 2)
        },
    )
}

/// A file that was not retrieved, although another one depends on it, is reported once.
fn missing_files() -> Case {
    const NAME: &str = "log-missing";
    Case::two(
        "missing_file_is_logged_once",
        |stage| fill_chain(stage, NAME),
        |_| {
            let mut session = retrieve(NAME)?;
            // The file with token 3 depends on that with token 2, and this one on that with token 1.
            for (token, lines) in [(3, 1), (2, 2)] {
                session.retrieve(token)?;
                for _ in 0..TIMES {
                    session = not_finished(session)?;
                }
                logged(NAME, lines)?;
            }
            session.retrieve(1)?;
            session.finish()?;
            logged(NAME, 2)
        },
    )
}

/// The holder of a session cannot flood the kernel log.
fn flood() -> Case {
    let pattern = Pattern::new(1201, 20_000);
    Case::two(
        "log_is_not_flooded",
        move |stage| {
            quiet("PRESERVE_FD with a read-only argument", || {
                let file = memfd::new()?;
                for _ in 0..TIMES {
                    let session = create("log-flood-preserve")?;
                    let size = size_of::<raw::PreserveFd>() as u32;
                    let arg = Arg::new(&numbers(size, file.as_raw_fd() as u32, &[1]))?;
                    // The result is not checked here.
                    let _ = arg.read_only()?.ioctl(&session, raw::PreserveFd::REQUEST);
                }
                Ok(())
            })?;
            let session = create("log-flood")?;
            session.preserve(memfd::with(pattern)?, 1)?;
            stage.hold(session);
            Ok(())
        },
        move |_| {
            let session = retrieve("log-flood")?;
            let faults = Faults::new()?;
            quiet("RETRIEVE_FD without memory", || {
                for _ in 0..TIMES {
                    let outcome = faults.call(1, || session.retrieve(1))?;
                    ensure!(
                        outcome.result.is_err(),
                        "RETRIEVE_FD succeeded without memory"
                    );
                }
                Ok(())
            })?;
            memfd::check(session.retrieve(1)?, pattern)?;
            Ok(session.finish()?)
        },
    )
    .hazard("1B.6")
}

pub fn suite() -> Suite {
    Suite::new(
        "log",
        vec![retrieved_name(), flood(), no_handler(), missing_files()],
    )
}
