// SPDX-License-Identifier: GPL-2.0

//! Writes the man pages of luod and of its configuration, and completions for shells. They are
//! generated from its command line and from the commented sample of the configuration.
//!
//! Run as `luod-doc MAN_DIR COMPLETIONS_DIR`.

use clap::CommandFactory;
use clap_complete::{generate_to, Shell};
use clap_mangen::{
    roff::{bold, roman, Roff},
    Man,
};
use luod::cli::Args;
use std::{env, fs, io, path::PathBuf};

/// Settings that are explained together, and the text.
#[derive(Default)]
struct Entry<'a> {
    settings: Vec<&'a str>,
    text: Vec<&'a str>,
}

/// The entries of the sample. The first one has no settings: it is about the file.
fn entries(sample: &str) -> Vec<Entry<'_>> {
    let mut entries = vec![Entry::default()];
    for line in sample.lines().skip(2) {
        let line = line.strip_prefix('#').unwrap_or(line);
        let last = entries.last_mut();
        match (line.strip_prefix(' '), last) {
            (Some(text), Some(entry)) if entry.settings.is_empty() => entry.text.push(text),
            (None, Some(entry)) if !line.is_empty() => entry.settings.push(line),
            (text, _) => entries.push(Entry {
                settings: Vec::new(),
                text: text.into_iter().collect(),
            }),
        }
    }
    entries.retain(|entry| !entry.text.is_empty());
    entries
}

/// luod.toml(5).
fn configuration(sample: &str) -> Roff {
    let mut page = Roff::new();
    page.control("TH", ["luod.toml", "5"]);
    page.control("SH", ["NAME"]);
    page.text([roman(
        "luod.toml - configuration of luod, the live update daemon",
    )]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([roman("/etc/luod.toml")]);
    let mut entries = entries(sample).into_iter();
    page.control("SH", ["DESCRIPTION"]);
    let about = entries.next().unwrap_or_default();
    page.text([roman(about.text.join(" "))]);
    page.control("SH", ["SETTINGS"]);
    for entry in entries {
        page.control("TP", []);
        page.text([bold(entry.settings.join(", "))]);
        page.text([roman(entry.text.join(" "))]);
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([roman("luod(8), luoctl(1)")]);
    page
}

fn main() -> io::Result<()> {
    let mut dirs = env::args_os().skip(1).map(PathBuf::from);
    let (Some(man), Some(completions)) = (dirs.next(), dirs.next()) else {
        return Err(io::Error::other("usage: luod-doc MAN_DIR COMPLETIONS_DIR"));
    };
    fs::create_dir_all(&man)?;
    let mut page = Vec::new();
    Man::new(Args::command()).section("8").render(&mut page)?;
    fs::write(man.join("luod.8"), page)?;
    let sample = include_str!("../../luod/luod.toml");
    fs::write(man.join("luod.toml.5"), configuration(sample).render())?;
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Args::command(), "luod", &completions)?;
    }
    Ok(())
}
