// SPDX-License-Identifier: GPL-2.0

//! Names of files, and text of users in the kernel log.

use crate::support::{
    error::{ensure, At, Result},
    fault::Faults,
    ioctl_arg::{numbers, Arg},
    kernel_log::kernel_log,
    memfd,
    pattern::Pattern,
    registry::{Case, Suite},
    sessions::{create, retrieve},
};
use liveupdate::raw::{self, Command};
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
    Suite::new("log", vec![retrieved_name(), flood()])
}
