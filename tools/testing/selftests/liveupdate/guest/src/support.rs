// SPDX-License-Identifier: GPL-2.0

//! Code that the commands and the tests share. It does not use them.
//!
//! - The program: [`args`], [`error`], [`json`], [`registry`] (suites and cases), [`state`]
//!   (data for the next kernel).
//! - Contents: [`pattern`], [`memfd`], [`mapping`].
//! - Sessions: [`sessions`], [`test_device`], [`edu`], [`ioctl_arg`].
//! - Virtual machines: [`kvm`].
//! - Devices that user space drives: [`modules`], [`pci`], [`vfio`], [`igb`].
//! - Processes: [`agent`], [`process`], [`socket`], [`cgroup`], [`wait`].
//! - The kernel: [`clock`], [`fault`], [`kernel_log`], [`kexec`], [`meminfo`], [`poison`],
//!   [`userfault`].

pub mod agent;
pub mod args;
pub mod cgroup;
pub mod clock;
pub mod config_space;
pub mod edu;
pub mod error;
pub mod fault;
pub mod igb;
pub mod ioctl_arg;
pub mod json;
pub mod kernel_log;
pub mod kexec;
pub mod kvm;
pub mod mapping;
pub mod memfd;
pub mod meminfo;
pub mod modules;
pub mod nvme;
pub mod pattern;
pub mod pci;
pub mod poison;
pub mod process;
pub mod registry;
pub mod sessions;
pub mod socket;
pub mod state;
pub mod test_device;
pub mod userfault;
pub mod vfio;
pub mod wait;
