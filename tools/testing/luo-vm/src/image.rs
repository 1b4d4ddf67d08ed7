// SPDX-License-Identifier: GPL-2.0

//! Images of machines: programs, initramfs images and disks.

pub mod disk;
pub mod guest;
pub mod initramfs;
pub mod machine;
pub mod programs;
