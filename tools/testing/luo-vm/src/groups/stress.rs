// SPDX-License-Identifier: GPL-2.0

//! The stress test: threads with random operations, on a kernel with debugging
//! options.

use std::time::Duration;

use anyhow::{bail, Result};

use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs;
use crate::kernel::build::Kernel;
use crate::machine::vm::{Vm, BOOT};
use crate::report::results::Report;
use crate::report::step::Step;

/// How long the threads run between two kexecs, in seconds.
const ROUND: u64 = 120;

/// How long they run in `make test`.
const SHORT: u64 = 20;

/// The result.
pub struct Outcome {
    /// A line for each kernel with the number of operations.
    pub lines: Vec<String>,
    pub failure: Option<String>,
}

/// Runs the threads for `seconds`, with a kexec every two minutes and at the end.
pub fn run_on(ctx: &Ctx, kernel: &Kernel, seconds: u64, seed: u64) -> Result<Outcome> {
    if seconds == 0 {
        bail!("STRESS_SECONDS must be more than 0.");
    }
    let kexecs = seconds.div_ceil(ROUND);
    let each = seconds.div_ceil(kexecs);
    let guest = programs::guest(ctx)?;
    let initrd = initramfs::guest(ctx, "stress", &guest, &[kernel], None)?;
    let step = Step::start(ctx, format!("stress test for {seconds} s, seed {seed}"));
    let vm = Vm::new(format!("stress-{}", kernel.flavour.name()), kernel, &initrd)
        .init(format!(
            "stress --seconds={each} --kexecs={kexecs} --seed={seed}"
        ))
        .limit(BOOT * (2 + u32::try_from(kexecs)?) + Duration::from_secs(10 * seconds));
    let run = vm.run(ctx)?;
    let said = run.console.user.iter();
    let lines: Vec<String> = said
        .filter_map(|line| line.strip_prefix("@stress "))
        .map(str::to_owned)
        .collect();
    let done = lines.iter().any(|line| line.contains(" verified "));
    let failure = run
        .guest_complaint()
        .or_else(|| (!done).then(|| "it has not finished".to_owned()))
        .map(|why| run.failure(ctx, "the threads verified everything", &why));
    step.done("");
    Ok(Outcome { lines, failure })
}

/// A short run, with a fixed seed.
pub fn short(ctx: &Ctx, report: &mut Report, kernel: &Kernel) -> Result<()> {
    let outcome = run_on(ctx, kernel, SHORT, 1)?;
    report.check(&format!("stress test for {SHORT} s"), outcome.failure);
    Ok(())
}
