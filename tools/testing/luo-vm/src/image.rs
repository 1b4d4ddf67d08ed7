// SPDX-License-Identifier: GPL-2.0

//! What machines start from: programs for them, initramfs images and disks.

pub mod disk;
pub mod guest;
pub mod initramfs;
pub mod programs;
