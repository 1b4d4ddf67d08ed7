// SPDX-License-Identifier: GPL-2.0

//! Damages handed over data, for tests of the next kernel.
//!
//! This module changes memory that is owned by other objects. This is only permitted when these do
//! not access the memory any more: in the [last moment](LastMoment) of a kernel. Only memory that
//! this kernel has preserved is accessed.

use super::{
    copy_volatile,
    PhysAddr, //
};
use crate::{
    bindings,
    error::to_result,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// Proof that only the next kernel accesses the data that is handed over.
///
/// # Invariants
///
/// The owners of preserved memory that was allocated for Kexec Handover do not access it any more.
pub struct LastMoment(());

impl LastMoment {
    /// # Safety
    ///
    /// The kexec must not be aborted any more, and until then no other code may access memory of a
    /// [`Preserved`](super::Preserved), a [`Subtree`](super::Subtree) or an
    /// [array](super::vmalloc::PreservedArray).
    #[inline]
    pub unsafe fn new() -> Self {
        // INVARIANT: By the safety requirements.
        Self(())
    }

    /// Checks that `len` bytes from `pa` on belong to one preserved page, and returns their
    /// address.
    fn find(&self, pa: u64, len: usize) -> Result<*mut u8> {
        let pa = PhysAddr::new(pa).ok_or(EFAULT)?.get();
        // CAST: Less than the size of a page.
        let offset = (pa % PAGE_SIZE as u64) as usize;
        if offset.checked_add(len).is_none_or(|end| end > PAGE_SIZE) {
            return Err(EFAULT);
        }
        // SAFETY: Any address may be passed, in a context that may sleep.
        if !unsafe { bindings::kho_is_preserved(pa) } {
            return Err(EFAULT);
        }
        // SAFETY: Preserved memory is in the direct map.
        Ok(unsafe { bindings::phys_to_virt(pa) }.cast())
    }

    /// Reads the bytes at `pa`. May sleep.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] if the bytes are not all in one page that this kernel has preserved.
    pub fn read(&self, pa: u64, to: &mut [u8]) -> Result {
        let from = self.find(pa, to.len())?;
        // SAFETY: The source was checked: it is in the direct map. It may be a user's page that
        // changes at the same time.
        unsafe { copy_volatile(from, to) };
        Ok(())
    }

    /// Replaces the bytes at `pa`. May sleep.
    ///
    /// # Errors
    ///
    /// See [`Self::read`].
    pub fn write(&mut self, pa: u64, from: &[u8]) -> Result {
        let to = self.find(pa, from.len())?;
        // SAFETY: The destination was checked, and by the type invariant no other kernel code
        // accesses it; a user page may contain any bytes.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        Ok(())
    }

    /// Preserves a page once more that is part of a folio. May sleep.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] if this kernel has not preserved the page, and those of `kho_preserve_pages()`.
    pub fn preserve(&mut self, pa: u64) -> Result {
        self.find(pa, 1)?;
        // CAST: The number of a page that exists.
        let pfn = (pa >> PAGE_SHIFT) as c_ulong;
        // SAFETY: The page is memory, since it is preserved. The next kernel must cope with any
        // keys.
        to_result(unsafe { bindings::kho_preserve_pages(bindings::pfn_to_page(pfn), 1) })
    }
}
