// SPDX-License-Identifier: GPL-2.0

//! The code of the fuzz targets.
//!
//! The code under test is compiled from the kernel's own files. A target panics if the parsed data
//! violates an invariant, not only if the parser panics.
//!
//! `corpus` has the seeds of each target, which `minimize.sh` creates.
#![allow(dead_code)]

const PAGE_SIZE: usize = 4096;

#[path = "../../../../../../kernel/liveupdate/abi.rs"]
mod abi;
#[path = "../../../../../../mm/memfd_luo/guest_memfd/abi.rs"]
mod guest_memfd_abi;
#[path = "../../../../../../mm/memfd_luo/hugetlb/abi.rs"]
mod hugetlb_abi;
#[path = "../../../../../../virt/kvm/liveupdate/abi.rs"]
mod kvm_abi;
#[path = "../../../../../../mm/memfd_luo/abi.rs"]
mod memfd_abi;
#[path = "../../../../../../drivers/vfio/pci/liveupdate/abi.rs"]
mod vfio_abi;

pub mod hugetlb;
pub mod image;
mod input;
pub mod kvm;
pub mod lists;
pub mod memfd;
mod memory;
pub mod pages;
pub mod vfio;
