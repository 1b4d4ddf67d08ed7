// SPDX-License-Identifier: GPL-2.0

//! Runs a QEMU guest that survives live updates of its host.
//!
//! The memory of the guest is in memfds, of huge pages if wanted, that QEMU gets as files of memory
//! backends. In a live update, these are preserved while the guest runs; then QEMU pauses the guest
//! and saves all other state to one more memfd. In the next kernel, a new QEMU with the same arguments
//! gets the same memory and the saved state, and the guest is resumed. The program is `luo-qemu`; this
//! library contains its code, for tests.

pub mod agent;
pub mod allocation;
pub mod check;
pub mod guest;
pub mod hugepages;
pub mod memory;
pub mod moved;
pub mod next_kernel;
pub mod options;
pub mod process;
pub mod processors;
pub mod qmp;
pub mod run_dir;
pub mod size;
pub mod spec;
pub mod state;
