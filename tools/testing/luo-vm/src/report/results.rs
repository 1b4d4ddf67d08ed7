// SPDX-License-Identifier: GPL-2.0

//! Results of tests, one line each, and the summary.

use std::collections::BTreeMap;

use crate::report::ktap::{Status, TestResult};

/// The group in which nothing may be skipped.
const STRICT: &str = "kselftest-base";

/// Everything that was tested, over all groups.
#[derive(Default)]
pub struct Report {
    passed: usize,
    failed: usize,
    failures: Vec<String>,
    notes: Vec<String>,
    group: &'static str,
    counts: BTreeMap<&'static str, usize>,
}

impl Report {
    /// Begins a group; its results follow.
    pub fn begin(&mut self, group: &'static str) {
        self.group = group;
        self.counts.insert(group, 0);
    }

    /// Ends a group. A group in which nothing ran has failed.
    pub fn end(&mut self) {
        if self.counts.get(self.group) == Some(&0) {
            self.fail("nothing ran", "");
        }
    }

    fn add(&mut self, word: &str, name: &str, why: &str) {
        *self.counts.entry(self.group).or_default() += 1;
        let line = format!("{}: {name}", self.group);
        println!("{word} {line}");
        for line in why.lines() {
            println!("     {line}");
        }
        if word == "PASS" {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failures.push(format!("{word} {line}"));
        }
    }

    /// How many results were bad so far.
    pub fn failed(&self) -> usize {
        self.failed
    }

    pub fn pass(&mut self, name: &str) {
        self.add("PASS", name, "");
    }

    pub fn fail(&mut self, name: &str, why: &str) {
        self.add("FAIL", name, why);
    }

    /// Passes if there is nothing to say against it.
    pub fn check(&mut self, name: &str, against: Option<String>) {
        match against {
            None => self.pass(name),
            Some(why) => self.fail(name, &why),
        }
    }

    /// As [`Report::check`], for something that could not even be tried.
    pub fn attempt(&mut self, name: &str, result: anyhow::Result<Option<String>>) {
        self.check(
            name,
            result.unwrap_or_else(|error| Some(format!("{error:#}"))),
        );
    }

    /// Says that something was not tested; it counts neither way, but it is not hidden.
    pub fn not_run(&mut self, name: &str, why: &str) {
        let line = format!("SKIP {}: {name}: {why}", self.group);
        println!("{line}");
        self.notes.push(line);
    }

    /// Takes over one result. A test that skipped itself has tested nothing: it is not a pass,
    /// and it stays in sight.
    pub fn result(&mut self, prefix: &str, result: &TestResult) {
        let name = format!("{prefix}{}", result.name);
        match &result.status {
            Status::Passed => self.pass(&name),
            Status::Failed => self.fail(&name, &result.diagnostics.join("\n")),
            // The base's own tests skip where the machine lacks something that ours must have.
            Status::Skipped(why) if self.group == STRICT => {
                self.fail(&name, &format!("it skipped itself: {why}"));
            }
            Status::Skipped(why) => self.not_run(&name, why),
        }
    }

    /// Prints the summary; its last line is `N passed, N failed`. True if all is well.
    pub fn finish(&self) -> bool {
        println!();
        for (group, count) in &self.counts {
            println!("{count:>5} results in {group}");
        }
        for line in self.notes.iter().chain(&self.failures) {
            println!("{line}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0 && self.passed > 0
    }
}
