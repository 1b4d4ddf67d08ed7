// SPDX-License-Identifier: GPL-2.0

//! What the fuzz targets do with their input.
//!
//! The code under test is compiled from the kernel's own files. A target panics if what was parsed
//! breaks a promise, not only if the parser does.
//!
//! `corpus` has the seeds of each target. `minimize.sh` says how they are made again.
#![allow(dead_code)]

const PAGE_SIZE: usize = 4096;

#[path = "../../../../../../kernel/liveupdate/abi.rs"]
mod abi;
#[path = "../../../../../../mm/memfd_luo/abi.rs"]
mod memfd_abi;

pub mod image;
mod input;
pub mod lists;
pub mod memfd;
mod memory;
pub mod pages;
