// SPDX-License-Identifier: GPL-2.0

//! What the commands and the tests share. Nothing here uses them.
//!
//! - The program: [`args`], [`error`], [`json`], [`registry`] (what tests are made of), [`state`]
//!   (what one kernel tells the next one).
//! - Contents: [`pattern`], [`memfd`], [`mapping`].
//! - Sessions: [`sessions`], [`test_device`], [`ioctl_arg`].
//! - Processes: [`agent`], [`process`], [`socket`], [`cgroup`], [`wait`].
//! - The kernel: [`clock`], [`fault`], [`kernel_log`], [`kexec`], [`meminfo`], [`poison`],
//!   [`userfault`].

pub mod agent;
pub mod args;
pub mod cgroup;
pub mod clock;
pub mod error;
pub mod fault;
pub mod ioctl_arg;
pub mod json;
pub mod kernel_log;
pub mod kexec;
pub mod mapping;
pub mod memfd;
pub mod meminfo;
pub mod pattern;
pub mod poison;
pub mod process;
pub mod registry;
pub mod sessions;
pub mod socket;
pub mod state;
pub mod test_device;
pub mod userfault;
pub mod wait;
