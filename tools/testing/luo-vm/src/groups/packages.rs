// SPDX-License-Identifier: GPL-2.0

//! The group `packages`: a machine that boots by UEFI and consists of packages only, those of two kernels
//! included.
//!
//! `sandbox.sh` makes it, and `tools/testing/selftests/liveupdate/machine` tests it.

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::machine;
use crate::kernel::build::Kernel;
use crate::kernel::flavour::Flavour;
use crate::machine::named::UEFI;
use crate::machine::vm::Vm;
use crate::report::results::Report;

/// Five live updates, two of which fail, and three boots by firmware after the first one.
const KEXECS: u32 = 8;

/// Runs the group.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    update(ctx, report, "packages", |_| {})
}

/// Updates the kernel from one package to another, in the virtual machine `name`. `heard` gets each line of
/// its console.
pub fn update(ctx: &Ctx, report: &mut Report, name: &str, heard: impl FnMut(&str)) -> Result<()> {
    let disk = machine::disk(ctx)?;
    // The kernels are on the disk.
    let kernel = Kernel::prebuilt(Flavour::Ours, disk.clone());
    let vm = Vm::new(name, &kernel, &disk)
        .on(&UEFI)
        .devices(["-device".to_owned(), "i6300esb".to_owned()])
        .firmware()
        .kexecs(KEXECS);
    let run = vm.run_with(ctx, heard)?;
    run.judge(ctx, report, "", &["machine"]);
    Ok(())
}
