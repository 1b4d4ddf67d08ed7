// SPDX-License-Identifier: GPL-2.0

//! Batches and lists of claimed folios.

use super::{
    ClaimedFolio,
    PhysAddr, //
};
use crate::{
    bindings,
    page::PAGE_SIZE, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// The number of folios that are freed without a reschedule.
const FREE_BATCH: usize = 64;

/// A list of claimed folios.
///
/// The list needs no memory of its own: an unused folio has room for a link. Claiming many folios
/// can therefore not fail for lack of memory. Dropping the list frees the folios, and may sleep.
///
/// # Invariants
///
/// - `ends` are the first and the last folio of a chain, linked by `lru.next`, that ends with a null
///   pointer.
/// - The only reference to each of the folios belongs to the list, and they have no other users.
#[derive(Default)]
pub struct ClaimedList {
    ends: Option<(NonNull<bindings::folio>, NonNull<bindings::folio>)>,
}

// SAFETY: Folios may be used and freed on any thread.
unsafe impl Send for ClaimedList {}
// SAFETY: Shared references only read fields that do not change.
unsafe impl Sync for ClaimedList {}

/// The address of the link of a folio.
///
/// # Safety
///
/// `folio` must be valid.
unsafe fn link(folio: NonNull<bindings::folio>) -> *mut *mut bindings::folio {
    // SAFETY: By the safety requirements, this is inside of the folio.
    unsafe {
        (&raw mut (*folio.as_ptr())
            .__bindgen_anon_1
            .__bindgen_anon_1
            .__bindgen_anon_1
            .lru
            .next)
            .cast()
    }
}

impl ClaimedList {
    /// Creates a list without folios.
    pub const fn new() -> Self {
        // INVARIANT: There are no folios.
        Self { ends: None }
    }

    /// Returns whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.ends.is_none()
    }

    /// Appends a folio.
    pub fn push(&mut self, folio: ClaimedFolio) {
        let folio = folio.into_raw();
        // SAFETY: The folio is valid, and has no other users.
        unsafe { *link(folio) = core::ptr::null_mut() };
        // INVARIANT: The folio becomes the last one, and its reference is that of the claim.
        self.ends = match self.ends {
            None => Some((folio, folio)),
            Some((first, last)) => {
                // SAFETY: By the type invariant.
                unsafe { *link(last) = folio.as_ptr() };
                Some((first, folio))
            }
        };
    }

    /// Removes and returns the first folio, with its reference.
    pub fn pop_raw(&mut self) -> Option<NonNull<bindings::folio>> {
        let (first, last) = self.ends?;
        // SAFETY: By the type invariant.
        let next = NonNull::new(unsafe { *link(first) });
        // INVARIANT: The chain begins with the next folio, if there is one.
        self.ends = next.map(|next| (next, last));
        Some(first)
    }

    /// The folios, in order. They may be changed, but must not be freed, and the links must not
    /// change.
    pub fn iter_raw(&self) -> RawIter<'_> {
        RawIter {
            next: self.ends.map(|(first, _)| first),
            _list: PhantomData,
        }
    }
}

impl Drop for ClaimedList {
    fn drop(&mut self) {
        let mut count = 0usize;
        while let Some(folio) = self.pop_raw() {
            // SAFETY: The reference was that of the list.
            unsafe { bindings::folio_put(folio.as_ptr()) };
            count = count.wrapping_add(1);
            if count % FREE_BATCH == 0 {
                // SAFETY: FFI call without safety requirements; the caller may sleep.
                unsafe { bindings::cond_resched() };
            }
        }
    }
}

/// Iterates over the folios of a [`ClaimedList`].
#[derive(Clone)]
pub struct RawIter<'a> {
    next: Option<NonNull<bindings::folio>>,
    _list: PhantomData<&'a ClaimedList>,
}

impl Iterator for RawIter<'_> {
    type Item = NonNull<bindings::folio>;

    fn next(&mut self) -> Option<Self::Item> {
        let folio = self.next?;
        // SAFETY: By the type invariant of the list, which is borrowed.
        self.next = NonNull::new(unsafe { *link(folio) });
        Some(folio)
    }
}

/// Folios that are claimed together, which is faster than one by one.
///
/// Iterating returns the result for each address: the folio, or [`None`] if the claim failed.
/// Dropping this frees the remaining claimed folios.
///
/// # Invariants
///
/// The elements of `folios` from `taken` to `claimed` are null or folios whose only reference belongs
/// to this object.
///
/// # Examples
///
/// ```
/// use kernel::kho::{list::ClaimBatch, PhysAddr};
///
/// let mut batch = ClaimBatch::new();
/// batch.refill([PhysAddr::new(4097)].into_iter());
/// // No folio starts there.
/// assert!(matches!(batch.next(), Some(None)));
/// assert!(batch.next().is_none());
/// ```
pub struct ClaimBatch {
    folios: [*mut bindings::folio; Self::LEN],
    claimed: usize,
    taken: usize,
}

impl ClaimBatch {
    /// The maximum number of folios in a batch.
    pub const LEN: usize = 32;

    /// Creates an empty batch.
    pub fn new() -> Self {
        // INVARIANT: Nothing is claimed.
        Self {
            folios: [core::ptr::null_mut(); Self::LEN],
            claimed: 0,
            taken: 0,
        }
    }

    /// Claims the next folios, [`Self::LEN`] at most, like [`ClaimedFolio::new`]; [`None`] is an
    /// address without a folio. Frees the remaining folios of the last call.
    pub fn refill(&mut self, addresses: impl Iterator<Item = Option<PhysAddr>>) {
        let mut phys = [0; Self::LEN];
        let mut len = 0usize;

        self.for_each(drop);
        for (slot, pa) in phys.iter_mut().zip(addresses) {
            // KHO only uses the page frame number, and never returns page frame 0.
            let pa = pa.map_or(0, PhysAddr::get);
            *slot = if pa % PAGE_SIZE as u64 == 0 { pa } else { 0 };
            len = len.saturating_add(1);
        }
        // SAFETY: Both arrays have at least `len` elements. The callee checks the addresses, and
        // returns a folio to a single caller only.
        unsafe {
            // CAST: At most `LEN`.
            bindings::kho_restore_folios(phys.as_ptr(), self.folios.as_mut_ptr(), len as u32)
        };
        // INVARIANT: The callee has set `len` elements, and all earlier folios were taken.
        self.claimed = len;
        self.taken = 0;
    }
}

impl Default for ClaimBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl Iterator for ClaimBatch {
    type Item = Option<ClaimedFolio>;

    fn next(&mut self) -> Option<Self::Item> {
        let folio = *self.folios.get(..self.claimed)?.get(self.taken)?;
        // INVARIANT: The reference is transferred to the caller.
        self.taken = self.taken.saturating_add(1);
        // SAFETY: By the type invariant.
        Some(NonNull::new(folio).map(|folio| unsafe { ClaimedFolio::from_raw(folio) }))
    }
}

impl Drop for ClaimBatch {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}
