// SPDX-License-Identifier: GPL-2.0

//! Compiles the format code of the kernel for the host, to test it with arbitrary bytes.
#![cfg(test)]
#![allow(dead_code)]

const PAGE_SIZE: usize = 4096;

#[path = "../../../../../../kernel/liveupdate/abi.rs"]
mod abi;
#[path = "../../../../../../mm/memfd_luo/guest_memfd/abi.rs"]
mod guest_memfd_abi;
#[path = "../../../../../../mm/memfd_luo/hugetlb/abi.rs"]
mod hugetlb_abi;
mod hugetlb_tests;
#[path = "../../../../../../virt/kvm/liveupdate/abi.rs"]
mod kvm_abi;
mod kvm_tests;
#[path = "../../../../../../mm/memfd_luo/abi.rs"]
mod memfd_abi;
mod memfd_tests;
mod random;
mod tests;
#[path = "../../../../../../drivers/vfio/pci/liveupdate/abi.rs"]
mod vfio_abi;
mod vfio_tests;
