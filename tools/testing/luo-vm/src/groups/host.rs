// SPDX-License-Identifier: GPL-2.0

//! The group `host`: tests without a virtual machine.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::groups::fuzz;
use crate::image::programs;
use crate::report::results::Report;
use crate::report::step::Step;

/// The tests of the Cargo workspace and of the Python module, and a short fuzzing run.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let mut step = Step::start(ctx, "cargo test");
    let mut results = Vec::new();
    let mut unit = String::new();
    let mut cargo = programs::cargo(ctx);
    cargo.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    let outcome = step.run_with(&mut cargo, &ctx.log("cargo-test"), |_, line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["Running", .., binary] = words[..] {
            let name = Path::new(binary.trim_matches(['(', ')'])).file_name();
            let name = name
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            unit = name
                .rsplit_once('-')
                .map_or(name.clone(), |(name, _)| name.to_owned());
        } else if let ["Doc-tests", name] = words[..] {
            unit = format!("{name} doc");
        } else if let Some((name, end)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            results.push((format!("{unit} {name}"), end.to_owned()));
        }
    });
    step.done(&format!("{} tests", results.len()));
    let mut failed = false;
    for (name, end) in results {
        failed |= end != "ok";
        report.check(
            &name,
            (end != "ok").then(|| format!("{end}: {}", ctx.shown(&ctx.log("cargo-test")))),
        );
    }
    match outcome {
        Err(error) if !failed => report.fail("cargo test", &format!("{error:#}")),
        _ => {}
    }
    python(ctx, report);
    fuzz::short(ctx, report)
}

/// The tests of the Python module.
fn python(ctx: &Ctx, report: &mut Report) {
    let mut step = Step::start(ctx, "tests of the Python module");
    let mut python = Command::new("python3");
    python.args(["-m", "unittest", "discover", "-v", "-s", "tests"]);
    python.current_dir(ctx.top.join("tools/liveupdate/python"));
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    let outcome = step.run(&mut python, &ctx.log("python-test"));
    report.attempt("the Python module liveupdate", outcome.map(|()| None));
    step.done("");
}
