// SPDX-License-Identifier: GPL-2.0

//! What the run of a machine says about tests.

use crate::ctx::Ctx;
use crate::machine::vm::Run;
use crate::report::ktap;
use crate::report::results::Report;

impl Run {
    /// Why this run cannot have been a good one, whatever its tests say.
    pub fn complaint(&self) -> Option<String> {
        if let Some(limit) = self.timed_out {
            return Some(format!("no end after {} s", limit.as_secs()));
        }
        self.console
            .splats()
            .first()
            .map(|splat| format!("the kernel log has: {splat}"))
    }

    /// As [`Run::complaint`], for a machine whose init is our guest program.
    pub fn guest_complaint(&self) -> Option<String> {
        self.complaint().or_else(|| match self.console.exit() {
            Some(0) => None,
            Some(status) => Some(format!("luo-guest ended with {status}")),
            None => Some("the machine stopped before luo-guest ended".to_owned()),
        })
    }

    /// The end of the console and the place of its log.
    pub fn tail(&self, ctx: &Ctx) -> String {
        let lines = self.console.tail(25).iter().map(|l| format!("    | {l}\n"));
        format!(
            "{}    The whole console is {}",
            lines.collect::<String>(),
            ctx.shown(&self.log)
        )
    }

    /// Puts the KTAP that programs printed in a machine run by our guest into `report`. `expected`
    /// are the tests that must have reported.
    pub fn judge(&self, ctx: &Ctx, report: &mut Report, prefix: &str, expected: &[&str]) {
        let ktap = ktap::parse(self.console.user.iter().map(String::as_str));
        let failed_before = report.failed();
        for result in &ktap.results {
            report.result(prefix, result);
        }
        for name in expected {
            let below = format!("{name}.");
            if !ktap
                .results
                .iter()
                .any(|r| r.name == *name || r.name.starts_with(&below))
            {
                report.fail(&format!("{prefix}{name}"), "it did not report a result");
            }
        }
        for problem in ktap.problems {
            report.fail(&format!("{prefix}the plan"), &problem);
        }
        let explained = report.failed() != failed_before;
        let complaint = if explained {
            self.complaint()
        } else {
            self.guest_complaint()
        };
        if let Some(why) = complaint {
            let name = format!("{prefix}the machine of {}", expected.join(", "));
            report.fail(&name, &format!("{why}\n{}", self.tail(ctx)));
        } else if explained {
            println!("{}", self.tail(ctx));
        }
    }
}
