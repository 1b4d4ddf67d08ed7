// SPDX-License-Identifier: GPL-2.0

//! The group `guest`: virtual machines that survive live updates of their host.
//!
//! The host is a virtual machine itself, with Debian and Debian's QEMU. Its processor is emulated,
//! and has AMD's extensions for virtual machines, so its guests run with KVM.

use std::time::Instant;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::guest;
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::machine::gap::Listener;
use crate::machine::named::AMD;
use crate::machine::vm::{Vm, BOOT};
use crate::report::results::Report;
use crate::report::step::{print, Step};

/// How many updates the guest survives.
const UPDATES: u32 = 2;

/// Two updates by `luoctl kexec` under a guest of `luo-qemu@.service`.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let host = build::kernel(ctx, Flavour::Debian)?;
    let image = guest::disk(ctx, &host)?;
    // What is emulated twice takes long.
    let limit = 4 * BOOT * (1 + UPDATES);
    let vm = Vm::new("guest", &host, &image)
        .on(&AMD)
        .params(guest::params(UPDATES))
        .limit(limit);
    let mut listener = Listener::default();
    let step = Step::start(ctx, format!("vm {}", vm.name));
    let run = vm.run_with(ctx, |line| listener.hear(line, Instant::now()))?;
    step.done("");
    for (number, gap) in (1..).zip(&listener.gaps) {
        print(&format!(
            "the guest was silent in update {number} for {gap}"
        ));
    }
    if let [slow, fast] = listener.gaps[..] {
        print(&format!(
            "with units that wait for the rest of the machine the guest was silent {:.2} times as \
             long",
            slow.all().as_secs_f64() / fast.all().as_secs_f64()
        ));
    }
    run.judge(ctx, report, "", &["guest"]);
    Ok(())
}
