// SPDX-License-Identifier: GPL-2.0

//! The data of a file of a VM that one kernel hands over to the next.
//!
//! The structure of the format `kvm-vm-v1`, and a parser that converts it to a checked value. It
//! depends only on `core` and `zerocopy`, so that it also compiles for the host, where it is tested.
//!
//! C header: [`include/linux/kho/abi/kvm.h`](srctree/include/linux/kho/abi/kvm.h)

use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// `struct kvm_vm_luo_ser`: a preserved VM.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct VmSer {
    /// What `KVM_CREATE_VM` takes.
    pub(crate) kind: u64,
    /// 0.
    pub(crate) flags: u64,
}

/// An unknown flag, or a type of VMs that is not preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unknown;

impl VmSer {
    /// The type of VMs that are preserved (`KVM_X86_DEFAULT_VM`).
    pub(crate) const DEFAULT: u64 = 0;

    /// Returns the type of the VM.
    pub(crate) const fn parse(&self) -> Result<u64, Unknown> {
        if self.flags != 0 || self.kind != Self::DEFAULT {
            return Err(Unknown);
        }
        Ok(self.kind)
    }
}
