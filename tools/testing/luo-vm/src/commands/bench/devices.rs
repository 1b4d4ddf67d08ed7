// SPDX-License-Identifier: GPL-2.0

//! `make bench ONLY=devices`: what a program that drives a network card gains if the card is preserved.
//!
//! C cannot preserve devices. So the same program and kernel are measured beside it with a card that is
//! not preserved: the shutdown stops it, and the program of the next kernel sets it up again.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::median;
use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs;
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::machine::card::CardRun;
use crate::machine::named;
use crate::machine::sender::Refused;
use crate::machine::verdict::GOOD;
use crate::machine::vm::Vm;
use crate::report::step::Step;

/// The name for `ONLY`.
pub const NAME: &str = "devices";

/// The guest tests with a card that is preserved, and with one that is not; and what becomes of frames
/// that QEMU does not take at once.
const SUITES: [(&str, Refused); 2] = [
    ("vfio_preserved", Refused::Wait),
    ("vfio_restarted", Refused::Lost),
];

/// How many frames are sent in a second.
const RATE: u32 = 1000;

/// What is measured.
const FIGURES: [&str; 5] = [
    "longest time between two frames that the card takes",
    "reboot to the next program",
    "reboot to the first frame that a program handles",
    "PRESERVE_FD of the memory, 38 MiB",
    "PRESERVE_FD of the card",
];

/// In microseconds; [`None`] if there is nothing to be measured.
type Values = [Option<u64>; FIGURES.len()];

/// Measures in `rounds` rounds, and writes the table to a file in `dir`.
pub fn run(ctx: &Ctx, rounds: u32, dir: &Path) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    let guest = programs::guest(ctx)?;
    let initrd = initramfs::guest_with_modules(ctx, "bench-devices", &guest, &[&kernel])?;
    let mut measured: [Vec<Values>; SUITES.len()] = Default::default();
    for round in 1..=rounds {
        for ((suite, refused), values) in SUITES.into_iter().zip(&mut measured) {
            let step = Step::start(ctx, format!("bench {suite}, round {round}"));
            let vm = Vm::new(format!("bench-{suite}-{round}"), &kernel, &initrd)
                .on(&named::VFIO)
                .kexecs(1)
                .init(format!("selftest {suite}"));
            let run = CardRun::new(ctx, vm, (RATE, refused), |_, _| ())?;
            if let Some(why) = run.run.guest_complaint() {
                bail!(run.run.failure(ctx, GOOD, &why));
            }
            values.push(values_of(&run));
            step.done("");
        }
    }
    let table = table(&measured);
    println!(
        "\nA card that is preserved, and one that is set up again; medians of {rounds}\n\n{table}"
    );
    fs::create_dir_all(dir)?;
    fs::write(dir.join("devices.txt"), table).context("write the table")
}

fn values_of(shown: &CardRun) -> Values {
    let micros = |time: Duration| time.as_micros() as u64;
    let update = shown.updates.first();
    let program = update.and_then(|update| update.program);
    let times = update.zip(program).map(|(update, (program, _))| {
        let frames = &shown.frames;
        let card = frames.taken.longest_gap(update.kexec, program);
        let handled = frames.heard.longest_gap(update.kexec, program);
        [card, Some(program - update.kexec), handled]
    });
    let [card, next, handled] = times.unwrap_or_default();
    [
        card.map(micros),
        next.map(micros),
        handled.map(micros),
        said(shown, "preserve_memory_us"),
        said(shown, "preserve_device_us"),
    ]
}

/// A figure that the program has printed.
fn said(shown: &CardRun, name: &str) -> Option<u64> {
    let mut lines = shown.run.console.user.iter();
    lines.find_map(|line| {
        line.strip_prefix("@bench ")?
            .strip_prefix(name)?
            .trim()
            .parse()
            .ok()
    })
}

fn table(measured: &[Vec<Values>; SUITES.len()]) -> String {
    let mut text = format!(
        "{:<54} {:>12} {:>12} {:>8}\n",
        "Figure (medians)", "preserved", "set up again", "Ratio"
    );
    for (at, figure) in FIGURES.iter().enumerate() {
        let medians = measured.each_ref().map(|rounds| {
            let values: Option<Vec<u64>> = rounds.iter().map(|values| values[at]).collect();
            values
                .filter(|values| !values.is_empty())
                .map(|values| median(&values))
        });
        let [preserved, again] = medians.map(|value| match value {
            Some(micros) => format!("{:.4} s", micros as f64 / 1e6),
            None => "-".to_owned(),
        });
        let ratio = match medians {
            [Some(preserved), Some(again)] => {
                format!("{:.3}", preserved as f64 / again.max(1) as f64)
            }
            _ => String::new(),
        };
        let _ = writeln!(text, "{figure:<54} {preserved:>12} {again:>12} {ratio:>8}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_ratios() {
        let preserved = vec![[Some(1000), Some(2), Some(3), Some(4), Some(5)]];
        let again = vec![[Some(4000), Some(2), None, None, None]];
        let text = table(&[preserved, again]);
        assert!(text.contains("0.0010 s     0.0040 s    0.250\n"), "{text}");
        assert!(text.contains("            -"));
    }
}
