// SPDX-License-Identifier: GPL-2.0

//! The serial console of a virtual machine: separates the kernel log from the output of
//! programs, and detects warnings.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

/// The beginning of a line of the kernel log within another line.
static STAMP: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\[ *\d+\.\d{6}\] ").expect("a constant pattern"));

/// Warnings and errors in the kernel log.
static SPLAT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"WARNING:|\bBUG:|\bOops\b|Kernel panic|general protection|possible (circular|recursive|irq)",
        r"|INFO: (task .* blocked|rcu|suspicious|trying to register|inconsistent)|inconsistent lock",
        r"|unreferenced object|new suspected memory leaks|UBSAN:|KASAN:|KCSAN:|rust_kernel: panicked",
        r"|suspicious RCU usage|Unknown symbol|segfault at",
    ))
    .expect("a constant pattern")
});

/// The beginning of a line about the progress of a program.
pub const PROGRESS: &str = "@progress ";

/// Whether the line is the last one of a program before a kexec.
pub fn is_kexec(line: &str) -> bool {
    line.ends_with(": starting the next kernel")
}

/// Whether the line is the first one of the program after a kexec.
pub fn is_next_program(line: &str) -> bool {
    line.starts_with("# stage ") && !line.starts_with("# stage 1 ") && !is_kexec(line)
}

/// The announcement of an intended panic by a test.
const EXPECTS_PANIC: &str = "# expect-panic";

/// The console of one run of a machine, over all its boots.
#[derive(Debug, Default)]
pub struct Console {
    /// Lines of the kernel log, without time stamps.
    pub kernel: Vec<String>,
    /// Lines that programs wrote.
    pub user: Vec<String>,
    /// All lines, in order.
    pub all: Vec<String>,
}

impl Console {
    /// Sorts the lines of `raw`. A kernel message may interrupt a line of a program; the two
    /// are separated.
    pub fn read(raw: &str) -> Self {
        let mut console = Self::default();
        let mut cut = String::new();
        for line in raw.lines() {
            let line = line.trim_end_matches('\r');
            match STAMP.find(line) {
                Some(stamp) => {
                    cut.push_str(&line[..stamp.start()]);
                    console.kernel.push(line[stamp.end()..].to_owned());
                    console.all.push(line[stamp.start()..].to_owned());
                }
                None => {
                    let whole = format!("{}{line}", std::mem::take(&mut cut));
                    console.all.push(whole.clone());
                    console.user.push(whole);
                }
            }
        }
        if !cut.is_empty() {
            console.user.push(cut);
        }
        console
    }

    /// The panic that a test has announced.
    pub fn expected_panic(&self) -> Option<&str> {
        let mut lines = self.user.iter();
        lines.find_map(|line| Some(line.strip_prefix(EXPECTS_PANIC)?.trim()))
    }

    /// Returns whether the kernel has panicked as announced by a test, and printed nothing after it.
    pub fn panicked_as_expected(&self) -> bool {
        let Some(expected) = self.expected_panic() else {
            return false;
        };
        let panic = format!("Kernel panic - not syncing: {expected}");
        self.exit().is_none() && self.kernel.contains(&panic)
    }

    /// Lines that no run may have, unless a test announced a panic.
    pub fn splats(&self) -> Vec<&str> {
        if self.expected_panic().is_some() {
            return Vec::new();
        }
        // Leak reports are from a file that the guest prints.
        self.all
            .iter()
            .map(String::as_str)
            .filter(|line| SPLAT.is_match(line))
            .collect()
    }

    /// The exit status that our guest program printed last.
    pub fn exit(&self) -> Option<i32> {
        self.user
            .iter()
            .rev()
            .find_map(|line| line.strip_prefix("luo-guest: exit ")?.trim().parse().ok())
    }

    /// The lines `@timeline PHASE MICROSECONDS`, in order.
    pub fn timeline(&self) -> Vec<(String, u64)> {
        let lines = self
            .user
            .iter()
            .filter_map(|line| line.strip_prefix("@timeline "));
        lines
            .filter_map(|line| {
                let (phase, time) = line.trim().rsplit_once(' ')?;
                Some((phase.to_owned(), time.parse().ok()?))
            })
            .collect()
    }

    /// The lines `@fact KEY VALUE`.
    pub fn facts(&self) -> BTreeMap<String, String> {
        let lines = self
            .user
            .iter()
            .filter_map(|line| line.strip_prefix("@fact "));
        lines
            .filter_map(|l| l.trim().split_once(' '))
            .map(|(k, v)| (k.into(), v.into()))
            .collect()
    }

    /// The last lines, for the message about a failure.
    pub fn tail(&self, lines: usize) -> &[String] {
        &self.all[self.all.len().saturating_sub(lines)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_is_joined() {
        let console =
            Console::read("ok 1 na[    1.234567] luo: hello\r\nme\r\n[    2.000000] x\nok 2 b\n");
        assert_eq!(console.user, ["ok 1 name", "ok 2 b"]);
        assert_eq!(console.kernel, ["luo: hello", "x"]);
    }

    #[test]
    fn splats_are_found() {
        let bad = Console::read("[    1.234567] WARNING: kernel/x.c:1 at f\n");
        assert_eq!(bad.splats().len(), 1);
        assert!(Console::read("[    1.234567] luo: fine\n")
            .splats()
            .is_empty());
        let meant = Console::read("# expect-panic\n[    1.234567] Kernel panic - not syncing\n");
        assert!(meant.splats().is_empty());
    }

    #[test]
    fn panics_are_judged() {
        let console = |panic: &str, more: &str| {
            let marker = "# expect-panic luo: no";
            Console::read(&format!(
                "{marker}\n[    1.234567] Kernel panic - not syncing: {panic}\n{more}"
            ))
        };
        assert!(console("luo: no", "").panicked_as_expected());
        assert!(!console("luo: yes", "").panicked_as_expected());
        assert!(!console("luo: no", "luo-guest: exit 0\n").panicked_as_expected());
    }

    #[test]
    fn the_timeline_is_read() {
        let console =
            Console::read("@timeline kernel boot 12\n@fact verified yes\nluo-guest: exit 3\n");
        assert_eq!(console.timeline(), [("kernel boot".to_owned(), 12)]);
        assert_eq!(console.facts()["verified"], "yes");
        assert_eq!(console.exit(), Some(3));
    }
}
