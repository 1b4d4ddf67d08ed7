// SPDX-License-Identifier: GPL-2.0

//! Results of tests, one line each, and the summary.

use std::sync::{Mutex, PoisonError};

use crate::report::ktap::{Status, TestResult};
use crate::report::step;

/// The group in which nothing may be skipped.
const STRICT: &str = "kselftest-base";

/// The length of a failure in the list at the end, in characters.
const SHORT: usize = 300;

/// Important messages that are not results.
static NOTICES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Prints an important message that is not a result: now, and in the summary.
pub fn notice(text: &str) {
    let line = format!("NOTE {text}");
    step::print(&line);
    NOTICES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(line);
}

/// The results of a group.
pub struct Report {
    group: &'static str,
    passed: usize,
    failed: usize,
    failures: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    /// The report of a group that has not run.
    pub fn new(group: &'static str) -> Self {
        Self {
            group,
            passed: 0,
            failed: 0,
            failures: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Ends the group. A group without results has failed.
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

    /// The number of passed tests so far.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// The number of failed tests so far.
    pub fn failed(&self) -> usize {
        self.failed
    }

    pub fn pass(&mut self, name: &str) {
        self.add("PASS", name, "");
    }

    pub fn fail(&mut self, name: &str, why: &str) {
        self.add("FAIL", name, why);
    }

    /// Adds a result, which passes if there is no failure.
    pub fn check(&mut self, name: &str, against: Option<String>) {
        match against {
            None => self.pass(name),
            Some(why) => self.fail(name, &why),
        }
    }

    /// Like [`Report::check`], for a check that may be impossible.
    pub fn attempt(&mut self, name: &str, result: anyhow::Result<Option<String>>) {
        self.check(
            name,
            result.unwrap_or_else(|error| Some(format!("{error:#}"))),
        );
    }

    /// Reports a skipped test, which is neither passed nor failed.
    pub fn not_run(&mut self, name: &str, why: &str) {
        let line = format!("SKIP {}: {name}: {why}", self.group);
        step::print(&line);
        self.notes.push(line);
    }

    /// Adds the result of a test. A skipped test is not a pass, and is shown.
    pub fn result(&mut self, prefix: &str, result: &TestResult) {
        let name = format!("{prefix}{}", result.name);
        match &result.status {
            Status::Passed => self.pass(&name),
            Status::Failed => self.fail(&name, &result.diagnostics.join("\n")),
            // The base's own tests skip if the machine lacks a feature, which must not happen here.
            Status::Skipped(why) if self.group == STRICT => {
                self.fail(&name, &format!("it skipped itself: {why}"));
            }
            Status::Skipped(why) => self.not_run(&name, why),
        }
    }
}

/// Prints the summary; its last line is `N passed, N failed`. Returns true if nothing failed.
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
    for line in reports.iter().flat_map(|report| &report.notes) {
        println!("{line}");
    }
    for line in reports.iter().flat_map(|report| &report.failures) {
        println!("{line}");
    }
    // Repeats the failures in short, in the last lines of the output.
    for line in reports.iter().flat_map(|report| &report.failures) {
        let short: String = line.split_whitespace().collect::<Vec<_>>().join(" ");
        println!("failed: {}", short.chars().take(SHORT).collect::<String>());
    }
    let passed: usize = reports.iter().map(|report| report.passed).sum();
    let failed: usize = reports.iter().map(|report| report.failed).sum();
    println!("{passed} passed, {failed} failed");
    failed == 0 && passed > 0
}
