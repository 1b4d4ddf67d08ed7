// SPDX-License-Identifier: GPL-2.0

//! The content of a file in the next kernel, before there is a file.

use super::resched_or_killed;
use crate::{
    bindings,
    kho::{
        list::{
            ClaimedList,
            RawIter, //
        },
        ClaimedFolio, //
    },
    page::PAGE_SHIFT,
    prelude::*, //
};

/// What is known about the content of a folio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageState {
    /// The content must not be dropped under memory pressure.
    pub dirty: bool,
    /// There is content; otherwise, it reads as zeroes.
    pub uptodate: bool,
}

/// Claimed folios, each with its place in a file.
///
/// [`NewMemfd::fill`](super::NewMemfd::fill) makes them the content of a file. Dropping this frees
/// them.
///
/// # Invariants
///
/// - Each folio has its `index`, which is a multiple of its size.
/// - They are in the order of the file, do not overlap, and end at `next`, which is at most
///   [`Self::LIMIT`].
/// - `pages` is the sum of their sizes.
///
/// # Examples
///
/// ```
/// use kernel::shmem::{ClaimedFolios, NewMemfd};
///
/// let mut new = NewMemfd::new(c"memfd:doctest")?;
/// assert!(new.fill(ClaimedFolios::new()).is_ok());
/// # Ok::<(), Error>(())
/// ```
#[derive(Default)]
pub struct ClaimedFolios {
    list: ClaimedList,
    pages: u64,
    next: u64,
}

impl ClaimedFolios {
    /// The number of pages that a file can have.
    const LIMIT: u64 = i64::MAX as u64 >> PAGE_SHIFT;

    /// Creates the content of an empty file.
    pub const fn new() -> Self {
        // INVARIANT: There are no folios.
        Self {
            list: ClaimedList::new(),
            pages: 0,
            next: 0,
        }
    }

    /// Number of pages that the folios have together.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Appends a folio, for the pages of the file from `index` on.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `index` is no multiple of the folio's size, lies before the end of the folio
    /// that was appended last, or is too large. The folio is freed then.
    pub fn push(&mut self, folio: ClaimedFolio, index: u64, state: PageState) -> Result {
        // A power of two.
        let nr = (folio.size() >> PAGE_SHIFT) as u64;
        let aligned = index & nr.wrapping_sub(1) == 0;
        let end = index.checked_add(nr).filter(|&end| end <= Self::LIMIT);
        let (Some(end), true) = (end, aligned && index >= self.next) else {
            return Err(EINVAL);
        };
        // SAFETY: The folio was just claimed, so nobody else uses it.
        unsafe {
            // CAST: `pgoff_t` has 64 bits.
            let (raw, index) = (folio.as_raw().as_ptr(), index as c_ulong);
            bindings::folio_make_shmem(raw, index, state.uptodate, state.dirty);
        }
        // INVARIANT: Just checked, and the index was just set.
        self.list.push(folio);
        self.next = end;
        // Cannot wrap: folios do not overlap.
        self.pages = self.pages.saturating_add(nr);
        Ok(())
    }

    /// Where a loop that claims folios can stop; what it has got so far stays.
    ///
    /// To be called every now and then, not necessarily for each folio. May sleep.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed, [`EBUSY`] if somebody waits for the loop to end.
    pub fn checkpoint(&self) -> Result {
        resched_or_killed()
    }

    /// The folios, which nobody else uses.
    pub(super) fn iter(&self) -> RawIter<'_> {
        self.list.iter_raw()
    }

    /// Takes the folios out.
    pub(super) fn into_list(self) -> ClaimedList {
        self.list
    }
}
