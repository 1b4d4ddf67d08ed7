// SPDX-License-Identifier: GPL-2.0

//! `make demo-device`: a network card receives frames while the kernel is replaced.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs;
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::machine::card::CardRun;
use crate::machine::console::is_kexec;
use crate::machine::gap::BOOTS;
use crate::machine::named;
use crate::machine::sender::{Counter, Refused};
use crate::machine::verdict::GOOD;
use crate::machine::vm::Vm;
use crate::report::step::Step;

/// The guest test that is shown.
const SUITE: &str = "vfio_preserved";

/// How many frames are sent in a second, and how often it is tried if they fill the ring.
const RATE: u32 = 1000;
const ATTEMPTS: u32 = 3;

/// How often the counter is shown.
const SHOWN: Duration = Duration::from_secs(1);

/// Replaces the kernel under a network card that receives frames. Returns true if none is missing.
pub fn run(ctx: &Ctx) -> Result<bool> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    let guest = programs::guest(ctx)?;
    let initrd = initramfs::guest_with_modules(ctx, "demo-device", &guest, &[&kernel])?;
    println!(
        "\nA program drives a network card (igb of QEMU) through VFIO. This host sends it {RATE} numbered\n\
         frames a second, and counts those that the card has taken, while the kernel of the machine is\n\
         replaced. The program checks that it gets all of them, in order.\n"
    );
    let vm = || {
        Vm::new("demo-device", &kernel, &initrd)
            .on(&named::VFIO)
            .kexecs(1)
            .init(format!("selftest {SUITE}"))
    };
    let mut shown = show(ctx, vm())?;
    for _ in 1..ATTEMPTS {
        if !shown.was_full() {
            break;
        }
        println!(
            "\nThe ring of the card was full before the next kernel had started: once more.\n"
        );
        shown = show(ctx, vm())?;
    }
    let CardRun { run, buses, .. } = &shown;
    let same = matches!(buses.as_slice(), [before, after] if before == after);
    let against = run
        .guest_complaint()
        .or_else(|| (!same).then(|| format!("QEMU sees other addresses than before: {buses:?}")));
    println!();
    match &against {
        None => {
            let booting: u64 = shown.booting().iter().sum();
            println!(
                "verified: the program has received all frames that the card took, in order, {booting} of \
                 them while\nthe next kernel booted; the card was not reset, and QEMU sees the same \
                 addresses as before{}",
                gaps(&shown).unwrap_or_default()
            );
        }
        Some(why) => println!("FAILED\n{}", run.failure(ctx, GOOD, why)),
    }
    Ok(against.is_none())
}

/// How long the card took no frame, and how long no program was there.
fn gaps(shown: &CardRun) -> Option<String> {
    let update = shown.updates.first()?;
    let (program, _) = update.program?;
    let card = shown.frames.taken.longest_gap(update.kexec, program)?;
    Some(format!(
        "\nthe longest time between two frames: {:.3} s; without a program: {:.3} s",
        card.as_secs_f64(),
        (program - update.kexec).as_secs_f64()
    ))
}

/// Runs the machine, and prints what happens, with the number of frames.
fn show(ctx: &Ctx, vm: Vm<'_>) -> Result<CardRun> {
    let step = Step::start(ctx, "live update under a network card that receives");
    let started = Instant::now();
    let counter = OnceLock::<Counter>::new();
    let ended = AtomicBool::new(false);
    let mut kernels = 0;
    let shown = thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = SHOWN;
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
                if started.elapsed() >= next {
                    next += SHOWN;
                    let frames = counter.get().map_or(0, Counter::get);
                    step.say(&format!("{frames:>6} frames"));
                }
            }
        });
        let run = CardRun::new(ctx, vm, (RATE, Refused::Wait), |line, frames| {
            let _ = counter.set(frames.clone());
            if line.contains(BOOTS) {
                kernels += 1;
                step.say(&format!("kernel {kernels} starts"));
            } else if is_kexec(line) {
                step.say(
                    "the program has preserved its memory and the card, and starts the next kernel",
                );
            } else if line.contains(": left working by the previous kernel") {
                let what = line.split("] ").last().unwrap_or(line);
                step.say(&format!("the next kernel finds {what}"));
            } else if line.contains(" in the ring") {
                let what = line.split(": ").last().unwrap_or(line);
                step.say(&format!("the program drives the card again: {what}"));
            }
        });
        ended.store(true, Ordering::Relaxed);
        run
    })?;
    step.done("");
    Ok(shown)
}
