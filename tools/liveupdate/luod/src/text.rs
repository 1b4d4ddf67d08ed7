// SPDX-License-Identifier: GPL-2.0

//! Text of other programs in messages.

/// The first `max` characters of a text, made safe for a terminal.
pub fn printable(text: &str, max: usize) -> String {
    let harmless = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    harmless.take(max).collect()
}
