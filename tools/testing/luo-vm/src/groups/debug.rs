// SPDX-License-Identifier: GPL-2.0

//! The group `debug`, and `make test-debug`: kernels that check what they do.

use anyhow::Result;

use crate::ctx::Ctx;
use crate::groups::{kselftest, kunit, stress};
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::report::results::Report;

/// Our own kselftests with everything that checks turned on, and KUnit with the doctests.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Debug)?;
    kunit::run_on(ctx, report, &kernel, "kunit ")?;
    kselftest::run_on(ctx, report, &kernel)?;
    stress::short(ctx, report, &kernel)
}

/// The threads that do everything at once for a longer time, and our own kselftests, on the kernel
/// that checks most. True if nothing failed.
pub fn test_all(ctx: &Ctx, seconds: u64, seed: u64) -> Result<bool> {
    let kernel = build::kernel(ctx, Flavour::Kasan)?;
    let mut report = Report::default();
    report.begin("stress");
    let outcome = stress::run_on(ctx, &kernel, seconds, seed)?;
    for line in &outcome.lines {
        println!("stage {line}");
    }
    let name = format!("everything at once for {seconds} s, seed {seed}");
    report.check(&name, outcome.failure);
    report.end();
    report.begin("kselftest");
    if let Err(error) = kselftest::run_on(ctx, &mut report, &kernel) {
        report.fail("the group could not run", &format!("{error:#}"));
    }
    report.end();
    Ok(report.finish())
}
