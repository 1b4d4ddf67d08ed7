// SPDX-License-Identifier: GPL-2.0

//! `luoctl report --log`: the last lines that the previous kernel has logged.
//!
//! The kernel writes its console to memory that Kexec Handover preserves (ramoops), and shows what
//! the previous one wrote as a file of pstore. systemd-pstore.service moves it to a directory. Its
//! [`events`] are in such memory as well.

use crate::{
    cli::{Cli, Exit, Failure},
    events,
    image::{self, failed},
    output,
};
use std::{
    fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The file of pstore with the console of the previous kernel.
const CONSOLE: &str = "console-ramoops-0";

/// The file system pstore.
const PSTORE: &str = "sys/fs/pstore";

/// Where systemd-pstore.service keeps its files.
const ARCHIVE: &str = "var/lib/systemd/pstore";

/// The maximum size of a log, in bytes.
const LOG_MAX: u64 = 16 << 20;

/// How much earlier than the boot a file may seem to be written: the clock can have been set since.
const CLOCK_SLACK: i64 = 60;

/// Reads a log; [`None`] if there is none, or an empty one.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    if !path.exists() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = image::open(path)?.take(LOG_MAX).read_to_end(&mut bytes);
    read.map_err(|error| failed(path, error))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok((!text.trim().is_empty()).then_some(text))
}

/// When this kernel was started, in seconds since 1970.
fn boot_time(procfs: &Path) -> Option<i64> {
    let stat = fs::read_to_string(procfs.join("stat")).ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line?.trim().parse().ok()
}

/// Whether an archived file was written since this kernel was started: otherwise, it is the log of
/// an earlier one than the previous.
fn is_recent(path: &Path, procfs: &Path) -> bool {
    let Ok(metadata) = fs::metadata(path) else {
        return false;
    };
    boot_time(procfs).is_some_and(|boot| metadata.ctime() >= boot.saturating_sub(CLOCK_SLACK))
}

/// The log of the previous kernel, and its file.
fn previous(cli: &Cli) -> Result<(PathBuf, String), Failure> {
    let path = cli.root.join(PSTORE).join(CONSOLE);
    if let Some(text) = read(&path)? {
        return Ok((path, text));
    }
    let system = cli.system();
    let path = cli.root.join(ARCHIVE).join(CONSOLE);
    let archived = read(&path)?;
    if let Some(text) = archived.filter(|_| is_recent(&path, &system.procfs)) {
        return Ok((path, text));
    }
    let ramoops = system.sysfs.join("module/ramoops/parameters/mem_name");
    let name = fs::read_to_string(ramoops).unwrap_or_default();
    let why = if matches!(name.trim(), "" | "(null)") {
        "this kernel keeps no log for the next one: boot it with \
         reserve_mem=1M:4096:luo_log ramoops.mem_name=luo_log ramoops.console_size=0x80000"
    } else if !cli.root.join(PSTORE).exists() {
        "pstore is not mounted: mount -t pstore pstore /sys/fs/pstore"
    } else {
        "there is no log of the previous kernel: either it kept none, or the machine was reset"
    };
    Err(Failure::new(Exit::Failed, why))
}

/// The last `count` lines of a text.
fn last_lines(text: &str, count: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(count);
    lines[start..].to_vec()
}

/// Prints the last lines.
pub fn show(cli: &Cli, count: usize) -> Result<Exit, Failure> {
    let (path, text) = previous(cli)?;
    let lines = last_lines(&text, count);
    let events = events::previous(cli).unwrap_or_else(|why| {
        output::warn(&format!(
            "the events of the previous kernel: {}",
            why.message
        ));
        String::new()
    });
    let events = last_lines(&events, count);
    let printed = if cli.json {
        output::json(&serde_json::json!({ "log": lines, "source": path, "events": events }))
    } else {
        let heading = (!events.is_empty()).then_some(&"Events:");
        let mut lines = lines.iter().chain(heading).chain(&events);
        lines.try_for_each(|line| output::line(line))
    };
    match printed {
        // A reader that ends early is no error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, error))
        }
        _ => Ok(Exit::Good),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines() {
        assert_eq!(last_lines("a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(last_lines("a\nb", 9), ["a", "b"]);
        assert!(last_lines("", 9).is_empty() && last_lines("a", 0).is_empty());
    }
}
