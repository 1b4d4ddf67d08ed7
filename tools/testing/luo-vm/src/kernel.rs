// SPDX-License-Identifier: GPL-2.0

//! Kernels: their source, the change to it, their configuration, and building them.

pub mod build;
pub mod checkpatch;
pub mod config;
pub mod each;
pub mod findings;
pub mod flavour;
pub mod key;
pub mod package;
pub mod patched;
pub mod patches;
pub mod series;
pub mod signing;
pub mod source;
pub mod tree;
