// SPDX-License-Identifier: GPL-2.0

//! A minimal writer of JSON.

use std::fmt::Write;

/// A string in quotes.
pub fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // Writing to a string cannot fail.
            '\0'..='\x1f' => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn strings() {
        assert_eq!(
            string("a \"b\" \\ \n\u{e9}"),
            "\"a \\\"b\\\" \\\\ \\u000a\u{e9}\""
        );
    }
}
