// SPDX-License-Identifier: GPL-2.0

//! Files of virtual machines of KVM that are preserved while the kernel is replaced by a live update.
//!
//! Only the type of a VM is preserved. The next kernel creates a VM of this type, which belongs to the
//! address space of the task that retrieves it. Vcpus, devices, interrupts and memory slots are for its
//! user to save and to create again. What this is for: files that depend on the VM, such as its
//! `guest_memfd`, which the crate `memfd_luo` preserves.
//!
//! | module        | subject                                   |
//! |---------------|-------------------------------------------|
//! | [`abi`]       | the format of handed over data            |
//! | [`handler`]   | the handler of files                      |
//! | [`ops`]       | KVM, which may be a module                |
//!
//! Not supported: VMs whose memory or state is protected from the host.

#![deny(unsafe_code)]

mod abi;
mod handler;
#[cfg(CONFIG_LIVEUPDATE_KUNIT_TEST)]
mod kunit;
#[expect(unsafe_code, reason = "calls KVM")]
mod ops;

kernel::builtin_crate!(c"kvm_liveupdate");
