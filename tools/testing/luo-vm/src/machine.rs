// SPDX-License-Identifier: GPL-2.0

//! Virtual machines: which ones there are, running them, and what they print.

pub mod console;
pub mod gap;
pub mod named;
pub mod silent;
pub mod verdict;
pub mod vm;
