// SPDX-License-Identifier: GPL-2.0

//! The memory of files in the kernel that is left.

use super::{
    mover::Mover,
    resched_or_killed,
    HandedOver,
    MappingFreeze,
    ShmemFile, //
};
use crate::{
    bindings,
    error::to_result,
    kho::{
        vmalloc::{
            Descriptor,
            PreservedArray, //
        },
        Handover, //
    },
    mm::{
        folio::{
            Folio,
            PinBatch,
            PinnedFolio, //
        },
        locked::LockedPages, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};
use core::ops::Range;

/// How a folio is recorded for the next kernel.
///
/// The first eight bytes of a record, as an integer, have the page frame number in the low
/// [`Self::PFN_BITS`] bits. A record that does not have it there is refused when it is made.
pub trait FolioRecord: Handover + Copy {
    /// Width of the page frame number.
    const PFN_BITS: u32;

    /// Records the folio at page frame number `pfn`, which is at page `index` of the file.
    fn new(pfn: u64, index: u64) -> Self;

    /// The page of the file that was given to [`Self::new`].
    fn index(&self) -> u64;
}

/// Preserves all of the folios, or fails and preserves none.
fn preserve(folios: &[PinnedFolio]) -> Result {
    let nr = u32::try_from(folios.len())?;
    // `PinnedFolio` is a transparent wrapper around a pointer.
    let folios = folios.as_ptr().cast_mut().cast();
    // SAFETY: These are so many pointers to valid folios; the callee does not change the array.
    to_result(unsafe { bindings::kho_preserve_folios(folios, nr) })
}

/// Prepares a folio for the kexec; returns the page of the file that it is at.
fn prepare(pinned: &PinnedFolio) -> Result<u64> {
    if !pinned.is_dirty_and_sound() {
        if pinned.contains_hwpoison() {
            return Err(EHWPOISON);
        }
        let locked = pinned.lock();
        locked.mark_dirty();
        locked.ensure_uptodate();
    }
    Ok(pinned.index())
}

/// Makes a record that has the page frame number where it is looked for later.
fn record<R: FolioRecord>(pinned: &Folio, index: u64) -> Result<R> {
    let pfn = pinned.pfn();
    let record = R::new(pfn, index);
    if pfn_of(&record) != Some(pfn) {
        return Err(EOVERFLOW);
    }
    Ok(record)
}

/// Number of folios to pin at once.
const BATCH: usize = 256;

/// Pins the folios of a file that are there, in the order of the file, and calls `each` for some of
/// them at a time. It returns the page behind the last.
///
/// What was swapped out is read back. The pages of the ranges `known`, which have to be sorted, are
/// left out. If there are folios that have to be moved, a worker may help, if it `may_get_help`.
fn for_each_batch(
    file: &ShmemFile,
    may_get_help: bool,
    known: &mut dyn Iterator<Item = Range<u64>>,
    each: &mut dyn FnMut(&mut PinBatch) -> Result<u64>,
) -> Result {
    let limit = file.inode().size().div_ceil(PAGE_SIZE as u64);
    // Most files are small.
    let mut batch = PinBatch::new(usize::try_from(file.nr_pages())?.min(BATCH))?;
    let mut mover = if may_get_help {
        Mover::new(file, limit, &mut batch)
    } else {
        Mover::none()
    };
    let mut known = known.peekable();
    let mut next = 0;
    let find = |next| (next < limit).then(|| file.next_page(next)).flatten();
    while let Some(start) = find(next).filter(|&start| start < limit) {
        while known.next_if(|known| known.end <= start).is_some() {}
        let end = match known.next_if(|known| known.start <= start) {
            Some(here) => {
                next = here.end;
                // Nothing is to be found between two that are side by side.
                while let Some(known) = known.next_if(|known| known.start == next) {
                    next = known.end;
                }
                resched_or_killed()?;
                continue;
            }
            None => known.peek().map_or(limit, |known| limit.min(known.start)),
        };
        let end = end.min(mover.claim(start));
        let quick = match file.pin_folios(start..end, &mut batch) {
            Ok(quick) => quick,
            // A page that was only ever read is a hole again, and the file handed over.
            Err(ENOENT) => {
                next = start;
                continue;
            }
            Err(err) => return Err(err),
        };
        next = Some(each(&mut batch)?)
            .filter(|&next| next > start)
            .ok_or(EIO)?;
        if !quick {
            mover.start(file, next..limit);
        }
    }
    Ok(())
}

/// Records of folios, and how many pages they are about.
struct Records<R> {
    records: KVVec<R>,
    pages: u64,
}

impl<R: FolioRecord> Records<R> {
    const fn new() -> Self {
        Self {
            records: KVVec::new(),
            pages: 0,
        }
    }

    fn clear(&mut self) {
        self.records.clear();
        self.pages = 0;
    }

    /// Prepares the folios and appends their records; returns the page of the file that comes behind
    /// the last of them.
    fn add(&mut self, folios: &[PinnedFolio]) -> Result<u64> {
        let mut next = 0;
        for pinned in folios {
            let (index, nr) = (prepare(pinned)?, pinned.nr_pages());
            self.records.push(record(pinned, index)?, GFP_KERNEL)?;
            self.pages = self.pages.saturating_add(nr);
            next = index.checked_add(nr).ok_or(EFBIG)?;
        }
        Ok(next)
    }
}

/// The folios of a file, pinned, preserved, and recorded for the next kernel.
///
/// Only what is there counts: holes stay holes. The pages are counted as locked by the user who
/// preserves them. Dropping this takes all of it back.
///
/// # Invariants
///
/// For each record, there is a pin on the folio at its page frame number that belongs to this
/// object, and the folio is preserved. The records are in the order of the file.
pub struct PreservedFolios<R: FolioRecord> {
    records: PreservedArray<R>,
    locked: LockedPages,
}

impl<R: FolioRecord> PreservedFolios<R> {
    /// Preserves all folios of a file. May sleep.
    ///
    /// All of them are marked as dirty, since one that is clean now may be written to until the
    /// kexec. Memory behind the end of the file, which `fallocate()` can reserve, is none of its
    /// content and left out.
    ///
    /// # Errors
    ///
    /// - [`ENOMEM`] if there is no memory for the records or to swap folios in, or if the user locks
    ///   more memory than `RLIMIT_MEMLOCK` allows.
    /// - [`EHWPOISON`] if a part of the file is lost, due to broken memory.
    /// - [`EINTR`] if the task is being killed, [`EBUSY`] if a kexec waits for it.
    /// - [`EIO`] if the file is not what it should be.
    /// - What KHO fails with.
    pub fn new(freeze: &MappingFreeze) -> Result<Self> {
        // INVARIANT: There are no records.
        let mut this = Self {
            records: PreservedArray::new(),
            locked: LockedPages::new()?,
        };
        let mut added = Records::new();
        let mut known = core::iter::empty();
        for_each_batch(freeze.file(), true, &mut known, &mut |batch| {
            added.clear();
            let next = added.add(batch.folios())?;
            this.locked.add(added.pages)?;
            let room = this.records.reserve(&added.records)?;
            preserve(batch.folios())?;
            // INVARIANT: The folios are preserved, stay pinned, and come behind all others.
            room.append();
            batch.keep_pinned();
            Ok(next)
        })?;
        Ok(this)
    }

    /// Preserves what was added to the file since it was preserved. May sleep.
    ///
    /// Quick if that is nothing.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], but nobody is limited any more. Nothing has changed then.
    pub fn update(&mut self, handed_over: &HandedOver) -> Result {
        let file = handed_over.file();
        // Nothing is added, and what is recorded is pinned, so equal numbers mean that nothing is new.
        if file.nr_pages() == self.locked.pages() {
            return Ok(());
        }
        let mut folios = KVVec::new();
        let mut added = Records::new();
        let mut known = self.records.iter().filter_map(|record| {
            let nr = self.folio(record)?.nr_pages();
            Some(record.index()..record.index().checked_add(nr)?)
        });
        // Without help: another task has to wait if it wants a page of the file that is missing.
        for_each_batch(file, false, &mut known, &mut |batch| {
            let next = added.add(batch.folios())?;
            for pinned in batch.drain() {
                folios.push(pinned, GFP_KERNEL)?;
            }
            Ok(next)
        })?;
        drop(known);
        let room = self.records.reserve(&added.records)?;
        preserve(&folios)?;
        // INVARIANT: The folios are preserved, and stay pinned.
        room.merge(R::index);
        for pinned in folios {
            let _ = pinned.into_raw();
        }
        self.locked.force_add(added.pages);
        Ok(())
    }

    /// Fails with [`EHWPOISON`] if memory of a folio has broken since it was preserved.
    pub fn check(&self) -> Result {
        let mut folios = self.records.iter().filter_map(|record| self.folio(record));
        if folios.any(Folio::contains_hwpoison) {
            return Err(EHWPOISON);
        }
        Ok(())
    }

    /// The folio that one of the records is about.
    fn folio(&self, record: &R) -> Option<&Folio> {
        let pfn = pfn_of(record)?;
        // SAFETY: By the type invariant, the folio is pinned, hence valid, for as long as this object
        // exists. `Folio` is a transparent wrapper.
        // CAST: It was made from an `unsigned long`.
        unsafe { bindings::pfn_folio(pfn as c_ulong).cast::<Folio>().as_ref() }
    }

    /// Number of folios.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns whether there are no folios.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What has to be handed over such that the next kernel finds the records.
    pub fn descriptor(&self) -> Descriptor {
        self.records.descriptor()
    }
}

/// Returns the page frame number of a record.
fn pfn_of<R: FolioRecord>(record: &R) -> Option<u64> {
    let (word, _) = u64::read_from_prefix(record.as_bytes()).ok()?;
    Some(word & 1u64.checked_shl(R::PFN_BITS)?.checked_sub(1)?)
}

impl<R: FolioRecord> Drop for PreservedFolios<R> {
    fn drop(&mut self) {
        const LEN: usize = 32;
        let mut folios = [core::ptr::null_mut(); LEN];
        let mut rest = self.records.iter().filter_map(|record| self.folio(record));
        loop {
            let mut nr = 0u32;
            for (slot, folio) in folios.iter_mut().zip(&mut rest) {
                *slot = folio.as_ptr();
                nr = nr.saturating_add(1);
            }
            if nr == 0 {
                break;
            }
            // SAFETY: By the type invariant, the folios are preserved and pinned for us, and nobody
            // looks at them any more. There are so many pointers.
            unsafe {
                bindings::kho_unpreserve_folios(folios.as_mut_ptr(), nr);
                bindings::unpin_folios(folios.as_mut_ptr(), nr as c_ulong);
            }
            // What has begun has to be finished, killed or not.
            let _ = resched_or_killed();
        }
    }
}
