// SPDX-License-Identifier: GPL-2.0

//! Images of machines that run guests of their own.

use std::path::PathBuf;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::{disk, initramfs, programs};
use crate::kernel::build::Kernel;

/// Makes the disk. The guests have the same kernel as their host, and a program that is their init.
/// `without_kvm` is a kernel that cannot run guests, which is installed as distributions do it.
pub fn disk(ctx: &Ctx, host: &Kernel, without_kvm: Option<&Kernel>) -> Result<PathBuf> {
    let guest = programs::guest(ctx)?;
    let inside = initramfs::guest(ctx, "guest-of-qemu", &guest, &[], None)?;
    let (name, program) = programs::qemu(ctx)?;
    let config = without_kvm.map(|kernel| kernel.out.join(".config"));
    let mut files = vec![
        (name, program.as_path()),
        ("usr/lib/luo-test/guest.cpio", inside.as_path()),
    ];
    if let (Some(kernel), Some(config)) = (without_kvm, &config) {
        files.push(("boot/vmlinuz-without-kvm", &kernel.image));
        files.push(("boot/config-without-kvm", config));
    }
    disk::disk_with(ctx, "guest", host, &files)
}

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

/// What the kernel is told so that a guest of QEMU runs, and survives a number of updates.
///
/// A busy host measures the frequency of the time-stamp counter badly at first. KVM, which is built in,
/// gives guests this first value, and refuses it once it is corrected by more than the usual tolerance
/// of 250 parts per million: the guest then stands still when it starts its second processor.
pub fn params(updates: u32) -> String {
    format!(
        "{} luo_updates={updates} kvm.tsc_tolerance_ppm=20000",
        disk::params("luo-guests.target")
    )
}
