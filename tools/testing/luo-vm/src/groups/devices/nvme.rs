// SPDX-License-Identifier: GPL-2.0

//! A disk that user space drives through VFIO, with reads that are not complete when the kernel is
//! replaced.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::vfio::judge_writes;
use super::writes::PORT;
use super::{judge_buses, machine, NVME};
use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs::GuestTest;
use crate::kernel::build::Kernel;
use crate::machine::named;
use crate::machine::pci::{self, Buses};
use crate::report::results::Report;
use crate::report::step::Step;

/// The suites whose device the old kernel stops.
const STOPPED: [&str; 2] = ["nvme_stopped", "nvme_closed"];

/// What QEMU calls the device and the bridge above it.
const NAMES: [&str; 2] = ["nvme", PORT];

/// The sectors of the disk: more than a program reads.
const SECTORS: u64 = 8192;
const SECTOR: usize = 512;

/// How many reads QEMU carries out in a second.
const READS: u32 = 20;

/// Runs the suites.
pub fn run(
    ctx: &Ctx,
    report: &mut Report,
    kernel: &Kernel,
    guest: &Path,
    tests: &[GuestTest],
) -> Result<()> {
    if tests.is_empty() {
        return Ok(());
    }
    let initrd = initramfs::guest_with_modules(ctx, NVME, guest, &[kernel, kernel])?;
    let disk = disk(ctx)?;
    for test in tests {
        run_suite(ctx, report, (kernel, &initrd, &disk), test)?;
    }
    Ok(())
}

/// A disk whose sectors have their number in each word.
fn disk(ctx: &Ctx) -> Result<PathBuf> {
    let path = ctx.build.join("nvme.raw");
    let words = (0..SECTORS).flat_map(|sector| [sector; SECTOR / 8]);
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    fs::write(&path, bytes).with_context(|| ctx.shown(&path))?;
    Ok(path)
}

fn run_suite(
    ctx: &Ctx,
    report: &mut Report,
    (kernel, initrd, disk): (&Kernel, &Path, &Path),
    test: &GuestTest,
) -> Result<()> {
    let vm = machine(kernel, initrd, test)
        .on(&named::VFIO)
        .devices(devices(disk));
    let mut buses = Buses::new(vm.monitor(ctx), pci::NVME);
    let step = Step::start(ctx, format!("vm {}", vm.name));
    let run = vm.run_with(ctx, |line| buses.hear(line))?;
    step.done("");
    run.judge(ctx, report, "", &[&test.name]);
    if !STOPPED.contains(&test.name.as_str()) {
        let name = format!("{}: writes to the configuration space", test.name);
        report.check(&name, judge_writes(ctx, &run, &NAMES)?);
        let name = format!("{}: QEMU sees the same bus, BARs and windows", test.name);
        report.check(&name, judge_buses(ctx, &run, &buses.answers, NAMES.len()));
    }
    Ok(())
}

/// The QEMU options for the disk.
fn devices(disk: &Path) -> [String; 4] {
    let disk = disk.display();
    [
        "-drive".to_owned(),
        format!("if=none,id=disk,format=raw,readonly=on,file={disk},throttling.iops-total={READS}"),
        "-device".to_owned(),
        "nvme,bus=above,serial=luo,drive=disk".to_owned(),
    ]
}
