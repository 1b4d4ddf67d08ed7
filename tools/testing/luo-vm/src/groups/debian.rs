// SPDX-License-Identifier: GPL-2.0

//! The group `debian`: live updates under systemd.

use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::image::disk;
use crate::image::programs;
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::machine::vm::Vm;
use crate::report::results::Report;

/// The parameters with which each kernel keeps its log and its events for the next one, as the
/// package luod adds them.
const LOG: &str =
    "reserve_mem=1M:4096:luo_log ramoops.mem_name=luo_log ramoops.console_size=0x80000 \
     reserve_mem=4M:4096:luo_trace trace_instance=luo@luo_trace,liveupdate \
     trace_instance=luo_previous=luo";

/// Four consecutive updates: two by `systemctl kexec`, two by `luoctl kexec`.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    let image = disk::disk(ctx, &kernel)?;
    let vm = Vm::new("debian", &kernel, &image)
        .params(format!("{} {LOG}", disk::params("luo-test.target")))
        .kexecs(disk::UPDATES);
    let run = vm.boot(ctx)?;
    run.judge(ctx, report, "", &["debian"]);
    checks(ctx, report, &kernel)
}

/// An update with a process that Debian's CRIU saves in a session, as `luoctl exec` provides it. CRIU
/// needs what the configuration of a distribution has.
pub fn run_long(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Cloud)?;
    let image = disk::disk_with(ctx, "criu", &kernel, &[])?;
    let vm = Vm::new("criu", &kernel, &image)
        .params(disk::params("luo-criu.target"))
        .kexecs(1);
    let run = vm.boot(ctx)?;
    run.judge(ctx, report, "", &["criu"]);
    Ok(())
}

/// The verdict of `luoctl check` on a kernel that was built without LUO, and on ours.
fn checks(ctx: &Ctx, report: &mut Report, ours: &Kernel) -> Result<()> {
    let luoctl = programs::luoctl(ctx)?;
    let debian = disk::home()?.join("vmlinuz");
    if !debian.exists() {
        bail!("{} could not be created.", ctx.shown(&debian));
    }
    // The formats in use on this machine are not known: the verdict on ours is
    // "likely" at most.
    for (name, image, code, says) in [
        ("Debian's own kernel", &debian, 4, "there is no luo-v"),
        ("ours", &ours.image, 6, "has all usual formats"),
    ] {
        let mut luoctl = Command::new(&luoctl);
        luoctl.arg("check").arg(image);
        luoctl.args(["--cmdline", "kho=on liveupdate=on"]);
        let output = luoctl.output().context("luoctl")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let good = output.status.code() == Some(code) && said.contains(says);
        let against = (!good).then(|| format!("{}\n{said}", output.status));
        report.check(&format!("luoctl check: {name}"), against);
    }
    Ok(())
}
