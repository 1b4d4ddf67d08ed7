// SPDX-License-Identifier: GPL-2.0

//! `make test-all`: all groups, repeated until all have passed, and the page of results. Each
//! architecture has a page of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
struct Outcome {
    group: String,
    passed: usize,
    failed: usize,
    seconds: u64,
}

/// The results of the groups of a commit so far.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Progress {
    commit: String,
    outcomes: Vec<Outcome>,
}

impl Progress {
    /// Reads the results of an earlier run of the same commit. With uncommitted changes, there
    /// are none.
    fn read(file: &Path, commit: &str) -> Self {
        let old = fs::read(file).ok();
        let old: Option<Self> = old.and_then(|text| serde_json::from_slice(&text).ok());
        let same = |old: &Self| old.commit == commit && is_clean(commit);
        old.filter(same).unwrap_or(Self {
            commit: commit.to_owned(),
            outcomes: Vec::new(),
        })
    }

    fn passed(&self, group: &str) -> bool {
        let mut outcomes = self.outcomes.iter();
        outcomes.any(|outcome| outcome.group == group && outcome.failed == 0)
    }

    fn add(&mut self, report: &Report, time: Duration) {
        self.outcomes.retain(|old| old.group != report.group());
        self.outcomes.push(Outcome {
            group: report.group().to_owned(),
            passed: report.passed(),
            failed: report.failed(),
            seconds: time.as_secs(),
        });
    }

    /// The page of the architecture `arch`, with `groups` in their order.
    fn page(&self, arch: &str, machine: &str, groups: &[&str]) -> String {
        let mut text = format!(
            "{HEAD}Commit {}, kernels of {arch}, on {machine}.\n\n\
             =============== ======= ======= =========\n\
             Group           Passed  Failed  Seconds\n\
             =============== ======= ======= =========\n",
            self.commit
        );
        let (mut passed, mut failed) = (0, 0);
        for group in groups {
            match self.outcomes.iter().find(|o| o.group == *group) {
                Some(o) => {
                    passed += o.passed;
                    failed += o.failed;
                    text += &format!(
                        "{group:<15} {:<7} {:<7} {}\n",
                        o.passed, o.failed, o.seconds
                    );
                }
                None => text += &format!("{group:<15} not run not run not run\n"),
            }
        }
        text + &format!(
            "**All**         {passed:<7} {failed:<7}\n\
             =============== ======= ======= =========\n\n\
             Groups run side by side, so that the times overlap; the time of a group includes\n\
             no build of a kernel.\n"
        )
    }
}

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
    !commit.is_empty() && !commit.contains(' ')
}

/// Runs those of `groups` that have not passed at this commit. Returns true if all have passed.
pub fn run(ctx: &Ctx, groups: &[&Group]) -> Result<bool> {
    let commit = std::env::var("LUO_COMMIT").unwrap_or_default();
    let file = ctx.build.join(ctx.arch().suffixed("test-all"));
    let file = file.with_extension("json");
    let mut progress = Progress::read(&file, &commit);
    let names: Vec<&str> = groups.iter().map(|group| group.name).collect();
    let mut left = groups.to_vec();
    left.retain(|group| !progress.passed(group.name));
    for group in groups.iter().filter(|group| progress.passed(group.name)) {
        eprintln!("{} has passed before at {commit}", group.name);
    }
    let machine = machine(ctx);
    let mut reports = Vec::new();
    let mut written = Ok(());
    schedule::run(ctx, &left, |_, report, time| {
        progress.add(&report, time);
        reports.push(report);
        if let Err(error) = write(ctx, &file, &progress, &machine, &names) {
            written = Err(error);
        }
    });
    written?;
    let good = reports.is_empty() || summary(&reports);
    println!("{}", ctx.shown(&ctx.top.join(page(ctx))));
    Ok(good && names.iter().all(|name| progress.passed(name)))
}

fn write(ctx: &Ctx, file: &Path, progress: &Progress, machine: &str, names: &[&str]) -> Result<()> {
    fs::write(file, serde_json::to_vec_pretty(progress)?).with_context(|| ctx.shown(file))?;
    let text = progress.page(ctx.arch().name, machine, names);
    write_if_changed(&ctx.top.join(page(ctx)), text.as_bytes())?;
    Ok(())
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

    fn progress() -> Progress {
        let mut progress = Progress::default();
        let mut good = Report::new("good");
        good.pass("a");
        let mut bad = Report::new("bad");
        bad.fail("b", "");
        progress.add(&bad, Duration::from_secs(1));
        progress.add(&good, Duration::from_secs(2));
        progress
    }

    #[test]
    fn only_what_passed_is_not_run_again() {
        let progress = progress();
        assert!(progress.passed("good"));
        assert!(!progress.passed("bad"));
        assert!(!progress.passed("other"));
    }

    #[test]
    fn another_commit_begins_anew() {
        let dir = std::env::temp_dir().join(format!("luo-all-{}", std::process::id()));
        let mut progress = progress();
        for (commit, again, left) in [("abc", "abc", 2), ("abc", "abd", 0), ("abc +", "abc +", 0)] {
            progress.commit = commit.to_owned();
            fs::write(&dir, serde_json::to_vec(&progress).unwrap()).unwrap();
            assert_eq!(Progress::read(&dir, again).outcomes.len(), left);
        }
        fs::remove_file(dir).unwrap();
    }

    #[test]
    fn the_page_names_every_group() {
        let page = progress().page("x86", "a machine", &["good", "bad", "other"]);
        assert!(page.contains("\ngood            1       0       2\n"));
        assert!(page.contains("\nbad             0       1       1\n"));
        assert!(page.contains("\nother           not run not run not run\n"));
        assert!(page.contains("\n**All**         1       1      \n"));
    }
}
