// SPDX-License-Identifier: GPL-2.0

//! Folios: memory of one or more pages that is managed as a unit.
//!
//! C headers: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h),
//! [`include/linux/page-flags.h`](srctree/include/linux/page-flags.h),
//! [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h)

use crate::{
    alloc::KVec,
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};

/// A folio (`struct folio`) with a reference.
///
/// # Invariants
///
/// The folio is valid, i.e. its reference count is not zero, as long as the reference to this
/// object lives.
#[repr(transparent)]
pub struct Folio(Opaque<bindings::folio>);

// SAFETY: The methods may be called on any thread.
unsafe impl Send for Folio {}
// SAFETY: The methods only read fields that do not change, or synchronise.
unsafe impl Sync for Folio {}

impl Folio {
    /// Returns the raw pointer.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::folio {
        self.0.get()
    }

    /// Page frame number of the first page.
    #[inline]
    pub fn pfn(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { bindings::folio_pfn(self.as_ptr()) as u64 }
    }

    /// Number of pages, a power of two.
    ///
    /// It may shrink unless the folio is [locked](Self::lock) or pinned.
    #[inline]
    pub fn nr_pages(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { bindings::folio_nr_pages(self.as_ptr()) as u64 }
    }

    /// Returns whether one of the pages is poisoned (`PG_hwpoison`).
    #[inline]
    pub fn contains_hwpoison(&self) -> bool {
        // SAFETY: By the type invariant. The flags are read atomically.
        unsafe { bindings::folio_contain_hwpoisoned_page(self.as_ptr()) }
    }

    /// Returns whether page `n` of the folio is known to be bad.
    fn page_is_hwpoisoned(&self, n: u64) -> bool {
        if n >= self.nr_pages() {
            return false;
        }
        // CAST: A number of pages fits.
        let n = n as c_ulong;
        // SAFETY: By the type invariant, the folio has this page. Only the flags of the page are read,
        // atomically.
        unsafe { bindings::PageHWPoison(bindings::folio_page(self.as_ptr(), n)) != 0 }
    }

    /// Returns whether there is content, and it is marked as changed.
    ///
    /// This stays as it is while the folio is locked or pinned.
    #[inline]
    pub fn is_dirty_and_uptodate(&self) -> bool {
        const CHANGED: c_ulong =
            (1 << bindings::pageflags_PG_dirty) | (1 << bindings::pageflags_PG_uptodate);
        // SAFETY: By the type invariant. This reads a single integer that may change concurrently.
        let flags = unsafe {
            (&raw const (*self.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.flags.f).read_volatile()
        };
        flags & CHANGED == CHANGED
    }

    /// Offset, in pages, in the file of the folio.
    ///
    /// Undefined if the folio is not in the page cache. It may change unless the folio is
    /// [locked](Self::lock), or pinned and in a file that cannot be truncated.
    #[inline]
    pub fn index(&self) -> u64 {
        // SAFETY: By the type invariant. This reads a single integer that may change concurrently.
        unsafe {
            (&raw const (*self.as_ptr())
                .__bindgen_anon_1
                .__bindgen_anon_1
                .__bindgen_anon_2
                .index)
                .read_volatile() as u64
        }
    }

    /// Locks the folio. May sleep, also for I/O.
    pub fn lock(&self) -> LockedFolio<'_> {
        // SAFETY: By the type invariant.
        unsafe { bindings::folio_lock(self.as_ptr()) };
        // INVARIANT: Just locked.
        LockedFolio {
            folio: self,
            _not_send: NotThreadSafe,
        }
    }
}

/// A folio that is locked; dropping this unlocks it.
///
/// # Invariants
///
/// The folio is locked, and the lock belongs to this object.
#[must_use = "the folio is unlocked when this is dropped"]
pub struct LockedFolio<'a> {
    folio: &'a Folio,
    _not_send: NotThreadSafe,
}

impl LockedFolio<'_> {
    /// Marks the folio as dirty, so that its content is not dropped under memory pressure.
    pub fn mark_dirty(&self) {
        // SAFETY: The folio is valid, and locked by the type invariant.
        unsafe { bindings::folio_mark_dirty(self.folio.as_ptr()) };
    }

    /// Fills the folio with zeroes, except for bad pages, if nothing has been stored in it yet.
    ///
    /// This applies to shared memory that was only allocated by `fallocate()`.
    pub fn ensure_uptodate(&self) {
        let folio = self.folio.as_ptr();
        // SAFETY: By the type invariant of `Folio`.
        if unsafe { bindings::folio_test_uptodate(folio) } {
            return;
        }
        let (step, steps) = if self.folio.contains_hwpoison() {
            (PAGE_SIZE, self.folio.nr_pages())
        } else {
            // SAFETY: By the type invariant of `Folio`.
            (unsafe { bindings::folio_size(folio) }, 1)
        };
        for n in 0..steps {
            if step == PAGE_SIZE && self.folio.page_is_hwpoisoned(n) {
                continue;
            }
            // CAST: The offset is less than the size of the folio.
            let start = (n as usize).wrapping_mul(step);
            // SAFETY: The range is part of the folio, which is valid and locked, so no one else
            // initialises it, and no one reads it before it is marked as up to date.
            unsafe { bindings::folio_zero_range(folio, start, step) };
        }
        // SAFETY: The folio is valid and locked; it has just been initialised.
        unsafe {
            bindings::flush_dcache_folio(folio);
            bindings::folio_mark_uptodate(folio);
        }
    }
}

impl Deref for LockedFolio<'_> {
    type Target = Folio;

    fn deref(&self) -> &Folio {
        self.folio
    }
}

impl Drop for LockedFolio<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the folio is valid and the lock belongs to this object.
        unsafe { bindings::folio_unlock(self.folio.as_ptr()) };
    }
}

/// A long-term pin on a folio; dropping this releases it.
///
/// A pinned folio is neither moved, swapped out, nor split. It is not in an area that must stay
/// movable, and therefore does not overlap KHO's scratch areas.
///
/// # Invariants
///
/// The folio is pinned (`FOLL_PIN`), and the pin belongs to this object.
#[repr(transparent)]
pub struct PinnedFolio {
    folio: NonNull<bindings::folio>,
    _owns: PhantomData<Folio>,
}

// SAFETY: A pin is not bound to a thread.
unsafe impl Send for PinnedFolio {}
// SAFETY: `&PinnedFolio` only returns `&Folio`, which is `Sync`.
unsafe impl Sync for PinnedFolio {}

impl PinnedFolio {
    /// Takes ownership of a pin.
    ///
    /// # Safety
    ///
    /// The folio must be valid and pinned, and the pin must have no other owner.
    pub unsafe fn from_raw(folio: NonNull<bindings::folio>) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            folio,
            _owns: PhantomData,
        }
    }

    /// Transfers the pin to the caller.
    pub fn into_raw(self) -> NonNull<bindings::folio> {
        core::mem::ManuallyDrop::new(self).folio
    }
}

impl Deref for PinnedFolio {
    type Target = Folio;

    fn deref(&self) -> &Folio {
        // SAFETY: A pin is a reference. `Folio` is a transparent wrapper.
        unsafe { self.folio.cast().as_ref() }
    }
}

impl Drop for PinnedFolio {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::unpin_folio(self.folio.as_ptr()) };
    }
}

/// A reusable buffer for pinned folios.
///
/// # Invariants
///
/// The capacity of `folios` is at least 1 and never changes.
pub struct PinBatch {
    folios: KVec<PinnedFolio>,
}

impl PinBatch {
    /// Allocates room for `len` folios, or for one if `len` is 0. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new(len: usize) -> Result<Self> {
        // INVARIANT: The capacity is at least 1.
        Ok(Self {
            folios: KVec::with_capacity(len.max(1), GFP_KERNEL)?,
        })
    }

    /// Releases the folios in the batch and fills it with others.
    ///
    /// `fill` gets an array for pointers to folios and its length, and returns the number of
    /// pointers that it has stored.
    ///
    /// # Safety
    ///
    /// The pointers that `fill` stores must be valid, and must meet the requirements of
    /// [`PinnedFolio::from_raw`].
    #[cfg(all(CONFIG_SHMEM, CONFIG_MEMFD_CREATE))]
    pub(crate) unsafe fn refill(
        &mut self,
        fill: impl FnOnce(*mut *mut bindings::folio, u32) -> Result<usize>,
    ) -> Result {
        self.folios.clear();
        let room = self.folios.spare_capacity_mut();
        let capacity = room.len();
        // `PinnedFolio` is a transparent wrapper around a pointer.
        let nr = fill(
            room.as_mut_ptr().cast(),
            u32::try_from(capacity).unwrap_or(u32::MAX),
        )?;
        // SAFETY:
        // - `fill` gets the capacity of an empty vector.
        // - By the safety requirements, these elements are initialised and valid.
        unsafe { self.folios.inc_len(nr.min(capacity)) };
        Ok(())
    }

    /// The folios in the batch.
    pub fn folios(&self) -> &[PinnedFolio] {
        &self.folios
    }

    /// Removes the folios from the batch and leaves them pinned.
    ///
    /// The pins then belong to the caller.
    pub fn keep_pinned(&mut self) {
        for folio in self.drain() {
            let _ = folio.into_raw();
        }
    }

    /// Removes and returns the folios of the batch.
    pub fn drain(&mut self) -> impl Iterator<Item = PinnedFolio> + '_ {
        self.folios.drain_all()
    }
}
