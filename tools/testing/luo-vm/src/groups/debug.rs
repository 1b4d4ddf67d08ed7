// SPDX-License-Identifier: GPL-2.0

//! The groups `debug` and `kasan`, and `make test-debug`: kernels that check what they do.

use anyhow::Result;

use crate::ctx::Ctx;
use crate::groups::{kselftest, stress};
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::report::results::{summary, Report};
use crate::report::step;

/// How long the group `kasan` lets the threads do everything at once, in seconds.
const KASAN_SECONDS: u64 = 600;

/// Our own kselftests with what checks locking turned on, and a bit of stress.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Debug)?;
    kselftest::run_on(ctx, report, &kernel)?;
    stress::short(ctx, report, &kernel)
}

/// The threads that do everything at once for a longer time, and our own kselftests, on the kernel
/// that checks most.
pub fn run_kasan(ctx: &Ctx, report: &mut Report) -> Result<()> {
    kasan(ctx, report, KASAN_SECONDS, 1)
}

fn kasan(ctx: &Ctx, report: &mut Report, seconds: u64, seed: u64) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Kasan)?;
    let outcome = stress::run_on(ctx, &kernel, seconds, seed)?;
    for line in &outcome.lines {
        step::print(&format!("stage {line}"));
    }
    let name = format!("everything at once for {seconds} s, seed {seed}");
    report.check(&name, outcome.failure);
    kselftest::run_on(ctx, report, &kernel)
}

/// `make test-debug`: the group `kasan`, as long as it is asked to. True if nothing failed.
pub fn test_debug(ctx: &Ctx, seconds: u64, seed: u64) -> Result<bool> {
    let mut report = Report::new("kasan");
    if let Err(error) = kasan(ctx, &mut report, seconds, seed) {
        report.fail("the group could not run", &format!("{error:#}"));
    }
    report.end();
    Ok(summary(&[report]))
}
