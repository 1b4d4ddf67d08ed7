// SPDX-License-Identifier: GPL-2.0

//! The pages of a file that have memory.

use super::{
    checkpoint::checkpoint,
    ops::{
        in_place,
        next_run, //
    },
};
use core::ops::Range;
use kernel::{
    fs::File,
    mm::{
        folio::PinBatch,
        memfd, //
    },
    prelude::*, //
};

/// Number of folios that are pinned at once.
pub(crate) const BATCH: u32 = 256;

/// Returns the first page from `first` on that has memory, or is swapped out.
pub(crate) fn next_page(file: &File, first: u64) -> Option<u64> {
    next_run(file, first, 1).map(|run| run.pages.start)
}

/// Returns the page frame of the page at `index` if its memory is bad and lies where it cannot be
/// pinned, as in KHO's scratch areas: it cannot be moved either.
pub(crate) fn stuck_page(file: &File, index: u64) -> Option<u64> {
    let run = next_run(file, index, 1).filter(|run| run.pages.start == index)?;
    run.stuck
}

/// Pins the folios of the first pages in `pages` that have memory, as many as there are without a hole
/// and as fit into `batch`, and replaces the content of the latter. May sleep.
///
/// Returns whether no folio had to be read back or moved, so that this was fast.
///
/// # Errors
///
/// - [`EINVAL`] if the file does not have these pages.
/// - [`EHWPOISON`] if the first page that has memory is [stuck](stuck_page), or another folio with bad
///   memory must be moved, and cannot be.
/// - [`EINTR`] if the task is being killed.
/// - [`ENOMEM`] if there is no memory to read back what was swapped out, or to move folios to.
/// - [`ENOENT`] if none of the pages has memory any more; [`EBUSY`] in a file that is handed over, if
///   one of them has just lost it.
/// - The errors of [`checkpoint`].
pub(crate) fn pin_folios(file: &File, pages: Range<u64>, batch: &mut PinBatch) -> Result<bool> {
    checkpoint()?;
    let run = next_run(file, pages.start, BATCH)
        .filter(|run| run.pages.start < pages.end)
        .ok_or(ENOENT)?;
    // Otherwise, pinning it would be retried forever.
    if run.stuck.is_some() {
        return Err(EHWPOISON);
    }
    // Not beyond the next hole, which would be filled.
    let pages = run.pages.start..run.pages.end.min(pages.end);
    memfd::pin_folios(file, pages.clone(), batch)?;
    while !in_place(file, batch.folios()) {
        checkpoint()?;
        memfd::pin_folios(file, pages.clone(), batch)?;
    }
    Ok(run.settled)
}
