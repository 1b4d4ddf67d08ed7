// SPDX-License-Identifier: GPL-2.0

//! The steps of live updates that the previous kernel has traced.
//!
//! The kernel can write its events to memory that Kexec Handover preserves, and copy what the
//! previous kernel has written there before it writes itself. It reads them as events of its own:
//! if it has other numbers or fields for them, the result is wrong. `luoctl load` therefore tells the
//! next kernel by a parameter which events there are in this one.

use crate::{
    cli::{Cli, Exit, Failure},
    image::{self, failed},
};
use luo_check::cmdline;
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The parameter with the identity of the previous kernel's events. The kernel ignores it.
const PARAMETER: &str = "luoctl.events";

/// The file system with the events.
const TRACING: &str = "sys/kernel/tracing";

/// The buffer with the events of the previous kernel.
const PREVIOUS: &str = "instances/luo_previous/trace";

/// The maximum size of a buffer as text, in bytes.
const TEXT_MAX: u64 = 64 << 20;

/// FNV-1a with 64 bits, the same in each version of this program.
fn hash(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The descriptions of the events and of the pages of a buffer: numbers, fields and texts.
fn formats(tracing: &Path) -> io::Result<Vec<PathBuf>> {
    let events = tracing.join("events");
    let mut files = vec![events.join("header_page"), events.join("header_event")];
    let start = files.len();
    for entry in fs::read_dir(events.join("liveupdate"))? {
        let format = entry?.path().join("format");
        if format.exists() {
            files.push(format);
        }
    }
    files[start..].sort();
    Ok(files)
}

/// Identifies the events of this kernel; [`None`] if it has none.
fn identity(root: &Path) -> Option<String> {
    let files = formats(&root.join(TRACING)).ok()?;
    let all = files.iter().try_fold(0xcbf2_9ce4_8422_2325, |all, file| {
        Some(hash(all, &fs::read(file).ok()?))
    });
    Some(format!("{:016x}", all?))
}

/// The command line of the next kernel with the identity of this kernel's events, if the next kernel
/// keeps events.
pub fn marked(root: &Path, next: &str) -> String {
    if !cmdline::keeps_events(next) {
        return next.to_owned();
    }
    let next = cmdline::without(next, &[PARAMETER]);
    match identity(root) {
        Some(identity) => cmdline::with(&next, &format!("{PARAMETER}={identity}")),
        None => next,
    }
}

/// The events of the previous kernel, a line each; none if this kernel has no copy of them.
///
/// # Errors
///
/// Why they cannot be read.
pub fn previous(cli: &Cli) -> Result<String, Failure> {
    let unreadable = |why| Err(Failure::new(Exit::Failed, why));
    let tracing = cli.root.join(TRACING);
    let path = tracing.join(PREVIOUS);
    let running = cli.cmdline(None)?;
    // Without tracepoints, the kernel has no such directory.
    if cmdline::keeps_events(&running) && tracing.exists() && !tracing.join("events").exists() {
        return unreadable("tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing");
    }
    if !path.exists() {
        return Ok(String::new());
    }
    let Some(theirs) = cmdline::value(&running, PARAMETER) else {
        return unreadable(
            "this kernel may misread them, since it has no luoctl.events= of luoctl load",
        );
    };
    if identity(&cli.root) != Some(theirs) {
        return unreadable("this kernel has other numbers or fields for them");
    }
    let mut bytes = Vec::new();
    let read = image::open(&path)?.take(TEXT_MAX).read_to_end(&mut bytes);
    read.map_err(|error| failed(&path, error))?;
    let text = String::from_utf8_lossy(&bytes);
    let events = text.lines().filter(|line| !line.starts_with('#'));
    Ok(events.map(str::trim_start).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next kernel is told which events this one has, and not which the previous one had.
    #[test]
    fn command_lines_are_marked() {
        let root = std::env::temp_dir().join(format!("luoctl-events-{}", std::process::id()));
        let keeps = "ro reserve_mem=4M:4096:m trace_instance=luo@m";
        let old = format!("{keeps} {PARAMETER}=0 -- x");
        assert_eq!(marked(&root, &old), format!("{keeps} -- x"));
        let events = root.join(TRACING).join("events");
        fs::create_dir_all(events.join("liveupdate/luo_freeze")).unwrap();
        for name in [
            "header_page",
            "header_event",
            "liveupdate/luo_freeze/format",
        ] {
            fs::write(events.join(name), name).unwrap();
        }
        let new = marked(&root, &old);
        let identity = identity(&root).unwrap();
        assert_eq!(new, format!("{keeps} {PARAMETER}={identity} -- x"));
        assert_eq!(marked(&root, "ro  quiet"), "ro  quiet");
        fs::remove_dir_all(root).unwrap();
    }
}
