// SPDX-License-Identifier: GPL-2.0

//! `make demo-deb`: updates the kernel of a machine that consists of packages only.

use anyhow::Result;

use crate::ctx::Ctx;
use crate::groups::packages;
use crate::machine::console::PROGRESS;
use crate::report::results::{summary, Report};

/// The name of the virtual machine.
const NAME: &str = "demo-deb";

/// Updates the kernel from one package to another. Returns true if all tests on the machine have
/// passed.
pub fn run(ctx: &Ctx) -> Result<bool> {
    println!(
        "\nA machine made of Debian packages boots by UEFI and systemd-boot. Its kernel is replaced by that\n\
         of another package, and by the first one again. Then the next kernel panics. After that, GRUB\n\
         is installed; its kernel is replaced as well, and then the next kernel hangs.\n"
    );
    let mut report = Report::new(NAME);
    packages::update(ctx, &mut report, NAME, |line| {
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
    let failed = report.failed();
    println!();
    if failed == 0 {
        println!(
            "verified: the session survived the live updates from package to package, and the machine\n\
             survived two kernels that did not come up"
        );
    } else {
        println!("FAILED: see {}", ctx.shown(&ctx.log(&format!("vm-{NAME}"))));
    }
    Ok(summary(&[report]))
}
