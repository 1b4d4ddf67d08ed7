// SPDX-License-Identifier: GPL-2.0

//! Images of machines that run guests of their own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use crate::ctx::Ctx;
use crate::files::write_if_changed;
use crate::image::{disk, initramfs, programs};
use crate::kernel::build::{make, Kernel};
use crate::report::step::Step;

/// Makes the disk `name`. The guests have the kernel that is started by kexec, and a program that is
/// their init; nothing sets their clocks.
pub fn disk(ctx: &Ctx, next: &Kernel, name: &str) -> Result<PathBuf> {
    disk_with(ctx, name, next, None, &[])
}

/// The same, with the modules of the host's kernel. The guests have the kernel `inside`, since theirs must
/// not need modules.
pub fn disk_with_modules(ctx: &Ctx, host: &Kernel, inside: &Kernel, name: &str) -> Result<PathBuf> {
    let modules = modules(ctx, host, name)?;
    let mut files: Vec<_> = modules
        .iter()
        .map(|(name, path)| (name.as_str(), path.as_path()))
        .collect();
    files.push((GUEST, &inside.image));
    disk_with(ctx, name, host, None, &files)
}

/// Installs the modules of a kernel for the disk `name`. Returns their names on the disk, with those of the
/// lists that modprobe needs, and the files.
fn modules(ctx: &Ctx, kernel: &Kernel, name: &str) -> Result<Vec<(String, PathBuf)>> {
    let top = ctx.build.join(format!("images/modules-{name}"));
    if top.exists() {
        fs::remove_dir_all(&top)?;
    }
    let mut step = Step::start(ctx, format!("install modules of {}", kernel.flavour.name()));
    let mut install = make(ctx, &kernel.out);
    install.arg(format!("INSTALL_MOD_PATH={}", top.join("usr").display()));
    install.args(["INSTALL_MOD_STRIP=1", "modules_install"]);
    step.run(&mut install, &ctx.log(&format!("{name}-modules")))?;
    step.done("");
    let mut files = Vec::new();
    let mut left = vec![top.join(disk::MODULES)];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).with_context(|| ctx.shown(&dir))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                let name = entry.path().strip_prefix(&top)?.display().to_string();
                files.push((name, entry.path()));
            }
        }
    }
    Ok(files)
}

/// The same, with QEMU's guest agent.
pub fn disk_with_agent(ctx: &Ctx, host: &Kernel) -> Result<PathBuf> {
    let agent = disk::program(ctx, "qemu-ga")?;
    disk_with(ctx, "guest-agent", host, Some(agent), &[])
}

/// The same, for two guests, the second of which sets its clock by chrony.
pub fn disk_with_chrony(ctx: &Ctx, host: &Kernel) -> Result<PathBuf> {
    let chrony = disk::program(ctx, "chronyd")?;
    disk_with(ctx, "guest-two", host, Some(chrony), &[])
}

/// The same as [`disk`], with another kernel in `/boot`, which is never started: its configuration has
/// no KVM.
pub fn disk_with_refused(ctx: &Ctx, host: &Kernel) -> Result<PathBuf> {
    let config = ctx.build.join("images/config-without-kvm");
    let text = fs::read_to_string(host.out.join(".config"))?;
    ensure!(text.contains(KVM), "{} has no KVM", ctx.shown(&host.image));
    write_if_changed(&config, text.replace(KVM, NO_KVM).as_bytes())?;
    let files: [(_, &Path); 2] = [
        ("boot/vmlinuz-without-kvm", &host.image),
        ("boot/config-without-kvm", &config),
    ];
    disk_with(ctx, "guest", host, None, &files)
}

/// The same as [`disk`], with the `memory` of the guest on huge `pages`, both of which are sizes.
pub fn disk_on_huge_pages(
    ctx: &Ctx,
    host: &Kernel,
    name: &str,
    pages: &str,
    memory: &str,
) -> Result<PathBuf> {
    let unit = ctx.build.join(format!("images/{name}.conf"));
    let settings = format!(
        "[Service]\nExecStart=\n\
         ExecStart=/usr/bin/luo-qemu run %i --hugepages {pages} -- $QEMU -m {memory}\n"
    );
    write_if_changed(&unit, settings.as_bytes())?;
    let file = "etc/systemd/system/luo-qemu@one.service.d/huge-pages.conf";
    disk_with(ctx, name, host, None, &[(file, &unit)])
}

/// Makes the disk `name`, whose guests have the programs `inside`.
fn disk_with(
    ctx: &Ctx,
    name: &str,
    host: &Kernel,
    inside: Option<Vec<(String, PathBuf)>>,
    more: &[(&str, &Path)],
) -> Result<PathBuf> {
    let guest = programs::guest(ctx)?;
    let inside = inside.unwrap_or_default();
    let inside: Vec<_> = inside
        .iter()
        .map(|(name, path)| (name.as_str(), path.as_path()))
        .collect();
    let inside = initramfs::guest_with(ctx, &format!("inside-{name}"), &guest, &[], &inside)?;
    let (qemu, program) = programs::qemu(ctx)?;
    let mut files = vec![
        (qemu, program.as_path()),
        ("usr/lib/luo-test/guest.cpio", inside.as_path()),
        (GUEST, host.image.as_path()),
    ];
    // Later ones replace earlier ones.
    files.extend(more);
    disk::disk_with(ctx, name, host, &files)
}

/// The kernel of the guests.
const GUEST: &str = "boot/guest";

/// The setting of KVM in the configuration of a kernel.
const KVM: &str = "\nCONFIG_KVM=y\n";
const NO_KVM: &str = "\n# CONFIG_KVM is not set\n";

/// Makes the initramfs of a host that runs the example of a virtual machine monitor. The guest has
/// the same kernel as its host, and a program that is its init.
pub fn initramfs(ctx: &Ctx, host: &Kernel) -> Result<PathBuf> {
    let guest = programs::guest(ctx)?;
    let inside = initramfs::guest(ctx, "guest-of-vmm", &guest, &[], None)?;
    let mut files = programs::luod(ctx)?;
    files.push(programs::vmm(ctx)?);
    files.push(("/boot/guest.cpio", inside));
    let files: Vec<_> = files
        .iter()
        .map(|(name, path)| (*name, path.as_path()))
        .collect();
    initramfs::guest_with(ctx, "vmm", &guest, &[host], &files)
}

/// The kernel parameters for a guest of QEMU and a number of updates.
///
/// On a busy host, the first measurement of the frequency of the time-stamp counter is inaccurate.
/// KVM gives guests this first value, and refuses it once it is corrected by
/// more than the usual tolerance of 250 parts per million: the guest then stands still when it
/// starts its second processor.
pub fn params(updates: u32) -> String {
    format!(
        "{} luo_updates={updates} kvm.tsc_tolerance_ppm=20000",
        disk::params("luo-guests.target")
    )
}
