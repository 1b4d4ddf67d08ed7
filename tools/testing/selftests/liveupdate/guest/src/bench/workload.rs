// SPDX-License-Identifier: GPL-2.0

//! Kinds of state, and reports of their costs.

use crate::support::{args::Args, error::Result, meminfo};
use liveupdate::{Device, OutgoingSession};
use std::{fs::File, time::Instant};

/// Files that must stay open until the kexec.
#[derive(Default)]
pub struct Held {
    pub sessions: Vec<OutgoingSession>,
    pub files: Vec<File>,
}

/// A kind of state.
pub struct Workload {
    pub name: &'static str,
    /// Preserves the state in sessions, and measures it.
    pub before: fn(&Args) -> Result<Held>,
    /// Retrieves and finishes the sessions, measures it, and verifies the contents.
    pub after: fn(&Args) -> Result,
}

/// Reports a figure.
pub fn report(name: &str, value: u64) {
    println!("@bench {name} {value}");
}

/// Reports a duration.
pub fn timed<T>(name: &str, what: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = what()?;
    // CAST: The duration is less than half a million years.
    report(name, start.elapsed().as_micros() as u64);
    Ok(result)
}

/// Reports a duration, as `NAME_us`, and the decrease of free memory, as `NAME_kb`.
pub fn weighed<T>(name: &str, what: impl FnOnce() -> Result<T>) -> Result<T> {
    let free = meminfo::free()?;
    let result = timed(&format!("{name}_us"), what)?;
    report(&format!("{name}_kb"), free.saturating_sub(meminfo::free()?));
    Ok(result)
}

/// Preserves all files in a new session, with their numbers as tokens, and reports the costs.
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
