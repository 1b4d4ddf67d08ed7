// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Conversion of structures of KVM's interface from and to bytes.

use kvm_bindings::{
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use std::mem::{size_of, size_of_val};

/// Structures that can be read from any bytes, and written as bytes.
///
/// # Safety
///
/// All bytes are part of integers: there is no padding, and there are no invalid values.
pub unsafe trait Plain: Sized {
    /// Returns the structure in `bytes`, if these have its size.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let fits = bytes.len() == size_of::<Self>();
        // SAFETY: There are enough bytes, and all values are valid.
        fits.then(|| unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }

    /// Returns the bytes of structures.
    fn bytes_of(items: &[Self]) -> &[u8] {
        // SAFETY: The structures are in one piece, and all their bytes are initialized.
        unsafe { std::slice::from_raw_parts(items.as_ptr().cast(), size_of_val(items)) }
    }
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(
            // SAFETY: The type is an integer, or it is a structure of the kernel's interface, which
            // has members instead of padding.
            unsafe impl Plain for $type {}
        )*
    };
}

plain!(
    u8,
    kvm_clock_data,
    kvm_cpuid_entry2,
    kvm_debugregs,
    kvm_irqchip,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_msr_entry,
    kvm_pit_state2,
    kvm_regs,
    kvm_sregs,
    kvm_vcpu_events,
    kvm_xcrs,
    kvm_xsave
);

// SAFETY: Arrays have no padding.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
