// SPDX-License-Identifier: GPL-2.0

//! Consecutive kexecs, to check that neither data nor memory is lost.

use anyhow::{bail, Result};

use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs;
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::machine::vm::{Vm, BOOT};
use crate::report::results::Report;
use crate::report::step::Step;

/// The allowed decrease of free memory from the beginning to the end, in KiB.
///
/// Free memory differs between boots, since the addresses of the kernel and of unfinished
/// data differ; the average is more precise with more boots.
fn drift_limit(kexecs: u64) -> u64 {
    (if kexecs < 60 { 24 } else { 4 }) << 10
}

/// Kexecs after which the amount of free memory has settled.
const SETTLED: usize = 2;

/// The number of kexecs from which the first and the last third of the series have a boot each.
const JUDGED: u64 = SETTLED as u64 + 3;

/// Kexecs in `make test`.
const SHORT: u64 = 5;

/// Kexecs in `make test-all`.
const LONG: u64 = 100;

/// The result of a chain of kexecs.
struct Outcome {
    kexecs: u64,
    files: u64,
    bytes: u64,
    /// Free memory after each kexec, in KiB.
    free: Vec<u64>,
    failure: Option<String>,
}

impl Outcome {
    /// The average amount of free memory in a part of the series.
    fn average(free: &[u64]) -> u64 {
        free.iter().sum::<u64>() / (free.len() as u64).max(1)
    }

    /// The decrease of free memory from the first third of the series to the last, or `None` if
    /// the series is too short to tell.
    fn drift(&self) -> Option<u64> {
        let settled = self.free.get(SETTLED..).unwrap_or_default();
        let third = settled.len() / 3;
        if third == 0 {
            return None;
        }
        let (first, last) = (&settled[..third], &settled[settled.len() - third..]);
        Some(Self::average(first).saturating_sub(Self::average(last)))
    }
}

fn run_on(ctx: &Ctx, kernel: &Kernel, count: u64, seed: u64) -> Result<Outcome> {
    let guest = programs::guest(ctx)?;
    let initrd = initramfs::guest(ctx, "soak", &guest, &[kernel], None)?;
    let step = Step::start(ctx, format!("{count} kexecs in a row, seed {seed}"));
    let vm = Vm::new(format!("soak-{}", kernel.flavour.name()), kernel, &initrd)
        .init(format!("soak --count={count} --seed={seed}"))
        .limit(BOOT + BOOT / 6 * u32::try_from(count)?);
    let run = vm.run(ctx)?;
    let mut outcome = Outcome {
        kexecs: 0,
        files: 0,
        bytes: 0,
        free: Vec::new(),
        failure: None,
    };
    let mut done = false;
    for line in &run.console.user {
        let Some(rest) = line.strip_prefix("@soak ") else {
            continue;
        };
        // A message of the kernel may interrupt the line.
        let rest = rest.split('[').next().unwrap_or_default();
        match rest.split_whitespace().collect::<Vec<_>>()[..] {
            [_, "files", files, "bytes", bytes, "free", free] => {
                outcome.kexecs += 1;
                outcome.files += files.parse::<u64>()?;
                outcome.bytes += bytes.parse::<u64>()?;
                outcome.free.push(free.parse()?);
            }
            ["done", _] => done = true,
            _ => bail!("a line that makes no sense: {line}"),
        }
    }
    outcome.failure = run
        .guest_complaint()
        .or_else(|| (!done || outcome.kexecs != count).then(|| "it has not finished".to_owned()));
    if outcome.failure.is_none() {
        let lost = outcome.drift().filter(|drift| *drift > drift_limit(count));
        outcome.failure = lost.map(|drift| format!("{drift} KiB of memory got lost"));
    }
    if let Some(failure) = &mut outcome.failure {
        let expected = format!("{count} kexecs, and the memory of the first");
        *failure = run.failure(ctx, &expected, failure);
    }
    step.done(&format!(
        "{} kexecs, {} files with {} bytes verified",
        outcome.kexecs, outcome.files, outcome.bytes
    ));
    Ok(outcome)
}

/// `count` kexecs. Returns true if nothing was lost.
pub fn run(ctx: &Ctx, count: u64, seed: u64) -> Result<bool> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    let outcome = run_on(ctx, &kernel, count, seed)?;
    let mut series = Vec::new();
    for chunk in outcome.free.chunks(outcome.free.len().div_ceil(10).max(1)) {
        series.push((Outcome::average(chunk) >> 10).to_string());
    }
    println!(
        "free memory in MiB, average of each tenth: {}",
        series.join(" ")
    );
    let memory = match outcome.drift() {
        Some(drift) => format!("drift {drift} KiB"),
        None => format!("memory was not judged, which needs {JUDGED} kexecs"),
    };
    println!(
        "{} kexecs, {} files, {} bytes verified, {memory}, seed {seed}",
        outcome.kexecs, outcome.files, outcome.bytes
    );
    if let Some(failure) = &outcome.failure {
        eprintln!("error: {failure}");
    }
    Ok(outcome.failure.is_none())
}

/// A chain that is long enough to detect a loss of memory.
pub fn long(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    let outcome = run_on(ctx, &kernel, LONG, 1)?;
    report.check(&format!("{LONG} kexecs in a row"), outcome.failure);
    Ok(())
}

/// A short chain.
pub fn short(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    let outcome = run_on(ctx, &kernel, SHORT, 1)?;
    report.check(&format!("{SHORT} kexecs in a row"), outcome.failure);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drift(free: &[u64]) -> Option<u64> {
        let outcome = Outcome {
            kexecs: free.len() as u64,
            files: 0,
            bytes: 0,
            free: free.to_vec(),
            failure: None,
        };
        outcome.drift()
    }

    #[test]
    fn a_short_series_is_not_judged() {
        assert_eq!(drift(&[]), None);
        assert_eq!(drift(&[900, 900, 800, 700]), None);
        let judged = [900, 900, 800, 800, 700];
        assert_eq!(judged.len() as u64, JUDGED);
        assert_eq!(drift(&judged), Some(100));
        assert_eq!(drift(&[900, 900, 700, 700, 800]), Some(0));
    }
}
