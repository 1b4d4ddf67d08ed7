// SPDX-License-Identifier: GPL-2.0

//! The data of a guest_memfd that one kernel hands over to the next.
//!
//! The structure of the format `guest-memfd-v1`, and a parser that converts it to checked values. Like
//! the format of memfds, which has the array of folios in common, it also compiles for the host.
//!
//! C header: [`include/linux/kho/abi/kvm.h`](srctree/include/linux/kho/abi/kvm.h)

use super::memfd_abi::{
    pages,
    ArraySer,
    FormatError,
    UniformLayout,
    MAX_SIZE, //
};
use super::PAGE_SIZE;
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// `struct guest_memfd_luo_ser`: a preserved guest_memfd.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct GuestMemfdSer {
    /// Size of the file, in bytes.
    pub(crate) size: u64,
    /// [`Self::MMAP`] and [`Self::INIT_SHARED`].
    pub(crate) flags: u64,
    /// Token of the file of the VM, in the same session.
    pub(crate) vm_token: u64,
    /// Number of entries of the array.
    pub(crate) nr_folios: u64,
    /// The array, of [`FolioSer`](super::memfd_abi::FolioSer).
    pub(crate) folios: ArraySer,
}

impl GuestMemfdSer {
    /// User space can map the file (`GUEST_MEMFD_FLAG_MMAP`).
    pub(crate) const MMAP: u64 = 1 << 0;
    /// All memory is shared with user space (`GUEST_MEMFD_FLAG_INIT_SHARED`).
    pub(crate) const INIT_SHARED: u64 = 1 << 1;
}

/// The checked properties of a preserved guest_memfd.
///
/// # Invariants
///
/// `size` is a multiple of the page size, not 0, and at most `i64::MAX`; there are at most as many
/// folios as the file has pages, and as fit into the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestMemfd {
    pub(crate) size: u64,
    pub(crate) flags: u64,
    pub(crate) nr_folios: u64,
}

impl GuestMemfd {
    /// Checks the data of the previous kernel, except the array and the VM.
    pub(crate) fn parse(ser: &GuestMemfdSer) -> Result<Self, FormatError> {
        const KNOWN: u64 = GuestMemfdSer::MMAP | GuestMemfdSer::INIT_SHARED;
        // Memory that is not shared would need more than its content.
        if ser.flags & !KNOWN != 0 || ser.flags & GuestMemfdSer::INIT_SHARED == 0 {
            return Err(FormatError::UnknownFlags);
        }
        // CAST: Lossless.
        if ser.size == 0 || ser.size > MAX_SIZE || ser.size & (PAGE_SIZE as u64 - 1) != 0 {
            return Err(FormatError::BadSize);
        }
        if ser.nr_folios > ser.folios.capacity() || ser.nr_folios > pages(ser.size) {
            return Err(FormatError::BadCount);
        }
        // INVARIANT: Just checked.
        Ok(Self {
            size: ser.size,
            flags: ser.flags,
            nr_folios: ser.nr_folios,
        })
    }

    /// The pages of the file, none of which has a folio yet. Each folio has one page.
    pub(crate) const fn layout(&self) -> UniformLayout {
        UniformLayout::new(self.size, 1)
    }
}
