// SPDX-License-Identifier: GPL-2.0

//! `make demo-device`: a device copies to memory while the kernel is replaced.

use anyhow::Result;
use serde_json::Value;

use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs;
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::machine::console::PROGRESS;
use crate::machine::gap::BOOTS;
use crate::machine::named::DEVICES;
use crate::machine::pci::{self, LEFT};
use crate::machine::vm::{Run, Vm};
use crate::report::step::Step;

/// How often it is tried if the copy is complete before the kernel ends, which shows nothing.
const ATTEMPTS: u32 = 3;

/// The register with the command of a copy, in which the first bit is set until it is complete.
const COMMAND: u64 = 0x98;
const COPYING: u32 = 1;

/// What a run has shown.
struct Shown {
    run: Run,
    /// The device and the bridges above it, before and after.
    buses: Vec<Value>,
    /// Whether the device copied when the first kernel ended.
    copied_at_end: bool,
}

/// Replaces the kernel under a device that copies. Returns true if the copy has arrived, and the
/// device was the same afterwards.
pub fn run(ctx: &Ctx) -> Result<bool> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    let guest = programs::guest(ctx)?;
    let initrd = initramfs::guest(ctx, "demo-device", &guest, &[&kernel], None)?;
    println!(
        "\nA PCI device (edu of QEMU, below two bridges) is to copy to memory by itself. While it does,\n\
         the kernel of the machine is replaced. What the device does is seen by QEMU, from outside.\n"
    );
    let vm = Vm::new("demo-device", &kernel, &initrd)
        .on(&DEVICES)
        .kexecs(1)
        .init("device");
    let mut shown = show(ctx, &vm)?;
    for _ in 1..ATTEMPTS {
        if shown.copied_at_end || shown.run.guest_complaint().is_some() {
            break;
        }
        println!("\nThe copy was complete before the first kernel ended: once more.\n");
        shown = show(ctx, &vm)?;
    }
    let Shown {
        run,
        buses,
        copied_at_end,
    } = shown;

    let facts = run.console.facts();
    let arrived = facts.get("arrived").map_or("0", String::as_str);
    let against = run.guest_complaint().or_else(|| {
        let same = matches!(buses.as_slice(), [before, after] if before == after);
        if facts.get("verified").map(String::as_str) != Some("yes") {
            Some("the new kernel did not verify the buffer".to_owned())
        } else if !copied_at_end {
            Some("the copy was complete before the first kernel ended, each time".to_owned())
        } else {
            (!same).then(|| format!("QEMU sees other addresses than before: {buses:?}"))
        }
    });
    println!();
    match &against {
        None => println!(
            "verified: {arrived} bytes were copied while the kernel was replaced; QEMU sees the same \
             bus numbers, addresses and windows as before"
        ),
        Some(why) => println!(
            "FAILED\n{}",
            run.failure(ctx, "everything is verified", why)
        ),
    }
    Ok(against.is_none())
}

/// Runs the machine, and prints what happens.
fn show(ctx: &Ctx, vm: &Vm<'_>) -> Result<Shown> {
    let step = Step::start(ctx, "live update under a device that copies");
    let socket = vm.monitor(ctx);
    let mut buses = Vec::new();
    let mut kernels = 0;
    let mut copied_at_end = false;
    let state = |buses: &[Value]| {
        let path = buses.first()?;
        let command = pci::register(&socket, path, COMMAND).ok()?;
        Some(match command & COPYING {
            0 => "the copy is complete",
            _ => "the device is copying",
        })
    };
    let run = vm.run_with(ctx, |line| {
        if let Some((_, what)) = line.split_once(PROGRESS) {
            // The device is set up, or was taken over.
            if buses.len() < kernels {
                buses.extend(pci::ask(&socket, pci::EDU));
            }
            step.say(what);
        } else if line.contains(BOOTS) {
            kernels += 1;
            let seen = state(&buses).map_or(String::new(), |state| format!("; {state}"));
            step.say(&format!("kernel {kernels} starts{seen}"));
        } else if line.contains(LEFT) {
            copied_at_end = true;
            step.say(
                "the old kernel leaves the device and the bridges above it as they are: it copies",
            );
        } else if line.contains(": left working by the previous kernel") {
            let what = line.split("] ").last().unwrap_or(line);
            step.say(&format!("the new kernel finds {what}"));
        } else if line.contains(": goes on working") {
            let seen = state(&buses).map_or(String::new(), |state| format!("; {state}"));
            step.say(&format!("the driver takes the device over{seen}"));
        }
    })?;
    step.done("");
    Ok(Shown {
        run,
        buses,
        copied_at_end,
    })
}
