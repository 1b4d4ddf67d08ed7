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
    let mut output = Output::default();
    let mut cargo = programs::cargo(ctx);
    cargo.args(["test", "--locked", "--workspace", "--no-fail-fast", "--"]);
    // Tests that need something of the machine say that they are skipped.
    cargo.arg("--show-output");
    let outcome = step.run_with(&mut cargo, &ctx.log("cargo-test"), |_, line| {
        output.read(line);
    });
    let Output {
        results, skipped, ..
    } = output;
    step.done(&format!("{} tests", results.len()));
    let mut failed = false;
    for (name, end) in results {
        if let Some((_, why)) = skipped.iter().find(|(other, _)| *other == name) {
            report.not_run(&name, why);
            continue;
        }
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

/// What `cargo test` has printed.
#[derive(Default)]
struct Output {
    /// The program whose tests run.
    unit: String,
    /// The test whose output follows.
    test: Option<String>,
    /// Tests, and how they have ended.
    results: Vec<(String, String)>,
    /// Tests that were skipped, and why.
    skipped: Vec<(String, String)>,
}

impl Output {
    fn read(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["Running", .., binary] = words[..] {
            let name = Path::new(binary.trim_matches(['(', ')'])).file_name();
            let name = name.unwrap_or_default().to_string_lossy();
            let unit = name.rsplit_once('-').map_or(&*name, |(name, _)| name);
            self.unit = unit.to_owned();
        } else if let ["Doc-tests", name] = words[..] {
            self.unit = format!("{name} doc");
        } else if let ["----", test, "stdout", "----"] = words[..] {
            self.test = Some(format!("{} {test}", self.unit));
        } else if let Some(why) = line.strip_prefix("skipped: ") {
            let test = self.test.clone();
            self.skipped.extend(test.map(|test| (test, why.to_owned())));
        } else if let Some((name, end)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            self.results
                .push((format!("{} {name}", self.unit), end.to_owned()));
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_found() {
        let mut output = Output::default();
        for line in [
            "     Running tests/hold.rs (build/target/debug/deps/hold-0123)",
            "test one ... ok",
            "test two ... ok",
            "successes:",
            "---- two stdout ----",
            "skipped: there is no nftables",
            "   Doc-tests liveupdate",
            "test src/lib.rs - a (line 3) ... FAILED",
        ] {
            output.read(line);
        }
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            output.results,
            [
                pair("hold one", "ok"),
                pair("hold two", "ok"),
                pair("liveupdate doc src/lib.rs - a (line 3)", "FAILED"),
            ]
        );
        assert_eq!(output.skipped, [pair("hold two", "there is no nftables")]);
    }
}
