// SPDX-License-Identifier: GPL-2.0

//! The memory of preserved files.

use super::{
    abi::FolioSer,
    checkpoint::checkpoint,
    mover::Mover,
    ops::{
        self,
        HandedOver,
        PinnedRecords, //
    },
    pages::{
        next_page,
        pin_folios,
        stuck_page,
        BATCH, //
    },
};
use core::ops::Range;
use kernel::{
    kho::vmalloc::Descriptor,
    mm::{
        folio::{
            PinBatch,
            PinnedFolio, //
        },
        locked::LockedPages,
        shmem::{
            MappingFreeze,
            ShmemFile, //
        }, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

/// Prepares a folio for the kexec.
///
/// A folio with bad memory is handed over like any other: the next kernel knows which page frames
/// are bad, and there is no other copy of the remaining content.
fn prepare(pinned: &PinnedFolio) {
    if !pinned.is_dirty_and_uptodate() {
        let locked = pinned.lock();
        locked.mark_dirty();
        locked.ensure_uptodate();
    }
}

/// Prepares folios, which must be in the order of the file.
///
/// Returns the number of their pages, and the page of the file after the last one.
fn prepare_all(folios: &[PinnedFolio]) -> Result<(u64, u64)> {
    let (mut pages, mut next) = (0u64, 0);
    for pinned in folios {
        prepare(pinned);
        let nr = pinned.nr_pages();
        pages = pages.saturating_add(nr);
        next = pinned.index().checked_add(nr).ok_or(EFBIG)?;
    }
    Ok((pages, next))
}

/// The items that [`for_each_batch`] finds in a file.
enum Found<'a> {
    /// Folios that are pinned now.
    Folios(&'a mut PinBatch),
    /// A page and its frame, which is bad and can neither be pinned nor be moved.
    Stuck { index: u64, pfn: u64 },
}

/// Pins the folios of a file in order, and calls `each` for batches of them, which returns the page
/// after the last one. Pages that are stuck are found one by one.
///
/// Swapped out pages are read back. The pages of the ranges `known`, which must be sorted, are
/// skipped. A worker moves a part of the folios that must be moved, unless the file is `handed_over`:
/// it would have to wait for a page of the file that is missing.
fn for_each_batch(
    file: &ShmemFile,
    handed_over: bool,
    known: &mut dyn Iterator<Item = Range<u64>>,
    each: &mut dyn FnMut(Found<'_>) -> Result<u64>,
) -> Result {
    let limit = file.inode().size().div_ceil(PAGE_SIZE as u64);
    // Most files are small.
    let mut batch = PinBatch::new(usize::try_from(ops::nr_pages(file).min(BATCH.into()))?)?;
    let mut mover = if handed_over {
        Mover::none()
    } else {
        Mover::new(file, limit, &mut batch)
    };
    // In a file that is handed over, a hole cannot be filled.
    let is_hole = |err: Error| err == ENOENT || (handed_over && err == EBUSY);
    let mut known = known.peekable();
    let mut next = 0;
    // Where bad memory kept pages from being pinned, though the first one was not stuck.
    let mut unclear = None;
    let find = |next| (next < limit).then(|| next_page(file, next)).flatten();
    while let Some(start) = find(next).filter(|&start| start < limit) {
        while known.next_if(|known| known.end <= start).is_some() {}
        let end = match known.next_if(|known| known.start <= start) {
            Some(here) => {
                next = here.end;
                // There are no pages between two adjacent ranges.
                while let Some(known) = known.next_if(|known| known.start == next) {
                    next = known.end;
                }
                checkpoint()?;
                continue;
            }
            None => known.peek().map_or(limit, |known| limit.min(known.start)),
        };
        let end = end.min(mover.claim(start));
        let quick = match pin_folios(file, start..end, &mut batch) {
            Ok(quick) => quick,
            // The page has become a hole: it was only read and never written.
            Err(err) if is_hole(err) => {
                next = start;
                continue;
            }
            Err(EHWPOISON) => {
                if let Some(pfn) = stuck_page(file, start) {
                    next = each(Found::Stuck { index: start, pfn })?;
                } else if unclear.replace(start) == Some(start) {
                    return Err(EHWPOISON);
                }
                // A page after it became bad just now, or it is good again.
                continue;
            }
            Err(err) => return Err(err),
        };
        next = Some(each(Found::Folios(&mut batch))?)
            .filter(|&next| next > start)
            .ok_or(EIO)?;
        if !quick {
            mover.start(file, next..limit);
        }
    }
    Ok(())
}

/// The folios of a file, pinned, preserved, and recorded for the next kernel.
///
/// Holes stay holes. The pages are counted as locked. Dropping this undoes all of that.
pub(crate) struct PreservedFolios {
    records: PinnedRecords,
    locked: LockedPages,
}

impl PreservedFolios {
    /// Preserves all folios of a file, and adds them to `locked`, which must be empty. May sleep.
    ///
    /// All of them are marked as dirty, since a clean folio may be written until the kexec. Memory
    /// beyond the end of the file, which `fallocate()` can allocate, is skipped.
    ///
    /// # Errors
    ///
    /// - [`ENOMEM`] if there is no memory for the records or to swap folios in, or if the user locks
    ///   more memory than `RLIMIT_MEMLOCK` allows.
    /// - The errors of [`checkpoint`].
    /// - [`EIO`] if the file is inconsistent.
    /// - [`EHWPOISON`] if a large folio with bad memory must be moved, and cannot be.
    /// - The errors of KHO.
    pub(crate) fn new(freeze: &MappingFreeze, locked: LockedPages) -> Result<Self> {
        let mut this = Self {
            records: PinnedRecords::new(),
            locked,
        };
        let mut scratch = KVVec::<FolioSer>::new();
        let mut known = core::iter::empty();
        for_each_batch(freeze.file(), false, &mut known, &mut |found| match found {
            Found::Folios(batch) => {
                let (pages, next) = prepare_all(batch.folios())?;
                this.locked.add(pages)?;
                this.records.append(batch, &mut scratch)?;
                Ok(next)
            }
            Found::Stuck { index, pfn } => {
                this.locked.add(1)?;
                this.records.add_stuck(index, pfn)?;
                index.checked_add(1).ok_or(EFBIG)
            }
        })?;
        Ok(this)
    }

    /// Preserves folios that were added since the file was preserved. May sleep.
    ///
    /// Fast if no folio was added.
    ///
    /// # Errors
    ///
    /// As for [`Self::new`], but without regard to `RLIMIT_MEMLOCK`. Folios that were preserved
    /// before stay preserved.
    pub(crate) fn update(&mut self, handed_over: &HandedOver) -> Result {
        let file = handed_over.file();
        // No folios are being added, and recorded folios are pinned, so that equal numbers mean
        // that there are no new ones.
        if ops::nr_pages(file) == self.locked.pages() {
            return Ok(());
        }
        let mut folios = KVVec::new();
        let mut stuck = KVVec::new();
        let mut added = 0u64;
        let mut known = self.records.ranges();
        for_each_batch(file, true, &mut known, &mut |found| match found {
            Found::Folios(batch) => {
                let (pages, next) = prepare_all(batch.folios())?;
                added = added.saturating_add(pages);
                for pinned in batch.drain() {
                    folios.push(pinned, GFP_KERNEL)?;
                }
                Ok(next)
            }
            Found::Stuck { index, pfn } => {
                stuck.push((index, pfn), GFP_KERNEL)?;
                index.checked_add(1).ok_or(EFBIG)
            }
        })?;
        drop(known);
        self.records.merge(folios)?;
        self.locked.force_add(added);
        for (index, pfn) in stuck {
            self.records.add_stuck(index, pfn)?;
            self.locked.force_add(1);
        }
        Ok(())
    }

    /// Number of folios.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The location of the records, for the next kernel.
    pub(crate) fn descriptor(&self) -> Descriptor {
        self.records.descriptor()
    }
}
