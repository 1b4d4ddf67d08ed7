// SPDX-License-Identifier: GPL-2.0

//! Printing, without control characters in the text of other programs.
//!
//! JSON is printed as one object in each line. Its member `version` is the version of the format,
//! which each program describes in a JSON Schema; `testing/schemas.rs` checks output against such a
//! schema, for tests.

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

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a, T> {
    version: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// The line for `value`, in which characters that can affect the terminal are escaped.
fn encode(version: u32, value: &impl Serialize) -> serde_json::Result<String> {
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
    Ok(safe)
}

/// Prints one value, which must be an object, as a line of JSON with the version of its format.
///
/// # Errors
///
/// If standard output is closed, or if the value is not an object.
pub fn json(version: u32, value: &impl Serialize) -> io::Result<()> {
    line(&encode(version, value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_controls_the_terminal() {
        let hostile = "a\u{1b}[2Jb\u{9b}2Jc\u{202e}d\u{7f}\r\n";
        assert_eq!(clean(hostile), "a?[2Jb?2Jc?d???");
        assert_eq!(clean("grüße 世界"), "grüße 世界");
        let value = serde_json::json!({ "text": hostile });
        let text = encode(7, &value).unwrap();
        assert_eq!(clean(&text), text);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, serde_json::json!({ "version": 7, "text": hostile }));
    }

    #[test]
    fn a_line_is_an_object() {
        assert!(encode(1, &["no object"]).is_err());
    }
}
