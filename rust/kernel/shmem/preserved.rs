// SPDX-License-Identifier: GPL-2.0

//! The memory of files in the kernel that is left.

use super::{
    resched_or_killed,
    MappingFreeze, //
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
    mm::folio::{
        PinBatch,
        PinnedFolio, //
    },
    page::PAGE_SHIFT,
    prelude::*, //
};
use core::ptr::NonNull;

/// How a folio is recorded for the next kernel.
///
/// The first eight bytes of a record, as an integer, have the page frame number in the low
/// [`Self::PFN_BITS`] bits. A record that does not have it there is refused when it is made.
pub trait FolioRecord: Handover + Copy {
    /// Width of the page frame number.
    const PFN_BITS: u32;

    /// Records the folio at page frame number `pfn`, which is at page `index` of the file.
    fn new(pfn: u64, index: u64) -> Self;
}

/// The folios of a file, pinned, preserved, and recorded for the next kernel.
///
/// Dropping this takes all of it back.
///
/// # Invariants
///
/// For each record, there is a pin on the folio at its page frame number that belongs to this
/// object, and the folio is preserved.
pub struct PreservedFolios<R: FolioRecord> {
    records: PreservedArray<R>,
}

impl<R: FolioRecord> PreservedFolios<R> {
    /// Number of folios to pin at once.
    const BATCH: usize = 256;

    /// Preserves all folios of a file. May sleep.
    ///
    /// Holes are filled: later writes into them would get lost, and cannot be prevented. All folios
    /// are marked as dirty, since one that is clean now may be written to until the kexec.
    ///
    /// # Errors
    ///
    /// - [`ENOMEM`] if there is no memory, for the records or for the holes; also if the file is
    ///   larger than all of the memory.
    /// - [`EHWPOISON`] if a part of the file is lost, due to broken memory.
    /// - [`EINTR`] if the task is being killed.
    /// - [`EIO`] if the file is not what it should be.
    /// - What KHO fails with.
    pub fn new(freeze: &MappingFreeze) -> Result<Self> {
        // INVARIANT: There are no records.
        let mut this = Self {
            records: PreservedArray::new(),
        };
        let pages = freeze.pages();

        // Do not even try, that would push everybody else out of memory first.
        // SAFETY: FFI call without safety requirements.
        if pages > unsafe { bindings::totalram_pages() } as u64 {
            return Err(ENOMEM);
        }
        let mut batch = PinBatch::new(Self::BATCH.min(usize::try_from(pages)?))?;
        let mut next = 0;
        while next < pages {
            freeze.file().pin_folios(next << PAGE_SHIFT, &mut batch)?;
            let start = next;
            for folio in batch.drain() {
                next = this.add(folio)?;
            }
            if next <= start {
                return Err(EIO);
            }
        }
        Ok(this)
    }

    /// Preserves and records a folio; returns the page that comes behind it in the file.
    fn add(&mut self, pinned: PinnedFolio) -> Result<u64> {
        if pinned.contains_hwpoison() {
            return Err(EHWPOISON);
        }
        let locked = pinned.lock();
        locked.mark_dirty();
        locked.ensure_uptodate();
        let index = locked.index();
        drop(locked);

        let next = index.checked_add(pinned.nr_pages()).ok_or(EFBIG)?;
        let pfn = pinned.pfn();
        let record = R::new(pfn, index);
        if pfn_of(&record) != Some(pfn) {
            return Err(EOVERFLOW);
        }
        let room = self.records.reserve()?;
        // SAFETY: The folio is valid.
        to_result(unsafe { bindings::kho_preserve_folio(pinned.as_ptr()) })?;
        // INVARIANT: The folio is preserved, and this object takes the pin over.
        pinned.into_raw();
        room.push(record);
        Ok(next)
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
            // SAFETY: By the type invariant, the folio is pinned, so it is valid and did not change
            // its size since it was preserved; and the pin is ours.
            unsafe {
                // CAST: It was made from an `unsigned long`.
                let folio = bindings::pfn_folio(pfn as c_ulong);
                bindings::kho_unpreserve_folio(folio);
                drop(NonNull::new(folio).map(|folio| PinnedFolio::from_raw(folio)));
            }
            batch = batch.wrapping_add(1);
            if batch % Self::BATCH == 0 {
                // What has begun has to be finished, killed or not.
                let _ = resched_or_killed();
            }
        }
    }
}
