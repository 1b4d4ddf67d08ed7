// SPDX-License-Identifier: GPL-2.0

//! Commands of `make`, except tests.

pub mod analyzer;
pub mod bench;
pub mod demo;
pub mod docs;
pub mod menuconfig;
pub mod pages;
pub mod peer;
