// SPDX-License-Identifier: GPL-2.0

//! `make demo-deb`: updates the kernel of a machine that consists of packages only.

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::machine;
use crate::kernel::build::Kernel;
use crate::kernel::flavour::Flavour;
use crate::machine::console::PROGRESS;
use crate::machine::named::UEFI;
use crate::machine::vm::Vm;
use crate::report::results::Report;

/// Five live updates, two of which fail, and three boots by firmware after the first one.
const KEXECS: u32 = 8;

/// Updates the kernel from one package to another. Returns true if all tests on the machine have
/// passed.
pub fn run(ctx: &Ctx) -> Result<bool> {
    let disk = machine::disk(ctx)?;
    // The kernels are on the disk.
    let kernel = Kernel::prebuilt(Flavour::Ours, disk.clone());
    let vm = Vm::new("demo-deb", &kernel, &disk)
        .on(&UEFI)
        .devices(["-device".to_owned(), "i6300esb".to_owned()])
        .firmware()
        .kexecs(KEXECS);
    println!(
        "\nA machine made of Debian packages boots by UEFI and systemd-boot. Its kernel is replaced by that\n\
         of another package, and by the first one again. Then the next kernel panics. After that, GRUB\n\
         is installed; its kernel is replaced as well, and then the next kernel hangs.\n"
    );
    let run = vm.run_with(ctx, |line| {
        if let Some((_, what)) = line.split_once(PROGRESS) {
            println!("{what}");
        } else if let Some((_, rest)) = line.split_once("] Linux version ") {
            let release = rest.split(' ').next().unwrap_or("");
            println!("the kernel {release} starts");
        } else if line.contains("Kernel panic - not syncing") {
            println!("it panics; the machine is reset");
        } else if line.contains("Run /bin/cat as init process") {
            println!("it hangs; the watchdog resets the machine in two minutes");
        } else if line.starts_with("BdsDxe: starting") {
            println!("firmware starts the boot loader");
        }
    })?;
    let mut report = Report::new("demo-deb");
    run.judge(ctx, &mut report, "", &["machine"]);
    let failed = report.failed();
    println!();
    if failed == 0 {
        println!(
            "verified: the session survived the live updates from package to package, and the machine\n\
             survived two kernels that did not come up"
        );
    } else {
        println!("FAILED: see {}", ctx.shown(&ctx.log("vm-demo-deb")));
    }
    Ok(crate::report::results::summary(&[report]))
}
