// SPDX-License-Identifier: GPL-2.0

//! The group `cloud`: a kernel with the configuration of a distribution, in which KVM is a module.

use anyhow::{ensure, Result};

use crate::ctx::Ctx;
use crate::image::{initramfs, programs};
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::machine::named::AMD;
use crate::machine::vm::Vm;
use crate::report::results::Report;

/// The suites: three updates in a row, files of all kinds, and VMs.
const SUITES: [&str; 4] = ["chain", "roundtrip", "memfd", "kvm_module"];

/// A suite with data that the kernel of the tests has damaged, since this one has nothing that damages
/// data.
const DAMAGED: &str = "damage_carried";

/// The number of updates of the longest suite.
const UPDATES: u32 = 3;

/// The modules that the suites load, and those that they need.
const MODULES: [&str; 4] = ["ccp", "irqbypass", "kvm", "kvm-amd"];

/// Runs the group.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    ctx.settings
        .check_suites("cloud", SUITES.into_iter().chain([DAMAGED]))?;
    let kernel = build::kernel(ctx, Flavour::Cloud)?;
    let guest = programs::guest(ctx)?;
    let mut modules = initramfs::modules(&kernel)?;
    modules.retain(|(_, path)| {
        let name = path.file_stem().unwrap_or_default();
        MODULES.iter().any(|wanted| name == *wanted)
    });
    ensure!(
        modules.iter().any(|(_, path)| path.ends_with("kvm-amd.ko")),
        "KVM is not a module of {}",
        ctx.shown(&kernel.image)
    );
    let modules: Vec<_> = modules
        .iter()
        .map(|(name, path)| (name.as_str(), path.as_path()))
        .collect();
    let initrd = initramfs::guest_with(ctx, "cloud", &guest, &[&kernel, &kernel], &modules)?;
    let mut suites = SUITES.to_vec();
    suites.retain(|suite| ctx.settings.wants(suite));
    let mut run = |name: &str, first: &Kernel, kexecs, suites: &[&str]| -> Result<()> {
        let run = Vm::new(name, first, &initrd)
            .on(&AMD)
            .init(format!("selftest {}", suites.join(" ")))
            .kexecs(kexecs)
            .boot(ctx)?;
        run.judge(ctx, report, "", suites);
        Ok(())
    };
    if !suites.is_empty() {
        run("cloud", &kernel, UPDATES, &suites)?;
    }
    if ctx.settings.wants(DAMAGED) {
        let ours = build::kernel(ctx, Flavour::Ours)?;
        run("cloud-damage", &ours, 2, &[DAMAGED])?;
    }
    Ok(())
}
