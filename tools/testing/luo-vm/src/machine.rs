// SPDX-License-Identifier: GPL-2.0

//! Virtual machines: their kinds, running them, and their output.

pub mod card;
pub mod console;
pub mod fault;
pub mod gap;
pub mod monitor;
pub mod named;
pub mod outside;
pub mod pci;
pub mod peer;
pub mod sender;
pub mod silent;
pub mod verdict;
pub mod vm;
