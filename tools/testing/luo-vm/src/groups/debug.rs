// SPDX-License-Identifier: GPL-2.0

//! The groups `debug` and `kasan`, and `make test-debug`: kernels with debugging options.

use anyhow::Result;

use crate::ctx::Ctx;
use crate::groups::{kselftest, stress};
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::report::results::{summary, Report};
use crate::report::step;

/// How long the stress test of the group `kasan` runs, in seconds.
const KASAN_SECONDS: u64 = 600;

/// The kselftests of the overlay with lock debugging, and a short stress test.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Debug)?;
    kselftest::run_on(ctx, report, &kernel)?;
    stress::short(ctx, report, &kernel)
}

/// A longer stress test, and the kselftests of the overlay, on the kernel with all debugging
/// options.
pub fn run_kasan(ctx: &Ctx, report: &mut Report) -> Result<()> {
    kasan(ctx, report, KASAN_SECONDS, 1)
}

fn kasan(ctx: &Ctx, report: &mut Report, seconds: u64, seed: u64) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Kasan)?;
    let outcome = stress::run_on(ctx, &kernel, seconds, seed)?;
    for line in &outcome.lines {
        step::print(&format!("stage {line}"));
    }
    let name = format!("stress test for {seconds} s, seed {seed}");
    report.check(&name, outcome.failure);
    kselftest::run_on(ctx, report, &kernel)
}

/// `make test-debug`: the group `kasan` with the given duration. Returns true if nothing failed.
pub fn test_debug(ctx: &Ctx, seconds: u64, seed: u64) -> Result<bool> {
    let mut report = Report::new("kasan");
    if let Err(error) = kasan(ctx, &mut report, seconds, seed) {
        report.fail("the group could not run", &format!("{error:#}"));
    }
    report.end();
    Ok(summary(&[report]))
}
