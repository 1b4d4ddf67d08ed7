// SPDX-License-Identifier: GPL-2.0

//! Printing: see [`luo_output`].

pub use luo_output::{clean, line};

use serde::Serialize;
use std::io::{self, Write as _};

/// Prints a line on the standard error.
pub fn warn(text: &str) {
    // A failure cannot be reported.
    let _ = writeln!(io::stderr(), "luoctl: {}", clean(text));
}

/// The version of the JSON output, which `luoctl.schema.json` describes: see `version` there.
const VERSION: u32 = 1;

/// Prints one value, which must be an object, as a line of JSON with the version.
///
/// # Errors
///
/// If standard output is closed.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    luo_output::json(VERSION, value)
}
