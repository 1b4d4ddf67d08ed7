// SPDX-License-Identifier: GPL-2.0

//! `luoctl metrics`.

mod text;

use crate::{
    cli::{Cli, Exit, Failure, MetricsOptions},
    output, talk,
};
use luo_check::System;
use luod_protocol::{Event, Request};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};
use text::{Luod, Snapshot};

/// The sizes of the scratch areas, one in a line. Missing without `CONFIG_KEXEC_HANDOVER_DEBUGFS`.
const SCRATCH: &str = "kernel/debug/kho/out/scratch_len";

/// The size of the scratch area in bytes, if the kernel reports it.
fn scratch(system: &System) -> Option<u64> {
    let text = fs::read_to_string(system.sysfs.join(SCRATCH)).ok()?;
    let sizes = text.split_ascii_whitespace().map(|size| {
        size.strip_prefix("0x").map_or_else(
            || size.parse().ok(),
            |hex| u64::from_str_radix(hex, 16).ok(),
        )
    });
    let sizes: Option<Vec<u64>> = sizes.collect();
    sizes?.into_iter().reduce(u64::saturating_add)
}

/// Asks luod for everything.
fn ask_all(cli: &Cli) -> Result<Luod, Failure> {
    let mut luod = talk::connect(cli)?;
    let status = match talk::call(&mut luod, &Request::Status)? {
        Event::Status(status) => status,
        event => return Err(talk::refused(&event)),
    };
    let sessions = match talk::call(&mut luod, &Request::List)? {
        Event::List { sessions } => sessions,
        event => return Err(talk::refused(&event)),
    };
    let history = match talk::call(&mut luod, &Request::History)? {
        Event::History(history) => history,
        event => return Err(talk::refused(&event)),
    };
    Ok(Luod {
        status,
        sessions,
        history,
    })
}

/// Replaces a file atomically, so that no reader sees a part of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // The textfile collector of node_exporter ignores names that do not end with .prom.
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = Path::new(&new);
    let mut options = fs::OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(new)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(new, path));
    if written.is_err() {
        // It may not exist.
        let _ = fs::remove_file(new);
    }
    written
}

/// Prints the metrics, or writes them to a file. If luod cannot be reached, the metrics show this,
/// and the command fails.
pub fn metrics(cli: &Cli, options: &MetricsOptions) -> Result<Exit, Failure> {
    let luod = ask_all(cli);
    let (luod, failure) = match luod {
        Ok(luod) => (Some(luod), None),
        Err(failure) => (None, Some(failure)),
    };
    let snapshot = Snapshot {
        luod,
        scratch: scratch(&cli.system()),
    };
    let text = text::render(&snapshot).map_err(|error| Failure::new(Exit::Failed, error))?;
    match &options.output {
        Some(path) => replace(path, &text).map_err(|error| {
            let what = format!("cannot write {}: {error}", path.display());
            Failure::new(Exit::Failed, what)
        })?,
        // A closed standard output is ignored, as by the other commands.
        None => drop(text.lines().try_for_each(output::line)),
    }
    failure.map_or(Ok(Exit::Good), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_scratch_area() {
        let root = std::env::temp_dir().join(format!("luoctl-scratch-{}", std::process::id()));
        let file = root.join("sys").join(SCRATCH);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let system = System::at(&root);
        for (text, size) in [
            ("0x4000000\n0x8000000\n", Some(0xc00_0000)),
            ("4096", Some(4096)),
            ("", None),
            ("4096 x", None),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(scratch(&system), size, "{text}");
        }
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(scratch(&system), None);
    }
}
