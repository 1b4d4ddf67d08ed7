// SPDX-License-Identifier: GPL-2.0

//! Pages that devices, and programs that have mapped them, read and write at any time.

use super::{
    ClaimedFolio,
    PhysAddr, //
};
use crate::{
    bindings,
    error::to_result,
    mm::virt::VmaNew,
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};
use core::ptr::NonNull;

/// A page to which devices or programs have access as well.
///
/// Its contents may change at any time; dropping it frees the page once no program maps it.
///
/// # Invariants
///
/// `folio` is a folio of one page in the direct map, and a reference to it belongs to this object.
pub struct SharedPage(NonNull<bindings::folio>);

// SAFETY: A page may be used and freed on any thread.
unsafe impl Send for SharedPage {}
// SAFETY: The methods copy the contents by accesses that may race with those of devices and
// programs.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Allocates a page, which is zeroed. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new() -> Result<Self> {
        let flags = GFP_KERNEL | __GFP_ZERO;
        // SAFETY: FFI call without safety requirements.
        let page = unsafe { bindings::alloc_pages(flags.as_raw(), 0) };
        // INVARIANT: A page that was allocated by itself is a folio.
        Ok(Self(NonNull::new(page.cast()).ok_or(ENOMEM)?))
    }

    /// Claims the page at `pa`, which the previous kernel preserved. May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if no page was preserved there, or it was claimed before.
    pub fn claim(pa: PhysAddr) -> Result<Self> {
        let folio = ClaimedFolio::new(pa)?;
        if folio.size() != PAGE_SIZE {
            folio.leak();
            return Err(EINVAL);
        }
        // INVARIANT: The reference is that of the claim.
        Ok(Self(folio.into_raw()))
    }

    /// The physical address of the page.
    pub fn phys(&self) -> u64 {
        // SAFETY: By the type invariant; the folio is in the direct map.
        unsafe { bindings::virt_to_phys(bindings::folio_address(self.0.as_ptr())) }
    }

    /// Maps the page to a program, at the beginning of `vma`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `vma` is larger than the page, [`ENOMEM`].
    pub fn map(&self, vma: &VmaNew) -> Result {
        if vma.end().saturating_sub(vma.start()) != PAGE_SIZE {
            return Err(EINVAL);
        }
        let (start, vma) = (vma.start(), vma.set_mixedmap());
        // SAFETY: The area is being set up, and may contain pages; the page is valid.
        to_result(unsafe { bindings::vm_insert_page(vma.as_ptr(), start, self.0.as_ptr().cast()) })
    }

    /// Preserves the page for the next kernel. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn preserve(self: Arc<Self>) -> Result<PreservedPage> {
        // SAFETY: By the type invariant.
        to_result(unsafe { bindings::kho_preserve_folio(self.0.as_ptr()) })?;
        // INVARIANT: It was just preserved.
        Ok(PreservedPage(self))
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::folio_put(self.0.as_ptr()) };
    }
}

/// A page that is preserved for the next kernel. Dropping this unpreserves it.
///
/// # Invariants
///
/// The page is preserved on behalf of this object.
pub struct PreservedPage(Arc<SharedPage>);

impl Drop for PreservedPage {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kho_unpreserve_folio(self.0 .0.as_ptr()) };
    }
}
