// SPDX-License-Identifier: GPL-2.0

//! The results of tests in a run of a machine.

use std::fs::OpenOptions;
use std::io::Write;

use crate::ctx::Ctx;
use crate::machine::vm::Run;
use crate::report::ktap::{self, Status};
use crate::report::results::Report;

/// The expected end of a machine with the guest program.
pub const GOOD: &str = "luo-guest exits with 0, and the kernel log has no warning";

/// The maximum length of the result in the message about a failure, in characters.
const CAME: usize = 300;

/// The first `max` characters of `text`; [`None`] if it is not longer.
fn beginning(text: &str, max: usize) -> Option<&str> {
    let (end, _) = text.char_indices().nth(max)?;
    text.get(..end)
}

impl Run {
    /// Why this run has failed, independent of the results of its tests.
    pub fn complaint(&self) -> Option<String> {
        if let Some(limit) = self.timed_out {
            return Some(format!("no end after {} s", limit.as_secs()));
        }
        self.console
            .splats()
            .first()
            .map(|splat| format!("the kernel log has: {splat}"))
    }

    /// Like [`Run::complaint`], for a machine whose init is the guest program.
    pub fn guest_complaint(&self) -> Option<String> {
        self.complaint().or_else(|| match self.console.exit() {
            Some(0) => None,
            Some(status) => Some(format!("luo-guest ended with {status}")),
            None => Some("the machine stopped before luo-guest ended".to_owned()),
        })
    }

    /// A failure in three lines: the expectation, the result, and the log of the console. The rest
    /// of a long result is written to the end of the log.
    pub fn failure(&self, ctx: &Ctx, expected: &str, came: &str) -> String {
        let mut came = came.lines().collect::<Vec<_>>().join("; ");
        if let Some(first) = beginning(&came, CAME) {
            let log = OpenOptions::new().append(true).open(&self.log);
            let rest = match log.and_then(|mut log| writeln!(log, "\nluo-vm: got: {came}")) {
                Ok(()) => "all of it is at the end of the log".to_owned(),
                Err(error) => format!("the rest cannot be written: {error}"),
            };
            came = format!("{first}... ({rest})");
        }
        if let Some(last) = self.console.tail(1).first() {
            came = format!("{came} (last line of the console: {last})");
        }
        let log = ctx.shown(&self.log);
        format!("expected: {expected}\ngot: {came}\nlog: {log}")
    }

    /// Adds the KTAP output of a machine with the guest program to `report`. `expected` are the
    /// tests that must have a result.
    pub fn judge(&self, ctx: &Ctx, report: &mut Report, prefix: &str, expected: &[&str]) {
        let ktap = ktap::parse(self.console.user.iter().map(String::as_str));
        let failed_before = report.failed();
        for result in &ktap.results {
            let name = format!("{prefix}{}", result.name);
            match &result.status {
                Status::Failed => {
                    let came = format!("not ok: {}", result.diagnostics.join("; "));
                    report.fail(&name, &self.failure(ctx, "ok", &came));
                }
                _ => report.result(prefix, result),
            }
        }
        for name in expected {
            let below = format!("{name}.");
            if !ktap
                .results
                .iter()
                .any(|r| r.name == *name || r.name.starts_with(&below))
            {
                let why = self.failure(ctx, &format!("a result of {name}"), "none");
                report.fail(&format!("{prefix}{name}"), &why);
            }
        }
        for problem in ktap.problems {
            let why = self.failure(ctx, "a complete stream of KTAP", &problem);
            report.fail(&format!("{prefix}the plan"), &why);
        }
        let explained = report.failed() != failed_before;
        let complaint = if explained {
            self.complaint()
        } else {
            self.guest_complaint()
        };
        if let Some(came) = complaint {
            let name = format!("{prefix}the machine of {}", expected.join(", "));
            report.fail(&name, &self.failure(ctx, GOOD, &came));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::beginning;

    #[test]
    fn long_results_are_shortened() {
        assert_eq!(beginning("äbc", 3), None);
        assert_eq!(beginning("äbcd", 3), Some("äbc"));
    }
}
