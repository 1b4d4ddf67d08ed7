// SPDX-License-Identifier: GPL-2.0

//! The memory of files in the kernel that is left.

use super::{
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
    prelude::*, //
};
use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};

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

/// A folio that is pinned and preserved. Dropping this takes both back.
///
/// # Invariants
///
/// The folio is preserved, for this object.
struct PreservedFolio(PinnedFolio);

impl PreservedFolio {
    fn new(pinned: PinnedFolio) -> Result<Self> {
        // SAFETY: The folio is valid.
        to_result(unsafe { bindings::kho_preserve_folio(pinned.as_ptr()) })?;
        // INVARIANT: Just preserved.
        Ok(Self(pinned))
    }

    /// # Safety
    ///
    /// The folio must be pinned and preserved, and both must not belong to anyone else.
    unsafe fn from_raw(folio: NonNull<bindings::folio>) -> Self {
        // INVARIANT: By the safety requirements.
        // SAFETY: As above.
        Self(unsafe { PinnedFolio::from_raw(folio) })
    }
}

impl Drop for PreservedFolio {
    fn drop(&mut self) {
        // SAFETY: The folio is valid. It is pinned, so it did not change its size.
        unsafe { bindings::kho_unpreserve_folio(self.0.as_ptr()) };
    }
}

/// Prepares a folio for the kexec; returns the page of the file that it is at.
fn prepare(pinned: &Folio) -> Result<u64> {
    if pinned.contains_hwpoison() {
        return Err(EHWPOISON);
    }
    let locked = pinned.lock();
    locked.mark_dirty();
    locked.ensure_uptodate();
    Ok(locked.index())
}

/// Makes a record that has the page frame number where it is looked for later.
fn record<R: FolioRecord>(pinned: &Folio, index: u64) -> Result<R> {
    let record = R::new(pinned.pfn(), index);
    if pfn_of(&record) != Some(pinned.pfn()) {
        return Err(EOVERFLOW);
    }
    Ok(record)
}

/// Number of folios to pin at once.
const BATCH: usize = 256;

/// Calls `each` for all folios of a file that are there, in the order of the file.
///
/// What was swapped out is read back.
fn for_each_folio(file: &ShmemFile, mut each: impl FnMut(PinnedFolio) -> Result<u64>) -> Result {
    let limit = file.inode().size().div_ceil(crate::page::PAGE_SIZE as u64);
    let mut batch = PinBatch::new(BATCH)?;
    let mut next = 0;
    while let Some(mut run) = file.next_run(next).filter(|run| run.start < limit) {
        run.end = run.end.min(limit);
        while run.start < run.end {
            match file.pin_folios(run.clone(), &mut batch) {
                Ok(()) => {}
                // A page that was only ever read is a hole again, and the file handed over.
                Err(ENOENT) => break,
                Err(err) => return Err(err),
            }
            let start = run.start;
            for folio in batch.drain() {
                run.start = each(folio)?;
            }
            if run.start <= start {
                return Err(EIO);
            }
        }
        next = run.start;
    }
    Ok(())
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
        for_each_folio(freeze.file(), |folio| this.add(folio))?;
        Ok(this)
    }

    /// Preserves and records a folio; returns the page that comes behind it in the file.
    fn add(&mut self, pinned: PinnedFolio) -> Result<u64> {
        let index = prepare(&pinned)?;
        let next = index.checked_add(pinned.nr_pages()).ok_or(EFBIG)?;
        let record = record(&pinned, index)?;
        self.locked.add(pinned.nr_pages())?;
        let room = self.records.reserve()?;
        let preserved = PreservedFolio::new(pinned)?;
        // INVARIANT: The folio is pinned and preserved, and comes behind all others.
        room.push(record);
        let _ = ManuallyDrop::new(preserved);
        Ok(next)
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
        let mut added = KVVec::new();
        let mut records = KVVec::new();
        let mut pages: u64 = 0;
        let mut known = self.records.iter().map(R::index).peekable();
        for_each_folio(file, |pinned| {
            let index = prepare(&pinned)?;
            let nr = pinned.nr_pages();
            while known.next_if(|&known| known < index).is_some() {}
            if known.next_if_eq(&index).is_none() {
                records.push(record::<R>(&pinned, index)?, GFP_KERNEL)?;
                added.push(PreservedFolio::new(pinned)?, GFP_KERNEL)?;
                pages = pages.saturating_add(nr);
            }
            index.checked_add(nr).ok_or(EFBIG)
        })?;
        drop(known);
        self.records.merge(&records, R::index)?;
        self.locked.force_add(pages);
        // INVARIANT: The new records stand for these folios.
        for preserved in added {
            let _ = ManuallyDrop::new(preserved);
        }
        Ok(())
    }

    /// Fails with [`EHWPOISON`] if memory of a folio has broken since it was preserved.
    pub fn check(&self) -> Result {
        for pfn in self.records.iter().filter_map(pfn_of) {
            // SAFETY: By the type invariant, the folio is pinned, hence valid. `Folio` is a
            // transparent wrapper.
            let folio = unsafe { &*bindings::pfn_folio(pfn as c_ulong).cast::<Folio>() };
            if folio.contains_hwpoison() {
                return Err(EHWPOISON);
            }
        }
        Ok(())
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
        let mut batch = 0usize;
        for pfn in self.records.iter().filter_map(pfn_of) {
            // SAFETY: By the type invariant, the folio is pinned and preserved for us.
            // CAST: It was made from an `unsigned long`.
            let folio = unsafe { bindings::pfn_folio(pfn as c_ulong) };
            // SAFETY: As above.
            drop(NonNull::new(folio).map(|folio| unsafe { PreservedFolio::from_raw(folio) }));
            batch = batch.wrapping_add(1);
            if batch % BATCH == 0 {
                // What has begun has to be finished, killed or not.
                let _ = resched_or_killed();
            }
        }
    }
}
