// SPDX-License-Identifier: GPL-2.0

//! The output of `--json`, which `luo-qemu.schema.json` describes.

use luo_qemu::{check::Finding, run_dir::Record};
use serde::Serialize;
use std::io;

/// The version of the format: see `version` in the schema.
const VERSION: u32 = 1;

/// A guest, for its operator.
#[derive(Serialize)]
struct Guest<'a> {
    name: &'a str,
    state: String,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    qemu: Option<u32>,
    updates: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_us: Option<i64>,
    arguments: &'a [String],
}

impl<'a> From<&'a Record> for Guest<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            name: &record.name,
            state: record.does(),
            pid: record.pid,
            qemu: Some(record.qemu).filter(|id| *id != 0),
            updates: record.updates,
            gap_us: record.gap_us,
            lag_us: record.lag_us,
            arguments: &record.arguments,
        }
    }
}

#[derive(Serialize)]
struct Guests<'a> {
    guests: Vec<Guest<'a>>,
}

#[derive(Serialize)]
struct Check<'a> {
    survives: bool,
    findings: &'a [Finding],
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
    exit: u8,
}

/// Prints the status of a guest.
///
/// # Errors
///
/// If standard output is closed; the other functions as well.
pub fn status(record: &Record) -> io::Result<()> {
    luo_output::json(VERSION, &Guest::from(record))
}

/// Prints all guests.
pub fn list(records: &[Record]) -> io::Result<()> {
    let guests = records.iter().map(Guest::from).collect();
    luo_output::json(VERSION, &Guests { guests })
}

/// Prints the result of a check.
pub fn check(findings: &[Finding], survives: bool) -> io::Result<()> {
    luo_output::json(VERSION, &Check { survives, findings })
}

/// Prints why a command has failed, and its exit code.
pub fn failure(error: &str, exit: u8) -> io::Result<()> {
    luo_output::json(VERSION, &Failure { error, exit })
}
