// SPDX-License-Identifier: GPL-2.0

//! The results of tests in a run of a machine.

use crate::ctx::Ctx;
use crate::machine::vm::Run;
use crate::report::ktap::{self, Status};
use crate::report::results::Report;

/// The expected end of a machine with the guest program.
pub const GOOD: &str = "luo-guest exits with 0, and the kernel log has no warning";

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

    /// A failure in three lines: the expectation, the result, and the log of the console.
    pub fn failure(&self, ctx: &Ctx, expected: &str, came: &str) -> String {
        let mut came = came.lines().collect::<Vec<_>>().join("; ");
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
