// SPDX-License-Identifier: GPL-2.0

//! Results of tests, one line each, and the summary.

use std::sync::{Mutex, PoisonError};

use crate::report::ktap::{Status, TestResult};
use crate::report::step;

/// The group in which nothing may be skipped.
const STRICT: &str = "kselftest-base";

/// What is no result, but must not be overlooked.
static NOTICES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Prints what is no result, but must not be overlooked: now, and in the summary.
pub fn notice(text: &str) {
    let line = format!("NOTE {text}");
    step::print(&line);
    NOTICES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(line);
}

/// What was tested in a group.
pub struct Report {
    group: &'static str,
    passed: usize,
    failed: usize,
    failures: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    /// The report of a group of which nothing has run.
    pub fn new(group: &'static str) -> Self {
        Self {
            group,
            passed: 0,
            failed: 0,
            failures: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Ends the group. A group in which nothing ran has failed.
    pub fn end(&mut self) {
        if self.passed + self.failed == 0 {
            self.fail("nothing ran", "");
        }
    }

    fn add(&mut self, word: &str, name: &str, why: &str) {
        let line = format!("{}: {name}", self.group);
        let mut text = format!("{word} {line}");
        for line in why.lines() {
            text += "\n     ";
            text += line;
        }
        step::print(&text);
        if word == "PASS" {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failures.push(text);
        }
    }

    /// The group.
    pub fn group(&self) -> &'static str {
        self.group
    }

    /// How many results were good so far.
    pub fn passed(&self) -> usize {
        self.passed
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
        step::print(&line);
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
}

/// Prints the summary; its last line is `N passed, N failed`. True if all is well.
pub fn summary(reports: &[Report]) -> bool {
    println!();
    for report in reports {
        println!(
            "{:>5} results in {}",
            report.passed + report.failed,
            report.group
        );
    }
    for line in NOTICES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        println!("{line}");
    }
    for line in reports
        .iter()
        .flat_map(|r| r.notes.iter().chain(&r.failures))
    {
        println!("{line}");
    }
    let passed: usize = reports.iter().map(|report| report.passed).sum();
    let failed: usize = reports.iter().map(|report| report.failed).sum();
    println!("{passed} passed, {failed} failed");
    failed == 0 && passed > 0
}
