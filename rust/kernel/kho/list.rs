// SPDX-License-Identifier: GPL-2.0

//! Lists of claimed folios.

use super::ClaimedFolio;
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// How many folios are freed in a row.
const FREE_BATCH: usize = 64;

/// Folios that were claimed, one after the other.
///
/// The list needs no memory of its own: a folio that nobody uses has room for a link. Hence claiming
/// many folios cannot fail halfway for want of memory. Dropping the list frees the folios, and may
/// sleep.
///
/// # Invariants
///
/// - `ends` are the first and the last folio of a chain, linked by `lru.next`, that ends with a null
///   pointer.
/// - The only reference to each of the folios belongs to the list, and nobody else uses them.
#[derive(Default)]
pub struct ClaimedList {
    ends: Option<(NonNull<bindings::folio>, NonNull<bindings::folio>)>,
}

// SAFETY: Folios may be used and freed on any thread.
unsafe impl Send for ClaimedList {}
// SAFETY: Shared references only read what does not change.
unsafe impl Sync for ClaimedList {}

/// Where the link of a folio is.
///
/// # Safety
///
/// `folio` must be valid.
unsafe fn link(folio: NonNull<bindings::folio>) -> *mut *mut bindings::folio {
    // SAFETY: By the safety requirements, this stays inside of the folio.
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

    /// Whether there are no folios.
    pub fn is_empty(&self) -> bool {
        self.ends.is_none()
    }

    /// Appends a folio.
    pub fn push(&mut self, folio: ClaimedFolio) {
        let folio = folio.into_raw();
        // SAFETY: The folio is valid, and nobody else uses it.
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

    /// Takes the first folio off the list, with the reference to it.
    pub(crate) fn pop_raw(&mut self) -> Option<NonNull<bindings::folio>> {
        let (first, last) = self.ends?;
        // SAFETY: By the type invariant.
        let next = NonNull::new(unsafe { *link(first) });
        // INVARIANT: The chain goes on with the next folio, if there is one.
        self.ends = next.map(|next| (next, last));
        Some(first)
    }

    /// The folios, in order. They may be changed as long as they are not freed and the links stay.
    pub(crate) fn iter_raw(&self) -> RawIter<'_> {
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
pub(crate) struct RawIter<'a> {
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
