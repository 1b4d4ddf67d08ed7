// SPDX-License-Identifier: GPL-2.0

//! `make test-all`: all groups, repeated until all have passed at the same commit, and the page of
//! results. Each architecture has a page of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::files::write_if_changed;
use crate::groups::schedule::{self, Group};
use crate::report::results::{summary, Report};

/// The page of results, relative to the checkout.
fn page(ctx: &Ctx) -> PathBuf {
    let name = ctx.arch().suffixed("results");
    Path::new("Documentation/project")
        .join(name)
        .with_extension("rst")
}

/// The result of a group.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    group: String,
    /// The tested commit; with a `+` if there were further changes.
    commit: String,
    passed: usize,
    failed: usize,
    seconds: u64,
}

impl Outcome {
    /// Reads a row of the page.
    fn parse(row: &str) -> Option<Self> {
        let mut words = row.split_whitespace();
        let mut word = || words.next();
        Some(Self {
            group: word()?.to_owned(),
            commit: word()?.to_owned(),
            passed: word()?.parse().ok()?,
            failed: word()?.parse().ok()?,
            seconds: word()?.parse().ok()?,
        })
    }

    fn row(&self) -> String {
        format!(
            "{:<15} {:<13} {:<7} {:<7} {}\n",
            self.group, self.commit, self.passed, self.failed, self.seconds
        )
    }
}

/// The last result of each group.
#[derive(Debug, Default)]
struct Results(Vec<Outcome>);

impl Results {
    /// Reads a page.
    fn parse(page: &str) -> Self {
        Self(page.lines().filter_map(Outcome::parse).collect())
    }

    /// Whether a group has passed at exactly this commit.
    fn passed(&self, group: &str, commit: &str) -> bool {
        let of_commit = |outcome: &&Outcome| outcome.group == group && outcome.commit == commit;
        let outcome = self.0.iter().find(of_commit);
        is_clean(commit) && outcome.is_some_and(|outcome| outcome.failed == 0)
    }

    fn add(&mut self, commit: &str, report: &Report, time: Duration) {
        self.0.retain(|old| old.group != report.group());
        self.0.push(Outcome {
            group: report.group().to_owned(),
            commit: commit.to_owned(),
            passed: report.passed(),
            failed: report.failed(),
            seconds: time.as_secs(),
        });
    }

    /// The page of the architecture `arch`, with `groups` in their order. The last run was on
    /// `machine`.
    fn page(&self, arch: &str, machine: &str, groups: &[&str]) -> String {
        let mut text = format!(
            "{HEAD}Kernels of {arch}. The last group was run on {machine}.\n\n\
             {LINE}Group           Commit        Passed  Failed  Seconds\n{LINE}"
        );
        for group in groups {
            match self.0.iter().find(|outcome| outcome.group == *group) {
                Some(outcome) => text += &outcome.row(),
                None => text += &format!("{group:<15} not run\n"),
            }
        }
        text + &format!(
            "{LINE}\n\
             Each row is the last run of a group, at the commit in the row; a ``+`` means that there\n\
             were uncommitted changes. Groups run side by side, so that the times overlap; the time\n\
             of a group includes no build of a kernel.\n"
        )
    }
}

/// A line of the table.
const LINE: &str = "=============== ============= ======= ======= =======\n";

/// The beginning of the page.
const HEAD: &str = "\
.. SPDX-License-Identifier: GPL-2.0

==========================
Results of all test groups
==========================

Written by ``make test-all``; not edited by hand.

";

/// Returns whether `commit` identifies the tested source, without uncommitted changes.
fn is_clean(commit: &str) -> bool {
    !commit.is_empty() && !commit.ends_with('+') && commit != UNKNOWN
}

/// In place of a commit, if the source is no git repository.
const UNKNOWN: &str = "unknown";

/// Runs those of `groups` that are `wanted` and have not passed at this commit. Returns true if all
/// that are wanted have passed.
pub fn run(ctx: &Ctx, groups: &[&Group], wanted: impl Fn(&Group) -> bool) -> Result<bool> {
    let commit = std::env::var("LUO_COMMIT").unwrap_or_default();
    let commit = match commit.is_empty() {
        true => UNKNOWN.to_owned(),
        false => commit,
    };
    let file = ctx.top.join(page(ctx));
    let mut results = Results::parse(&fs::read_to_string(&file).unwrap_or_default());
    let names: Vec<&str> = groups.iter().map(|group| group.name).collect();
    let groups: Vec<&Group> = groups
        .iter()
        .copied()
        .filter(|group| wanted(group))
        .collect();
    let mut left = groups.clone();
    left.retain(|group| !results.passed(group.name, &commit));
    for group in &groups {
        if results.passed(group.name, &commit) {
            eprintln!("{} has passed before at {commit}", group.name);
        }
    }
    let machine = machine(ctx);
    let mut reports = Vec::new();
    let mut written = Ok(());
    schedule::run(ctx, &left, |_, report, time| {
        results.add(&commit, &report, time);
        reports.push(report);
        let text = results.page(ctx.arch().name, &machine, &names);
        if let Err(error) = write_if_changed(&file, text.as_bytes()) {
            written = Err(error);
        }
    });
    written?;
    let good = reports.is_empty() || summary(&reports);
    println!("{}", ctx.shown(&file));
    Ok(good
        && groups
            .iter()
            .all(|group| results.passed(group.name, &commit) || !is_clean(&commit)))
}

/// The machine, on which the times depend.
fn machine(ctx: &Ctx) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines = info.lines();
    let model = lines.find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |m| m.trim_start_matches([' ', '\t', ':']));
    format!("{} processors ({model}), QEMU TCG", ctx.jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let mut results = Results::default();
        let mut good = Report::new("good");
        good.pass("a");
        let mut bad = Report::new("bad");
        bad.fail("b", "");
        results.add("abc", &bad, Duration::from_secs(1));
        results.add("abc", &good, Duration::from_secs(2));
        results
    }

    #[test]
    fn only_what_passed_at_this_commit_is_not_run_again() {
        let mut results = results();
        assert!(results.passed("good", "abc"));
        assert!(!results.passed("good", "abd"));
        assert!(!results.passed("bad", "abc"));
        assert!(!results.passed("other", "abc"));
        for commit in ["abc+", UNKNOWN] {
            results.add(commit, &Report::new("good"), Duration::ZERO);
            assert!(!results.passed("good", commit));
        }
    }

    #[test]
    fn the_page_keeps_the_results_of_all_groups() {
        let groups = ["good", "bad", "other"];
        let page = results().page("x86", "a machine", &groups);
        assert!(page.contains("\ngood            abc           1       0       2\n"));
        assert!(page.contains("\nbad             abc           0       1       1\n"));
        assert!(page.contains("\nother           not run\n"));
        let mut read = Results::parse(&page);
        assert_eq!(read.0.len(), 2);
        assert_eq!(read.page("x86", "a machine", &groups), page);

        let mut report = Report::new("bad");
        report.pass("b");
        read.add("abd", &report, Duration::from_secs(3));
        let page = read.page("x86", "a machine", &groups);
        assert!(page.contains("\ngood            abc           1       0       2\n"));
        assert!(page.contains("\nbad             abd           1       0       3\n"));
    }
}
