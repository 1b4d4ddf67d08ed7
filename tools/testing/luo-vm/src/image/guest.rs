// SPDX-License-Identifier: GPL-2.0

//! The disk of a Debian that runs guests of its own with QEMU.

use std::path::PathBuf;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::{disk, initramfs, programs};
use crate::kernel::build::Kernel;

/// Makes the disk. The guests have the same kernel as their host, and a program that is their init.
pub fn disk(ctx: &Ctx, host: &Kernel) -> Result<PathBuf> {
    let guest = programs::guest(ctx)?;
    let inside = initramfs::guest(ctx, "guest-of-qemu", &guest, &[], None)?;
    let (name, program) = programs::qemu(ctx)?;
    disk::disk_with(
        ctx,
        "guest",
        host,
        &[
            (name, program.as_path()),
            ("usr/lib/luo-test/guest.cpio", inside.as_path()),
        ],
    )
}

/// What the kernel is told so that a guest runs, and survives a number of updates.
pub fn params(updates: u32) -> String {
    format!(
        "{} luo_updates={updates}",
        disk::params("luo-guests.target")
    )
}
