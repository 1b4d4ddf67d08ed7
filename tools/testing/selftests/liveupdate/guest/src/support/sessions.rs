// SPDX-License-Identifier: GPL-2.0

//! Sessions, and the reports of the kernel about them.

use crate::support::{
    error::{ensure_eq, At, Failure, Result},
    memfd,
    pattern::Pattern,
    registry::Stage,
};
use liveupdate::{Device, IncomingSession, OutgoingSession};
use rustix::io::Errno;
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Creates a session; the device is open only during this call.
pub fn create(name: &str) -> Result<OutgoingSession> {
    Ok(Device::open()?.create_session(name)?)
}

/// Creates a session with a memfd for each token, which stay open until the end of
/// this kernel.
pub fn hold_files(
    stage: &mut Stage<'_>,
    name: &str,
    tokens: impl Iterator<Item = u64>,
    pattern: impl Fn(u64) -> Pattern,
) -> Result {
    let session = create(name)?;
    for token in tokens {
        let file = memfd::with(pattern(token))?;
        session.preserve(&file, token)?;
        stage.hold(file);
    }
    stage.hold(session);
    Ok(())
}

/// Retrieves a session; the device is open only during this call.
pub fn retrieve(name: &str) -> Result<IncomingSession> {
    Ok(Device::open()?.retrieve_session(name)?)
}

/// Fails unless `result` is the error `errno`.
pub fn expect_errno<T>(result: io::Result<T>, errno: Errno, what: &str) -> Result {
    match result {
        Ok(_) => Err(Failure::new(format!(
            "{what} succeeded instead of failing with {errno:?}"
        ))),
        Err(error) => match liveupdate::errno(&error) {
            Some(found) => {
                ensure_eq!(
                    Errno::from_raw_os_error(found),
                    errno,
                    "the error of {what}"
                );
                Ok(())
            }
            None => Err(Failure::new(format!("{what}: {error}"))),
        },
    }
}

/// The lines of LUO in a session's fdinfo, as key and value.
pub fn fdinfo(session: &impl AsFd) -> Result<Vec<(String, String)>> {
    let path = format!("/proc/self/fdinfo/{}", session.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(&path).at(path)?;
    Ok(report_lines(&text))
}

/// The lines of a report about sessions.
pub fn report_lines(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.split_once(":\t"))
        .filter(|(key, _)| key.starts_with("luo-"))
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}
