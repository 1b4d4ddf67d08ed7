// SPDX-License-Identifier: GPL-2.0

//! The content of a retrieved file, before the file exists.

use super::ops;
use kernel::{
    kho::{
        list::ClaimedList,
        ClaimedFolio, //
    },
    mm::memfd::NewMemfd,
    page::PAGE_SHIFT,
    prelude::*, //
};

/// Claimed folios with their positions in a file. Dropping this frees them.
///
/// # Invariants
///
/// - Each folio has its index, which is a multiple of its size.
/// - They are in the order of the file, do not overlap, and end at `next`, which is at most
///   [`Self::LIMIT`].
/// - `pages` is the sum of their sizes.
#[derive(Default)]
pub(crate) struct ClaimedFolios {
    list: ClaimedList,
    pages: u64,
    next: u64,
}

impl ClaimedFolios {
    /// The number of pages that a file can have.
    const LIMIT: u64 = i64::MAX as u64 >> PAGE_SHIFT;

    /// Creates the content of an empty file.
    pub(crate) const fn new() -> Self {
        // INVARIANT: There are no folios.
        Self {
            list: ClaimedList::new(),
            pages: 0,
            next: 0,
        }
    }

    /// Appends a folio, for the pages of the file from `index` on. If it is not `uptodate`, they
    /// read as zeroes.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `index` is no multiple of the folio's size, lies before the end of the folio
    /// that was appended last, or is too large. The folio is freed then.
    pub(crate) fn push(&mut self, mut folio: ClaimedFolio, index: u64, uptodate: bool) -> Result {
        // A power of two.
        let nr = (folio.size() >> PAGE_SHIFT) as u64;
        let aligned = index & nr.wrapping_sub(1) == 0;
        let end = index.checked_add(nr).filter(|&end| end <= Self::LIMIT);
        let (Some(end), true) = (end, aligned && index >= self.next) else {
            return Err(EINVAL);
        };
        ops::init_folio(&mut folio, index, uptodate);
        // INVARIANT: Just checked, and the index was just set.
        self.list.push(folio);
        self.next = end;
        // Cannot wrap: folios do not overlap.
        self.pages = self.pages.saturating_add(nr);
        Ok(())
    }

    /// Adds the folios to `file`, which must be empty. May sleep.
    ///
    /// The memory is charged to the calling task's memory cgroup. The OOM killer is not invoked
    /// if there is not enough memory, since it would kill the task that needs the file.
    ///
    /// # Errors
    ///
    /// The errors of [`ops::fill`]. The folios are returned, and the file is empty.
    pub(crate) fn fill(self, file: &mut NewMemfd) -> Result<(), (Error, Self)> {
        let Self { list, pages, next } = self;
        // INVARIANT: The list is returned unchanged.
        ops::fill(file, list, pages).map_err(|(err, list)| (err, Self { list, pages, next }))
    }
}
