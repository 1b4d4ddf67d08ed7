// SPDX-License-Identifier: GPL-2.0

//! Safe types and functions for the use of shmem, the page cache and KHO.
//!
//! This is the only module of the crate with `unsafe` code.
//!
//! C headers: `mm/luo_shmem.h`,
//! [`include/linux/shmem_fs.h`](srctree/include/linux/shmem_fs.h)

#![allow(unsafe_code)]

use super::{
    abi::FolioSer,
    checkpoint::checkpoint, //
};
use core::{
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    fs::{
        inode::Inode,
        File, //
    },
    kho::{
        list::ClaimedList,
        vmalloc::{
            Descriptor,
            PreservedArray, //
        },
        ClaimedFolio, //
    },
    mm::{
        folio::{
            Folio,
            PinBatch,
            PinnedFolio, //
        },
        memfd::NewMemfd,
        shmem::{
            MappingFreeze,
            ShmemFile, //
        }, //
    },
    prelude::*,
    sched::cond_resched,
    sync::aref::ARef, //
};

/// Consecutive pages of a file that have memory, or are swapped out.
pub(crate) struct Run {
    pub(crate) pages: Range<u64>,
    /// Whether all of them have a folio that can be pinned without moving it.
    pub(crate) settled: bool,
    /// If there is only one page, whose memory is bad, and that can neither be pinned where it is
    /// nor be moved: its page frame.
    pub(crate) stuck: Option<u64>,
}

/// Finds the first pages from `first` on that have memory, or are swapped out.
///
/// The run ends at the first page without memory, or after `max` folios.
pub(crate) fn next_run(file: &File, first: u64, max: u32) -> Option<Run> {
    let mut run = bindings::luo_shmem_run::default();
    // SAFETY: The mapping lives as long as the inode, and `run` is valid for writing.
    // CAST: `pgoff_t` has 64 bits.
    let found = unsafe {
        let mapping = (*Inode::from_file(file).as_ptr()).i_mapping;
        bindings::luo_shmem_next_run(mapping, first as c_ulong, max, &mut run)
    };
    found.then_some(Run {
        pages: run.start as u64..run.end as u64,
        settled: run.settled,
        stuck: run.stuck.then_some(run.pfn as u64),
    })
}

/// Number of pages that have memory, or are swapped out. May change at any time.
pub(crate) fn nr_pages(file: &ShmemFile) -> u64 {
    // SAFETY: This is the inode of a shmem file.
    unsafe { bindings::luo_shmem_nr_pages(file.inode().as_ptr()) as u64 }
}

/// Whether all of the folios, which were found in the page cache of a file that cannot be truncated,
/// are part of the file, and stay in it.
///
/// If not, one was replaced by a larger one just before it was pinned. May sleep.
pub(crate) fn in_place(file: &File, folios: &[PinnedFolio]) -> bool {
    let Ok(nr) = u32::try_from(folios.len()) else {
        return false;
    };
    // `PinnedFolio` is a transparent wrapper around a pointer.
    let folios = folios.as_ptr().cast_mut().cast();
    // SAFETY: The mapping lives as long as the inode. These are `nr` pointers to valid folios; the
    // callee does not change the array.
    unsafe {
        let mapping = (*Inode::from_file(file).as_ptr()).i_mapping;
        bindings::luo_shmem_in_place(mapping, folios, nr)
    }
}

/// Prevents changes of the folios and seals of a file, for the next kernel.
///
/// A task that needs another folio, for a write or a page fault, waits; adding a seal fails. Dropping
/// this ends both.
///
/// # Invariants
///
/// The file is marked as handed over by this object.
pub(crate) struct HandedOver {
    file: ARef<ShmemFile>,
}

impl HandedOver {
    /// Marks the file as handed over. Does not wait for other users of the file.
    pub(crate) fn new(freeze: &MappingFreeze) -> Self {
        let file = ARef::from(freeze.file());
        // SAFETY: This is the inode of a shmem file, whose mapping is frozen.
        unsafe { bindings::shmem_set_handed_over(file.inode().as_ptr(), true) };
        // INVARIANT: Just marked.
        Self { file }
    }

    /// The file.
    pub(crate) fn file(&self) -> &ShmemFile {
        &self.file
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        // SAFETY: This is the inode of a shmem file, marked by this object.
        unsafe { bindings::shmem_set_handed_over(self.file.inode().as_ptr(), false) };
    }
}

/// Preserves all of the folios, or fails and preserves none.
fn preserve(folios: &[PinnedFolio]) -> Result {
    let nr = u32::try_from(folios.len())?;
    // `PinnedFolio` is a transparent wrapper around a pointer.
    let folios = folios.as_ptr().cast_mut().cast();
    // SAFETY: These are `nr` pointers to valid folios; the callee does not change the array.
    to_result(unsafe { bindings::kho_preserve_folios(folios, nr) })
}

/// Creates the record of the folio at `pfn`, for page `index` of a file.
///
/// # Errors
///
/// [`EOVERFLOW`] if the page frame number does not fit.
fn record(pfn: u64, index: u64) -> Result<FolioSer> {
    // A clean folio may be written to until the kexec, and one without content may get some.
    const STATE: u64 = FolioSer::DIRTY | FolioSer::UPTODATE;
    let record = FolioSer::new(pfn, STATE, index);
    if record.raw_pfn() != Some(pfn) {
        return Err(EOVERFLOW);
    }
    Ok(record)
}

/// Records of folios that are pinned and preserved. Dropping this undoes both.
///
/// # Invariants
///
/// For each record, unless its page frame number is in `stuck`, there is a pin on the folio at that
/// number that belongs to this object, and the folio is preserved. The records are in the order of
/// the file.
pub(crate) struct PinnedRecords {
    records: PreservedArray<FolioSer>,
    /// Bad page frames, of which the next kernel has a list. Nearly always, there are none.
    stuck: KVVec<u64>,
}

impl PinnedRecords {
    /// Creates an empty list.
    pub(crate) const fn new() -> Self {
        // INVARIANT: There are no records.
        Self {
            records: PreservedArray::new(),
            stuck: KVVec::new(),
        }
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The location of the records, for the next kernel.
    pub(crate) fn descriptor(&self) -> Descriptor {
        self.records.descriptor()
    }

    /// Creates the records of folios, in `records`.
    fn record_all(folios: &[PinnedFolio], records: &mut KVVec<FolioSer>) -> Result {
        records.clear();
        for folio in folios {
            records.push(record(folio.pfn(), folio.index())?, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Preserves and records the folios of `batch`, and removes them from it.
    ///
    /// They must follow all recorded folios in the order of the file. `scratch` is overwritten.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and errors of KHO. Nothing has changed then.
    pub(crate) fn append(&mut self, batch: &mut PinBatch, scratch: &mut KVVec<FolioSer>) -> Result {
        Self::record_all(batch.folios(), scratch)?;
        let room = self.records.reserve(scratch)?;
        preserve(batch.folios())?;
        // INVARIANT: The folios are preserved, and stay pinned.
        room.append();
        batch.keep_pinned();
        Ok(())
    }

    /// Preserves and records folios, each at its position among the recorded ones.
    ///
    /// # Errors
    ///
    /// See [`Self::append`].
    pub(crate) fn merge(&mut self, folios: KVVec<PinnedFolio>) -> Result {
        let mut records = KVVec::new();
        Self::record_all(&folios, &mut records)?;
        let room = self.records.reserve(&records)?;
        preserve(&folios)?;
        // INVARIANT: The folios are preserved, and stay pinned.
        room.merge(FolioSer::raw_index);
        for pinned in folios {
            let _ = pinned.into_raw();
        }
        Ok(())
    }

    /// Records the bad page frame `pfn`, for page `index` of the file, at its place.
    ///
    /// It is not preserved: the next kernel has it in its list of bad frames, from which the file
    /// gets it back. A kernel without this list refuses the file, instead of replacing the page by
    /// zeroes.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], [`EOVERFLOW`] if the number does not fit. Nothing has changed then.
    pub(crate) fn add_stuck(&mut self, index: u64, pfn: u64) -> Result {
        let records = [record(pfn, index)?];
        let room = self.records.reserve(&records)?;
        self.stuck.push(pfn, GFP_KERNEL)?;
        // INVARIANT: The number is in `stuck`.
        room.merge(FolioSer::raw_index);
        Ok(())
    }

    /// The folio of a record, if it is pinned.
    fn folio(&self, record: &FolioSer) -> Option<&Folio> {
        let pfn = record.raw_pfn()?;
        if self.stuck.contains(&pfn) {
            return None;
        }
        // SAFETY: By the type invariant, the folio is pinned, hence valid, for as long as this object
        // exists. `Folio` is a transparent wrapper.
        // CAST: The number was made from an `unsigned long`.
        unsafe { bindings::pfn_folio(pfn as c_ulong).cast::<Folio>().as_ref() }
    }

    /// The folios that are pinned, in the order of the file.
    pub(crate) fn folios(&self) -> impl Iterator<Item = &Folio> {
        self.records.iter().filter_map(|record| self.folio(record))
    }

    /// The pages of the file that the folios cover.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.records.iter().filter_map(|record| {
            let nr = self.folio(record).map_or(1, Folio::nr_pages);
            Some(record.raw_index()..record.raw_index().checked_add(nr)?)
        })
    }
}

impl Drop for PinnedRecords {
    fn drop(&mut self) {
        let mut rest = self.folios().map(Folio::as_ptr);
        let mut batch = RawBatch::new();
        while batch.refill(&mut rest) {
            let (folios, nr) = batch.as_raw();
            // SAFETY: By the type invariant, the `nr` folios are preserved and pinned for this object,
            // which does not access them any more.
            unsafe {
                bindings::kho_unpreserve_folios(folios, nr);
                // CAST: Lossless.
                bindings::unpin_folios(folios, nr as c_ulong);
            }
            cond_resched();
        }
    }
}

/// Sets up a folio for page `index` of a file. If it is not `uptodate`, it reads as zeroes.
pub(crate) fn init_folio(folio: &mut ClaimedFolio, index: u64, uptodate: bool) {
    // SAFETY: The folio is valid, and has no other users. CAST: `pgoff_t` has 64 bits.
    unsafe {
        let (folio, index) = (folio.as_raw().as_ptr(), index as c_ulong);
        bindings::luo_shmem_init_folio(folio, index, uptodate);
    }
}

/// Folios to which a device may write, each with a reference.
///
/// A folio that has another user is neither moved, swapped out, nor replaced by a larger one. If it
/// is removed from its file, its memory is not used for anything else before this is dropped.
///
/// # Invariants
///
/// For each folio, there is a reference that belongs to this object.
pub(crate) struct HeldFolios(KVVec<NonNull<bindings::folio>>);

// SAFETY: References may be dropped on any thread.
unsafe impl Send for HeldFolios {}

impl HeldFolios {
    /// No folios.
    pub(crate) const fn none() -> Self {
        // INVARIANT: There are none.
        Self(KVVec::new())
    }

    /// No folios, but room for `nr`; [`ENOMEM`].
    pub(crate) fn with_room(nr: usize) -> Result<Self> {
        // INVARIANT: There are none.
        Ok(Self(KVVec::with_capacity(nr, GFP_KERNEL)?))
    }

    /// Takes a reference to a folio, if there is room for it.
    ///
    /// # Safety
    ///
    /// The folio must be valid.
    pub(crate) unsafe fn hold(&mut self, folio: NonNull<bindings::folio>) {
        if self.0.push_within_capacity(folio).is_ok() {
            // INVARIANT: The reference is that of the new element.
            // SAFETY: By the safety requirements.
            unsafe { bindings::folio_get(folio.as_ptr()) };
        }
    }
}

impl Drop for HeldFolios {
    fn drop(&mut self) {
        for folio in &self.0 {
            // SAFETY: By the type invariant; the reference is not used any more.
            unsafe { bindings::folio_put(folio.as_ptr()) };
            cond_resched();
        }
    }
}

/// Adds folios, with `pages` pages in total, to a file. May sleep.
///
/// The folios must have been set up by [`init_folio`]. If they are a `dma_target`, they are held.
///
/// # Errors
///
/// All folios are returned unchanged, nothing is charged or accounted, and the file is unchanged.
///
/// - [`ENOMEM`], also if the memory cgroup is at its limit; [`ENOSPC`] if the system has committed
///   too much memory.
/// - [`EEXIST`] if the file has content at the position of a folio; [`EINVAL`] if the index of a
///   folio is not a multiple of its size.
/// - The errors of [`checkpoint`].
pub(crate) fn fill(
    file: &mut NewMemfd,
    folios: ClaimedList,
    pages: u64,
    dma_target: bool,
) -> Result<HeldFolios, (Error, ClaimedList)> {
    let Ok(pages) = c_long::try_from(pages) else {
        return Err((ENOSPC, folios));
    };
    let nr = if dma_target {
        folios.iter_raw().count()
    } else {
        0
    };
    let mut held = match HeldFolios::with_room(nr) {
        Ok(held) => held,
        Err(err) => return Err((err, folios)),
    };
    let inode = file.inode_ptr();
    // SAFETY: This is the inode of a shmem file.
    if let Err(err) = to_result(unsafe { bindings::luo_shmem_account(inode, pages) }) {
        return Err((err, folios));
    }
    // SAFETY: This is the inode of a shmem file, to which the pages are accounted.
    let result = unsafe { insert(inode, &folios) };
    // SAFETY: The inode is that of a shmem file, and `pages` were accounted to it above.
    unsafe { bindings::luo_shmem_settle(inode, pages) };
    match result {
        Ok(()) => {
            for folio in folios.iter_raw().take(nr) {
                // SAFETY: The list has a reference to the folio.
                unsafe { held.hold(folio) };
            }
            // SAFETY: `insert` has succeeded for these folios.
            unsafe { release(folios) };
            Ok(held)
        }
        Err(err) => Err((err, folios)),
    }
}

/// Adds all folios to the page cache, charged, locked and not on the LRU lists, or none of them. They
/// must be set up. May sleep.
///
/// # Errors
///
/// Those of [`fill`].
///
/// # Safety
///
/// `inode` must be that of a new file of shmem, to which the pages are accounted, or of a guest_memfd.
pub(crate) unsafe fn insert(inode: *mut bindings::inode, folios: &ClaimedList) -> Result {
    let mut rest = folios.iter_raw().map(NonNull::as_ptr);
    let mut done = 0usize;
    let mut batch = RawBatch::new();

    while batch.refill(&mut rest) {
        let result = checkpoint().and_then(|()| {
            let (folios, nr) = batch.as_raw();
            // SAFETY: By the safety requirements, and by the type invariant of `ClaimedList`, the
            // folios have no other users.
            to_result(unsafe { bindings::luo_shmem_add_folios(inode, folios, nr) })
        });
        if let Err(err) = result {
            let mut inserted = folios.iter_raw().map(NonNull::as_ptr).take(done);
            while batch.refill(&mut inserted) {
                let (folios, nr) = batch.as_raw();
                // SAFETY: These are the folios that this loop has added.
                unsafe { bindings::luo_shmem_remove_folios(folios, nr) };
                cond_resched();
            }
            return Err(err);
        }
        done = done.saturating_add(batch.len);
    }
    Ok(())
}

/// Transfers the folios to the page cache. Cannot fail.
///
/// # Safety
///
/// [`insert`] must have succeeded for the folios.
pub(crate) unsafe fn release(mut folios: ClaimedList) {
    let mut rest = core::iter::from_fn(|| folios.pop_raw().map(NonNull::as_ptr));
    let mut batch = RawBatch::new();

    while batch.refill(&mut rest) {
        let (folios, nr) = batch.as_raw();
        // SAFETY: By the safety requirements, the folios are in the page cache, locked, and not on the
        // LRU lists. The references were those of the list.
        unsafe { bindings::luo_shmem_release_folios(folios, nr) };
        cond_resched();
    }
}

/// Folios that are passed to C together. Holds no references to them.
struct RawBatch {
    folios: [*mut bindings::folio; Self::LEN],
    len: usize,
}

impl RawBatch {
    const LEN: usize = 32;

    fn new() -> Self {
        Self {
            folios: [core::ptr::null_mut(); Self::LEN],
            len: 0,
        }
    }

    /// Takes the next batch of folios. Returns whether there are any.
    fn refill(&mut self, folios: &mut impl Iterator<Item = *mut bindings::folio>) -> bool {
        self.len = 0;
        for (slot, folio) in self.folios.iter_mut().zip(folios) {
            *slot = folio;
            self.len = self.len.saturating_add(1);
        }
        self.len != 0
    }

    /// The folios and their number, for C.
    fn as_raw(&mut self) -> (*mut *mut bindings::folio, u32) {
        // CAST: At most `LEN`.
        (self.folios.as_mut_ptr(), self.len as u32)
    }
}
