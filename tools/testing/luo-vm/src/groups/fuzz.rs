// SPDX-License-Identifier: GPL-2.0

//! Fuzzing of the parsers of handed over data, on the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::ctx::Ctx;
use crate::report::results::Report;
use crate::report::step::Step;

/// The programs of the crate, one for each kind of input.
const TARGETS: [&str; 7] = ["pages", "lists", "memfd", "hugetlb", "kvm", "vfio", "image"];
pub const CRATE: &str = "tools/testing/selftests/liveupdate/fuzz";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The instrumentation for libFuzzer, with the flags of `cargo fuzz`.
const RUSTFLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing";

/// Inputs up to this size: two pages.
const MAX_LEN: &str = "-max_len=8192";

/// The number of runs of a target in `make test`.
const SHORT_RUNS: u64 = 20_000;

/// The result of a target.
struct Outcome {
    runs: u64,
    coverage: u64,
    corpus: u64,
    failure: Option<String>,
}

/// Builds the targets; returns their directory.
fn build(ctx: &Ctx) -> Result<PathBuf> {
    let mut step = Step::start(ctx, "build the fuzz targets");
    let target = std::env::var_os("CARGO_TARGET_DIR").context("CARGO_TARGET_DIR is not set")?;
    // In a directory of its own, since the flags differ.
    let target = PathBuf::from(target).join("fuzz");
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(ctx.top.join(CRATE))
        .args(["build", "--locked", "--release", "--target", TRIPLE])
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", RUSTFLAGS);
    step.run(&mut cargo, &ctx.log("fuzz-build"))?;
    step.done("");
    Ok(target.join(TRIPLE).join("release"))
}

/// The number after `key` in a line of libFuzzer.
fn number(line: &str, key: &str) -> Option<u64> {
    let (_, rest) = line.split_once(key)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Runs a target up to `limit`. New inputs are written to `found`.
fn run_target(
    ctx: &Ctx,
    programs: &Path,
    name: &str,
    limit: &[String],
    found: &Path,
) -> Result<Outcome> {
    fs::create_dir_all(found)?;
    let mut step = Step::start(ctx, format!("fuzz {name}"));
    let mut command = Command::new(programs.join(name));
    command
        .arg(MAX_LEN)
        .args(["-print_final_stats=1", "-timeout=10"])
        .arg(format!("-artifact_prefix={}/crash-", found.display()))
        .args(limit)
        // libFuzzer writes new inputs to the first directory; the second one is in
        // the repository.
        .arg(found)
        .arg(ctx.top.join(CRATE).join("corpus").join(name));
    let log = ctx.log(&format!("fuzz-{name}"));
    let mut outcome = Outcome {
        runs: 0,
        coverage: 0,
        corpus: 0,
        failure: None,
    };
    let result = step.run_with(&mut command, &log, |step, line| {
        let pulse = line.strip_prefix('#').and_then(|rest| number(rest, ""));
        outcome.runs = number(line, "stat::number_of_executed_units:")
            .or(pulse)
            .unwrap_or(outcome.runs);
        outcome.coverage = number(line, " cov: ").unwrap_or(outcome.coverage);
        if let Some((_, corpus)) = line.split_once(" corp: ") {
            let corpus = corpus.split('/').next().and_then(|n| n.parse().ok());
            outcome.corpus = corpus.unwrap_or(outcome.corpus);
        }
        step.progress(&format!(
            "{} executions, coverage {}",
            outcome.runs, outcome.coverage
        ));
    });
    outcome.failure = result.err().map(|error| {
        format!(
            "{error:#}\nThe input is in {}: give its name to {} to see it fail again.",
            ctx.shown(found),
            ctx.shown(&programs.join(name))
        )
    });
    step.done(&format!(
        "{} executions, coverage {}, corpus {}",
        outcome.runs, outcome.coverage, outcome.corpus
    ));
    Ok(outcome)
}

/// All targets, `seconds` each. Returns true if no fault was found.
pub fn run(ctx: &Ctx, seconds: u64) -> Result<bool> {
    let programs = build(ctx)?;
    let limit = [format!("-max_total_time={seconds}")];
    let mut total = 0;
    let mut failures = 0;
    for name in TARGETS {
        let found = ctx.build.join("fuzz").join(name);
        let outcome = run_target(ctx, &programs, name, &limit, &found)?;
        total += outcome.runs;
        if let Some(failure) = outcome.failure {
            failures += 1;
            eprintln!("{name}: {failure}");
        }
    }
    println!(
        "{} targets, {total} executions, {failures} failed",
        TARGETS.len()
    );
    Ok(failures == 0)
}

/// A short, reproducible run.
pub fn short(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let programs = build(ctx)?;
    let limit = [format!("-runs={SHORT_RUNS}"), "-seed=1".to_owned()];
    for name in TARGETS {
        let found = ctx.build.join("fuzz-short").join(name);
        // Inputs of an earlier run would change this one.
        if found.exists() {
            fs::remove_dir_all(&found)?;
        }
        let outcome = run_target(ctx, &programs, name, &limit, &found)?;
        let failure = outcome.failure.or_else(|| {
            (outcome.runs < SHORT_RUNS)
                .then(|| format!("it ended after {} executions", outcome.runs))
        });
        report.check(&format!("fuzz {name}"), failure);
    }
    Ok(())
}
