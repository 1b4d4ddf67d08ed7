// SPDX-License-Identifier: GPL-2.0

//! A kind of state, and how what it costs is reported.

use crate::support::{args::Args, error::Result, meminfo};
use liveupdate::{Device, OutgoingSession};
use std::{fs::File, time::Instant};

/// What has to stay open until the kexec.
#[derive(Default)]
pub struct Held {
    pub sessions: Vec<OutgoingSession>,
    pub files: Vec<File>,
}

/// A kind of state.
pub struct Workload {
    pub name: &'static str,
    /// Fills sessions, and measures that.
    pub before: fn(&Args) -> Result<Held>,
    /// Empties them, measures that, and verifies what was in them.
    pub after: fn(&Args) -> Result,
}

/// Reports a figure.
pub fn report(name: &str, value: u64) {
    println!("@bench {name} {value}");
}

/// Reports how long something took.
pub fn timed<T>(name: &str, what: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = what()?;
    // CAST: Nothing takes half a million years.
    report(name, start.elapsed().as_micros() as u64);
    Ok(result)
}

/// Reports how long something took, in `NAME_us`, and how much memory is missing after it, in
/// `NAME_kb`.
pub fn weighed<T>(name: &str, what: impl FnOnce() -> Result<T>) -> Result<T> {
    let free = meminfo::free()?;
    let result = timed(&format!("{name}_us"), what)?;
    report(&format!("{name}_kb"), free.saturating_sub(meminfo::free()?));
    Ok(result)
}

/// Preserves all files in a new session, with their numbers as tokens, and reports what that costs.
pub fn preserve_all(session: &str, files: Vec<File>) -> Result<Held> {
    let session = Device::open()?.create_session(session)?;
    weighed("preserve", || {
        for (token, file) in (0..).zip(&files) {
            session.preserve(file, token)?;
        }
        Ok(())
    })?;
    Ok(Held {
        sessions: vec![session],
        files,
    })
}
