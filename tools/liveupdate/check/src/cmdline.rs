// SPDX-License-Identifier: GPL-2.0

//! The command line of the next kernel.

use crate::{Finding, Image, Verdict};

/// Splits a command line as the kernel does: at spaces that are not between quotation marks; what
/// follows `--` is for init.
fn words(cmdline: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in cmdline.chars().chain([' ']) {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if word == "--" {
                    return words;
                }
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// `kstrtobool()` of the kernel.
fn parse_bool(value: &str) -> Option<bool> {
    let mut chars = value.bytes().map(|byte| byte.to_ascii_lowercase());
    match (chars.next(), chars.next()) {
        (Some(b'e' | b'y' | b't' | b'1'), _) => Some(true),
        (Some(b'd' | b'n' | b'f' | b'0'), _) => Some(false),
        (Some(b'o'), Some(b'n')) => Some(true),
        (Some(b'o'), Some(b'f')) => Some(false),
        _ => None,
    }
}

/// The last value of a parameter that the kernel understands. Others it ignores.
pub fn switch(cmdline: &str, name: &str) -> Option<bool> {
    words(cmdline)
        .iter()
        .filter_map(|word| {
            let (key, value) = word.split_once('=')?;
            (key == name).then(|| parse_bool(value))?
        })
        .last()
}

/// Checks whether Kexec Handover and live updates are switched on by a command line.
pub fn check(cmdline: &str, image: Option<&Image>) -> Vec<Finding> {
    const CHECK: &str = "command line";
    let by_default = image.and_then(|image| image.setting("KEXEC_HANDOVER_ENABLE_DEFAULT"));
    let kho = match (switch(cmdline, "kho"), by_default) {
        (Some(true), _) => (Verdict::Yes, "kho=on"),
        (Some(false), _) => (
            Verdict::No,
            "kho=off: the kernel would not take over anything; use kho=on",
        ),
        (None, Some("y")) => (Verdict::Yes, "kho=on is the default of the image"),
        (None, Some(_)) => (
            Verdict::No,
            "kho=on is missing, and not the default of the image",
        ),
        (None, None) => (
            Verdict::Unknown,
            "kho=on is missing, and whether it is the default of the image cannot be found out",
        ),
    };
    let liveupdate = match switch(cmdline, "liveupdate") {
        Some(true) => (Verdict::Yes, "liveupdate=on"),
        Some(false) => (
            Verdict::No,
            "liveupdate=off: sessions could not be retrieved; use liveupdate=on",
        ),
        None => (
            Verdict::No,
            "liveupdate=on is missing: sessions could not be retrieved",
        ),
    };
    [kho, liveupdate]
        .into_iter()
        .map(|(verdict, reason)| Finding::new(CHECK, verdict, reason))
        .collect()
}
