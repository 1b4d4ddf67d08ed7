// SPDX-License-Identifier: GPL-2.0

//! Machines that have stopped: the time limits for output, and the state of a machine that exceeds
//! them.
//!
//! The unchanged base can hang at boot: its clocksource watchdog can wait forever for another
//! processor, see `patches/time`. On a busy host, this happens about once in 300 boots. A machine
//! that boots such a kernel is therefore restarted, once. A machine that only boots kernels with
//! the overlay is not: if it hangs, that is a fault.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::machine::monitor::Monitor;

/// How long a machine may print nothing.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Before the init of its first kernel, which takes some seconds.
    pub before_init: Duration,
    /// Afterwards. [`None`] if its output cannot be discarded.
    pub later: Option<Duration>,
}

impl Limits {
    /// The limits of a machine whose output is used after its end.
    pub const ALWAYS: Self = Self {
        before_init: Duration::from_secs(120),
        later: Some(Duration::from_secs(300)),
    };

    /// The limits of a machine whose output is used immediately.
    pub const BEFORE_INIT: Self = Self {
        later: None,
        ..Self::ALWAYS
    };

    /// The limits of a kernel that is `slowness` times slower than usual.
    pub fn times(self, slowness: u32) -> Self {
        Self {
            before_init: self.before_init * slowness,
            later: self.later.map(|limit| limit * slowness),
        }
    }
}

/// How long a machine may remain silent after [`nudge`].
pub const AFTER_NUDGE: Duration = Duration::from_secs(60);

/// Returns the state of the processors of a machine and of the threads of its QEMU.
pub fn look(monitor: &Path, qemu: u32, processors: u32) -> String {
    let mut seen = String::new();
    // A missing answer means that QEMU itself hangs.
    match Monitor::connect(monitor) {
        Ok(mut monitor) => {
            let lapics = (0..processors).map(|n| format!("info lapic {n}"));
            let questions = ["info status", "info cpus", "info registers -a"]
                .map(str::to_owned)
                .into_iter()
                .chain(lapics);
            for question in questions {
                let answer = monitor.ask(&question);
                let answer = answer.unwrap_or_else(|error| format!("no answer: {error:#}"));
                let _ = writeln!(seen, "# {question}\n{answer}");
            }
        }
        Err(error) => {
            let _ = writeln!(seen, "# QEMU's monitor\nno answer: {error:#}");
        }
    }
    let tasks = fs::read_dir(format!("/proc/{qemu}/task"));
    for task in tasks.into_iter().flatten().flatten() {
        let _ = write!(seen, "# thread");
        for file in ["comm", "stat", "wchan", "syscall"] {
            let text = fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let _ = write!(seen, " | {}", text.trim());
        }
        seen.push('\n');
    }
    seen
}

/// The lines of the output of [`look`] that show whether a processor is halted, and its interrupts:
/// for the summary of a run.
pub fn essence(seen: &str) -> String {
    const LINES: [&str; 6] = ["RIP=", "PC=", "LVTT", "Timer", "ISR", "IRR"];
    let lines = seen.lines().map(str::trim);
    let told = lines.filter(|line| {
        LINES.iter().any(|start| line.starts_with(start)) || line.starts_with("no answer")
    });
    let words = told.flat_map(|line| line.split_whitespace().chain(["|"]));
    words.collect::<Vec<_>>().join(" ")
}

/// Stops and continues the processors, so that each checks its interrupts again.
pub fn nudge(monitor: &Path) -> Result<()> {
    let mut monitor = Monitor::connect(monitor)?;
    monitor.execute(&json!({"execute": "stop"}))?;
    monitor.execute(&json!({"execute": "cont"}))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_essence_says_who_is_halted() {
        let seen = "# info registers -a\nRAX=0\nRIP=ff RFL=00000246 [---Z-P-] HLT=1\n\
                    # info lapic 0\nLVTT\t 0x000000ec active-hi edge\nISR\t (none)\nIRR\t 236\n";
        assert_eq!(
            essence(seen),
            "RIP=ff RFL=00000246 [---Z-P-] HLT=1 | LVTT 0x000000ec active-hi edge | \
             ISR (none) | IRR 236 |"
        );
    }
}
