// SPDX-License-Identifier: GPL-2.0

//! Questions to systemd.

use crate::command::output_in_time;
use std::{fs, io, path::Path, process::Command, time::Duration};

/// The first version of systemd that hands over its file descriptor stores.
const VERSION_MIN: u32 = 261;

/// The time limit for an answer of systemd.
const PATIENCE: Duration = Duration::from_secs(12);

/// Returns whether process 1 is systemd.
pub(super) fn is_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Runs `systemctl`, and returns its output.
///
/// # Errors
///
/// If it fails, or takes longer than [`PATIENCE`].
pub(super) fn systemctl(args: &[&str]) -> io::Result<String> {
    systemctl_within(args, PATIENCE)
}

/// The same with another time limit.
pub(super) fn systemctl_within(args: &[&str], time: Duration) -> io::Result<String> {
    let mut command = Command::new("systemctl");
    command.args(args);
    output_in_time(&mut command, time).map_err(|error| {
        let what = args.join(" ");
        io::Error::new(error.kind(), format!("systemctl {what} failed: {error}"))
    })
}

/// The properties of the file descriptor store of this service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Store {
    version: u32,
    held: usize,
    most: usize,
    preserves: bool,
}

impl Store {
    /// Asks systemd; `cgroup` is the file of the kernel that names this service.
    ///
    /// # Errors
    ///
    /// If this is not a service, or systemd does not answer.
    pub(super) fn ask(cgroup: &Path) -> io::Result<Self> {
        let cgroup = fs::read_to_string(cgroup)?;
        let unit = unit_of(&cgroup).ok_or_else(|| {
            io::Error::other("luod is not a service of systemd, so that systemd keeps no sessions")
        })?;
        let version = systemctl(&["show", "--property=Version", "--value"])?;
        let properties = "--property=NFileDescriptorStore,FileDescriptorStoreMax,\
                          FileDescriptorStorePreserve";
        let text = systemctl(&["show", properties, unit])?;
        Self::parse(&version, &text)
    }

    fn parse(version: &str, text: &str) -> io::Result<Self> {
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            let found = lines.find(|(found, _)| *found == name);
            found.map(|(_, value)| value.trim()).unwrap_or_default()
        };
        let missing = |what: &str| {
            io::Error::other(format!(
                "systemd does not report {what}, so that all sessions may be lost"
            ))
        };
        let number = |name: &str| value(name).parse().map_err(|_| missing(name));
        let version = version
            .trim()
            .trim_start_matches(|c: char| !c.is_ascii_digit());
        let digits = version.find(|c: char| !c.is_ascii_digit());
        let version = version.get(..digits.unwrap_or(version.len()));
        let version = version.and_then(|version| version.parse().ok());
        Ok(Self {
            version: version.ok_or_else(|| missing("its version"))?,
            held: number("NFileDescriptorStore")?,
            most: number("FileDescriptorStoreMax")?,
            preserves: value("FileDescriptorStorePreserve") == "yes",
        })
    }

    /// Checks that systemd hands over `expected` descriptors.
    ///
    /// # Errors
    ///
    /// A sentence that names the problem and the solution.
    pub(super) fn check(&self, expected: usize) -> io::Result<()> {
        let Self {
            version,
            held,
            most,
            preserves,
        } = self;
        let what = if *version < VERSION_MIN {
            format!(
                "systemd {version} does not hand over sessions to the next kernel, which needs \
                 {VERSION_MIN}; use kexec = \"reboot\" in luod.toml, or a newer systemd"
            )
        } else if !preserves {
            "systemd drops the sessions when luod is stopped; set \
             FileDescriptorStorePreserve=yes in the unit of luod"
                .to_owned()
        } else if *most < expected {
            format!(
                "systemd keeps {most} sessions of luod at most, and there are {expected}; raise \
                 FileDescriptorStoreMax= in the unit of luod"
            )
        } else if *held != expected {
            format!(
                "systemd keeps {held} sessions of luod, and there are {expected}; restart luod, \
                 and try it again"
            )
        } else {
            return Ok(());
        };
        Err(io::Error::other(what))
    }
}

/// The service of a process, from its control group.
fn unit_of(cgroup: &str) -> Option<&str> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut names = paths.flat_map(|path| path.rsplit('/'));
    names.find(|name| name.ends_with(".service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "NFileDescriptorStore=3\nFileDescriptorStoreMax=8192\n\
                        FileDescriptorStorePreserve=yes\n";

    #[test]
    fn a_good_store() {
        for version in ["261\n", "262~devel", "v261.1-2"] {
            Store::parse(version, GOOD).unwrap().check(3).unwrap();
        }
    }

    #[test]
    fn what_would_be_lost() {
        for (version, from, to, expected, part) in [
            ("257.8-1", "", "", 3, "newer systemd"),
            ("261", "=yes", "=no", 3, "Preserve=yes"),
            ("261", "=yes", "=restart", 3, "Preserve=yes"),
            ("261", "=8192", "=2", 3, "FileDescriptorStoreMax="),
            (
                "261",
                "",
                "",
                4,
                "keeps 3 sessions of luod, and there are 4",
            ),
            (
                "261",
                "",
                "",
                2,
                "keeps 3 sessions of luod, and there are 2",
            ),
        ] {
            let store = Store::parse(version, &GOOD.replace(from, to)).unwrap();
            let error = store.check(expected).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        for (version, text) in [("", GOOD), ("x", GOOD), ("261", ""), ("261", "NFile")] {
            assert!(Store::parse(version, text).is_err());
        }
    }

    #[test]
    fn units() {
        assert_eq!(
            unit_of("0::/system.slice/luod.service\n"),
            Some("luod.service")
        );
        assert_eq!(unit_of("0::/user.slice/session-1.scope\n"), None);
        assert_eq!(unit_of(""), None);
    }
}
