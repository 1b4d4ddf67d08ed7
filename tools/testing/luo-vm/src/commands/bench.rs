// SPDX-License-Identifier: GPL-2.0

//! `make bench`: compares the Rust implementation ("ours") with the C implementation of the same
//! base, with the same program, alternating, in new machines.

mod catalogue;
mod devices;
mod guest;
mod kinds;
#[cfg(feature = "plots")]
mod plot;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use self::catalogue::{Figure, Run, FIGURES, RUNS};
use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs;
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::machine::verdict::GOOD;
use crate::machine::vm::Vm;
use crate::report::step::Step;

/// The time after which a machine is considered hung. C needs minutes for the largest workloads.
const LIMIT: Duration = Duration::from_secs(3600);

/// Memory of the machines: sufficient for 1.5 GiB of files, and the same number of pages in
/// between.
const MEM: &str = "4G";

/// The directory for the results of a complete run.
const DOCUMENTATION: &str = "Documentation/project/performance";

/// The values of one implementation, one per round.
type Values = BTreeMap<&'static str, Vec<u64>>;

/// All measured values, by run.
#[derive(Default)]
struct Measured {
    c: BTreeMap<&'static str, Values>,
    ours: BTreeMap<&'static str, Values>,
    /// Discarded runs, and the reasons.
    failures: Vec<String>,
}

/// One line of the table. Times are in microseconds, memory is in KiB.
#[derive(Serialize)]
struct Row {
    figure: &'static str,
    title: String,
    unit: &'static str,
    c: Vec<u64>,
    ours: Vec<u64>,
    c_median: u64,
    ours_median: u64,
    ratio: f64,
    /// The ratio of the best rounds, which other load affects least.
    ratio_of_minima: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn minimum(values: &[u64]) -> u64 {
    values.iter().copied().min().unwrap_or_default()
}

/// Zero is replaced by the smallest unit.
fn ratio(ours: u64, c: u64) -> f64 {
    ours as f64 / c.max(1) as f64
}

/// The figures that a program in the machine has printed.
fn figures(lines: &[String]) -> BTreeMap<String, u64> {
    let lines = lines.iter();
    lines
        .filter_map(|line| line.strip_prefix("@bench ")?.trim().split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// The output of the guest, if the run is valid.
fn measure(ctx: &Ctx, kernel: &Kernel, what: &Run, round: u32) -> Result<BTreeMap<String, u64>> {
    let guest = programs::guest_path(ctx)?;
    let initrd = initramfs::guest(
        ctx,
        &format!("bench-{}", kernel.flavour.name()),
        &guest,
        &[kernel],
        None,
    )?;
    let vm = Vm::new(
        format!("bench-{}-{}-{round}", what.name, kernel.flavour.name()),
        kernel,
        &initrd,
    )
    .params(what.params)
    .init(format!("bench {}", what.arguments))
    .limit(LIMIT);
    let run = vm.run(ctx)?;
    let mut figures = figures(&run.console.user);
    if let Some(why) = run.guest_complaint() {
        anyhow::bail!(run.failure(ctx, GOOD, &why));
    }
    if figures.get("verified") != Some(&1) {
        anyhow::bail!(run.failure(ctx, "verified contents", "they were not verified"));
    }
    figures.extend(phases(&run.console.all, &figures));
    Ok(figures)
}

/// The time stamp of the first line with `text` in it, in microseconds, from line `from` on.
fn stamp(lines: &[String], from: usize, text: &str) -> Option<(usize, u64)> {
    let (at, line) = lines
        .iter()
        .enumerate()
        .skip(from)
        .find(|(_, l)| l.contains(text))?;
    let (_, rest) = line.split_once('[')?;
    let seconds: f64 = rest.split_once(']')?.0.trim().parse().ok()?;
    Some((at, (seconds * 1e6) as u64))
}

/// Splits the blackout by the logs of the two kernels.
fn phases(lines: &[String], figures: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let find = || {
        let (at, mark) = stamp(lines, 0, "luo-bench: reboot")?;
        let (at, gone) = stamp(lines, at, "Starting new kernel")?;
        let (at, memory) = stamp(lines, at, "Memory: ")?;
        let (_, init) = stamp(lines, at, "Run /init as init process")?;
        let (jump, blackout) = (figures.get("jump_us")?, figures.get("blackout_us")?);
        let shutdown = gone.saturating_sub(mark);
        let phases = [
            ("phase_shutdown_us", shutdown),
            ("phase_jump_us", jump.saturating_sub(shutdown)),
            ("phase_memory_us", memory),
            ("phase_initcalls_us", init.saturating_sub(memory)),
            ("phase_init_us", blackout.saturating_sub(jump + init)),
        ];
        Some(phases.map(|(name, value)| (name.to_owned(), value)))
    };
    find().into_iter().flatten().collect()
}

fn collect(ctx: &Ctx, quick: bool, rounds: u32, only: Option<&str>) -> Result<Measured> {
    let mut ctx = ctx.clone();
    ctx.settings.mem = MEM.to_owned();
    // The host needs more time to provide memory than the guest to use it.
    ctx.prefault = true;
    let ctx = &ctx;
    let kernels = [Flavour::Peer, Flavour::Bench].map(|flavour| build::kernel(ctx, flavour));
    let [c, ours] = kernels;
    let (c, ours) = (c?, ours?);
    programs::guest(ctx)?;
    let mut measured = Measured::default();
    for run in RUNS.iter().filter(|run| !quick || run.quick) {
        if only.is_some_and(|only| !run.name.starts_with(only)) {
            continue;
        }
        let step = Step::start(ctx, format!("bench {}", run.name));
        for round in 1..=rounds {
            for (kernel, values) in [(&c, &mut measured.c), (&ours, &mut measured.ours)] {
                match measure(ctx, kernel, run, round) {
                    Ok(found) => {
                        let values = values.entry(run.name).or_default();
                        for figure in FIGURES {
                            let all = figure.keys.iter().map(|key| found.get(*key));
                            if let Some(sum) = all.sum::<Option<u64>>() {
                                values.entry(figure.name).or_default().push(sum);
                            }
                        }
                    }
                    Err(error) => measured.failures.push(format!(
                        "{}, {}, round {round}: {error}",
                        run.name,
                        kernel.flavour.name()
                    )),
                }
            }
        }
        step.done(&format!("{rounds} rounds"));
    }
    Ok(measured)
}

fn row(run: &Run, figure: &Figure, measured: &Measured) -> Option<Row> {
    let values = |of: &BTreeMap<_, Values>| of.get(run.name)?.get(figure.name).cloned();
    let (c, ours) = (values(&measured.c)?, values(&measured.ours)?);
    Some(Row {
        figure: figure.name,
        title: format!("{}: {}", run.title, figure.title),
        unit: figure.unit(),
        c_median: median(&c),
        ours_median: median(&ours),
        ratio: ratio(median(&ours), median(&c)),
        ratio_of_minima: ratio(minimum(&ours), minimum(&c)),
        target: run
            .targets
            .iter()
            .find(|(name, _)| *name == figure.name)
            .map(|(_, t)| *t),
        c,
        ours,
    })
}

/// The machine, on which the figures depend.
fn machine(ctx: &Ctx) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |m| {
        m.trim_start_matches([' ', '\t', ':'])
    });
    format!(
        "QEMU TCG, {} processors, {MEM} of memory, on {} x {model}",
        ctx.settings.smp, ctx.jobs
    )
}

/// Runs the benchmarks. Returns false if a run is invalid.
pub fn run(ctx: &Ctx, quick: bool, only: Option<&str>) -> Result<bool> {
    let rounds = if quick { 1 } else { 3 };
    if only == Some(devices::NAME) {
        devices::run(ctx, rounds, &ctx.build.join("bench"))?;
        return Ok(true);
    }
    if only == Some(kinds::NAME) {
        kinds::run(ctx, rounds, &ctx.build.join("bench"))?;
        return Ok(true);
    }
    if only == Some(guest::NAME) {
        guest::run(ctx, quick, rounds, &ctx.build.join("bench"))?;
        return Ok(true);
    }
    let measured = collect(ctx, quick, rounds, only)?;
    let rows: Vec<Row> = RUNS
        .iter()
        .flat_map(|run| FIGURES.iter().map(move |figure| (run, figure)))
        .filter_map(|(run, figure)| row(run, figure, &measured))
        .collect();
    let machine = machine(ctx);
    println!("\n{machine}; {rounds} rounds\n\n{}", table::plain(&rows));
    for failure in &measured.failures {
        println!("invalid run: {failure}");
    }
    // Only a complete run replaces the published results.
    let dir = if !quick && only.is_none() && measured.failures.is_empty() {
        ctx.top.join(DOCUMENTATION)
    } else {
        ctx.build.join("bench")
    };
    fs::create_dir_all(&dir)?;
    let json = serde_json::json!({ "machine": machine, "rounds": rounds, "rows": rows });
    let file = dir.join("bench.json");
    fs::write(&file, serde_json::to_vec_pretty(&json)?).context("write the results")?;
    let caption = format!("{machine}; medians of {rounds}");
    fs::write(dir.join("table.rst"), table::rst(&caption, &rows)).context("write the table")?;
    #[cfg(feature = "plots")]
    plot::all(&dir, &machine, &measured)?;
    if only.is_none() {
        devices::run(ctx, rounds, &dir)?;
        kinds::run(ctx, rounds, &dir)?;
        guest::run(ctx, quick, rounds, &dir)?;
    }
    println!("The results are in {}", ctx.shown(&dir));
    Ok(measured.failures.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blackout_is_split() {
        let lines = [
            "[    5.000000] luo-bench: reboot",
            "[    5.250000] kexec_core: Starting new kernel",
            "[    0.100000] Memory: 1K/2K available",
            "[    1.100000] Run /init as init process",
        ]
        .map(str::to_owned);
        let figures = [("jump_us", 750_000), ("blackout_us", 2_000_000)];
        let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
        let phases = phases(&lines, &figures);
        assert_eq!(phases["phase_shutdown_us"], 250_000);
        assert_eq!(phases["phase_jump_us"], 500_000);
        assert_eq!(phases["phase_initcalls_us"], 1_000_000);
        assert_eq!(phases.values().sum::<u64>(), 2_000_000);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3, 1, 2]), 2);
        assert_eq!(median(&[]), 0);
    }
}
