// SPDX-License-Identifier: GPL-2.0

//! The group `kselftest`: the kselftests of the overlay, with real kexecs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::groups::devices::{DEVICES, NVME};
use crate::groups::machines::MACHINES;
use crate::groups::matrix::MATRIX;
use crate::groups::soak;
use crate::image::initramfs;
use crate::image::programs::{self, GuestTest};
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::machine::card::VFIO;
use crate::machine::named;
use crate::machine::vm::{Run, Vm};
use crate::report::results::Report;

/// Suites whose last kernel must panic.
const PANIC: &str = "panic";

/// The kselftests of the overlay.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    run_on(ctx, report, &kernel)?;
    if ctx.settings.suites.is_empty() {
        soak::short(ctx, report)?;
    }
    Ok(())
}

/// The same on any kernel with the overlay.
pub fn run_on(ctx: &Ctx, report: &mut Report, kernel: &Kernel) -> Result<()> {
    let guest = programs::guest(ctx)?;
    let name = kernel.flavour.name();
    let initrd = initramfs::guest_with_modules(ctx, name, &guest, &[kernel, kernel])?;
    let tests = programs::guest_tests(ctx)?;
    let suites = &ctx.settings.suites;
    let known = tests.iter().map(|test| test.name.as_str());
    ctx.settings.check_suites("kselftest", known)?;
    let wanted = |test: &GuestTest| match suites.is_empty() {
        true => ![MATRIX, DEVICES, VFIO, NVME, MACHINES].contains(&test.group.as_str()),
        false => suites.contains(&test.name),
    };
    let (tests, elsewhere): (Vec<_>, Vec<_>) = tests.into_iter().filter(wanted).partition(|test| {
        named::machine(&test.machine).map_or(true, |m| m.is_of(ctx.settings.arch))
    });
    for test in elsewhere {
        let why = format!(
            "there is no machine {} for {}",
            test.machine,
            ctx.arch().name
        );
        report.not_run(&test.name, &why);
    }
    let tests = tests.into_iter();
    let (alone, together): (Vec<_>, Vec<_>) = tests.partition(|test| test.kexecs > 0);

    // Tests without a kexec share a boot if they need the same machine and parameters.
    let mut shared: BTreeMap<(String, String), Vec<GuestTest>> = BTreeMap::new();
    for test in together {
        let key = (test.machine.clone(), test.cmdline.clone());
        shared.entry(key).or_default().push(test);
    }
    let machines: Vec<_> = shared
        .into_values()
        .chain(alone.into_iter().map(|test| vec![test]))
        .enumerate()
        .collect();
    // Machines run in parallel: no test depends on time.
    let left = Mutex::new(machines.into_iter());
    let report = Mutex::new(report);
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((number, tests)) = next() {
            let run = machine(ctx, kernel, &initrd, number, &tests)?;
            let names: Vec<&str> = tests.iter().map(|t| t.name.as_str()).collect();
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            match tests.first() {
                Some(test) if test.group == PANIC => {
                    let good = run.timed_out.is_none() && run.console.panicked_as_expected();
                    let expected = run.console.expected_panic().unwrap_or("a panic");
                    let against = (!good).then(|| run.failure(ctx, expected, "another end"));
                    report.check(&test.name, against);
                }
                _ => run.judge(ctx, &mut report, "", &names),
            }
        }
        anyhow::Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let results = [
            work(),
            other.join().unwrap_or_else(|_| bail!("a machine panicked")),
        ];
        results.into_iter().collect()
    })
}

/// Runs `tests` in one machine, which their common requirements determine.
fn machine(
    ctx: &Ctx,
    kernel: &Kernel,
    initrd: &Path,
    number: usize,
    tests: &[GuestTest],
) -> Result<Run> {
    let first = tests.first().context("a machine without a test")?;
    let names: Vec<&str> = tests.iter().map(|t| t.name.as_str()).collect();
    let label = if names.len() > 1 {
        format!("shared-{number}")
    } else {
        first.name.clone()
    };
    Vm::new(format!("{}-{label}", kernel.flavour.name()), kernel, initrd)
        .params(first.cmdline.clone())
        .init(format!("selftest {}", names.join(" ")))
        .kexecs(first.kexecs)
        .on(named::machine(&first.machine)?)
        .boot(ctx)
}
