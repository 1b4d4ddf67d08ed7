// SPDX-License-Identifier: GPL-2.0

//! Printing, without control characters in the text of other programs.

use serde::Serialize;
use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

/// Returns whether a character can affect a terminal: control characters, and characters that hide
/// or reorder other text.
fn controls(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Replaces characters that can affect the terminal: text of clients must not contain them.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if controls(c) { '?' } else { c })
        .collect()
}

/// Prints a line.
///
/// # Errors
///
/// If standard output is closed.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", clean(text))?;
    out.flush()
}

/// Prints a line on the standard error.
pub fn warn(text: &str) {
    // A failure cannot be reported.
    let _ = writeln!(io::stderr(), "luoctl: {}", clean(text));
}

/// The version of the JSON output, which `luoctl.schema.json` describes: see `version` there.
const VERSION: u32 = 1;

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a, T> {
    version: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// Prints one value, which must be an object, as a line of JSON with the version.
///
/// # Errors
///
/// If standard output is closed.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let version = VERSION;
    let text = serde_json::to_string(&Line { version, value })?;
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        // Outside of strings, JSON is ASCII.
        if controls(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    line(&safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_controls_the_terminal() {
        let hostile = "a\u{1b}[2Jb\u{9b}2Jc\u{202e}d\u{7f}\r\n";
        assert_eq!(clean(hostile), "a?[2Jb?2Jc?d???");
        assert_eq!(clean("grüße 世界"), "grüße 世界");
    }
}
