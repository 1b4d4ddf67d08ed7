// SPDX-License-Identifier: GPL-2.0

//! Safe types and functions for the use of hugetlb.
//!
//! This is the only module about huge pages with `unsafe` code.
//!
//! C header: `mm/luo_hugetlb.h`

#![allow(unsafe_code)]

use core::{
    ops::{
        Deref,
        DerefMut, //
    },
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    fs::{
        inode::Inode,
        File, //
    },
    kho::ClaimedFolio,
    mm::{
        folio::Folio,
        memfd::NewFile, //
    },
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    }, //
};

use super::abi::Kind;
use crate::ops::HeldFolios;

/// A [`File`] that is known to be one of hugetlbfs.
///
/// # Invariants
///
/// `is_file_hugepages()` is true for the file.
#[repr(transparent)]
pub(crate) struct HugetlbFile(File);

impl HugetlbFile {
    /// Returns `file` if it belongs to hugetlbfs.
    pub(crate) fn from_file(file: &File) -> Option<&Self> {
        // SAFETY: The file is valid.
        if !unsafe { bindings::luo_hugetlb_is_file(file.as_ptr()) } {
            return None;
        }
        // INVARIANT: Just checked, and the operations of a file never change.
        // SAFETY: `HugetlbFile` is a transparent wrapper around `File`.
        Some(unsafe { &*core::ptr::from_ref(file).cast() })
    }

    /// The inode of the file.
    pub(crate) fn inode(&self) -> &Inode {
        Inode::from_file(&self.0)
    }

    /// The order of the huge pages of the file.
    pub(crate) fn order(&self) -> u32 {
        // SAFETY: By the type invariant, this is an inode of hugetlbfs.
        unsafe { bindings::luo_hugetlb_order(self.inode().as_ptr()) }
    }

    /// Seals (`F_SEAL_*`). More may be added at any time unless the file is handed over.
    pub(crate) fn seals(&self) -> u32 {
        // CAST: A set of bits, which is not negative for a file that can be sealed. SAFETY: The
        // file is valid.
        unsafe { bindings::memfd_get_seals(self.0.as_ptr()) as u32 }
    }
}

// SAFETY: The type is a transparent wrapper around `File`, and has the reference count of that.
unsafe impl AlwaysRefCounted for HugetlbFile {
    fn inc_ref(&self) {
        self.0.inc_ref();
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the safety requirements, the caller transfers a reference, and a `HugetlbFile`
        // is a transparent wrapper around `File`.
        unsafe { File::dec_ref(obj.cast()) };
    }
}

impl Deref for HugetlbFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

/// Prevents changes of the size, the pages and the mode of a file until this is dropped.
///
/// Attempts of user space to change them fail with `EPERM`, and page faults at holes with `SIGBUS`.
/// Seals can be added.
///
/// # Invariants
///
/// `file` was frozen by this object.
pub(crate) struct Frozen {
    file: ARef<HugetlbFile>,
}

impl Frozen {
    /// Freezes `file`. May sleep, and queues for the lock of the file.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if it is frozen already; [`EINTR`] if the task is being killed while it waits.
    pub(crate) fn new(file: &HugetlbFile) -> Result<Self> {
        let guard = file.inode().lock_killable()?;
        // SAFETY: By the type invariant of `HugetlbFile`, this is an inode of hugetlbfs. It is locked.
        to_result(unsafe { bindings::luo_hugetlb_freeze(guard.as_ptr()) })?;
        // INVARIANT: Just frozen.
        Ok(Self {
            file: ARef::from(file),
        })
    }

    /// The file.
    pub(crate) fn file(&self) -> &HugetlbFile {
        &self.file
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this is an inode of hugetlbfs that was frozen by this object.
        unsafe { bindings::luo_hugetlb_thaw(self.file.inode().as_ptr()) };
    }
}

/// Prevents seals from being added, for the next kernel, until this is dropped.
///
/// # Invariants
///
/// The file is marked as handed over by this object.
pub(crate) struct HandedOver {
    file: ARef<HugetlbFile>,
}

impl HandedOver {
    /// Marks the file as handed over. Does not wait for other users of the file.
    pub(crate) fn new(frozen: &Frozen) -> Self {
        let file = ARef::from(frozen.file());
        // SAFETY: This is an inode of hugetlbfs, which is frozen.
        unsafe { bindings::luo_hugetlb_set_handed_over(file.inode().as_ptr(), true) };
        // INVARIANT: Just marked.
        Self { file }
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        // SAFETY: This is an inode of hugetlbfs, marked by this object.
        unsafe { bindings::luo_hugetlb_set_handed_over(self.file.inode().as_ptr(), false) };
    }
}

/// A page of the pool that the previous kernel has handed over, and its place in a file.
///
/// Dropping it returns the page to the pool.
///
/// # Invariants
///
/// `folio` is a page of hugetlb that is in use, and the only reference to it belongs to this object.
pub(crate) struct HugePage {
    folio: NonNull<bindings::folio>,
    /// Offset in the file, in pages.
    index: u64,
}

// SAFETY: A folio may be used and freed on any thread.
unsafe impl Send for HugePage {}

impl HugePage {
    /// Makes a folio a page of the pool. May sleep.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if there are no huge pages of this size. The folio is freed then.
    pub(crate) fn new(folio: ClaimedFolio, index: u64) -> Result<Self> {
        let folio = folio.into_raw();
        // SAFETY: The folio has no other users.
        let result = to_result(unsafe { bindings::luo_hugetlb_take_over(folio.as_ptr()) });
        if let Err(err) = result {
            // SAFETY: The reference belongs to this function, and the folio has not changed.
            unsafe { bindings::folio_put(folio.as_ptr()) };
            return Err(err);
        }
        // INVARIANT: The folio is a page of hugetlb now, with the reference that it had.
        Ok(Self { folio, index })
    }
}

impl Drop for HugePage {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::folio_put(self.folio.as_ptr()) };
    }
}

/// A memfd of huge pages that is being created and has no other users.
///
/// # Invariants
///
/// The file is one of hugetlbfs.
pub(crate) struct NewHugetlb {
    file: NewFile,
    order: u32,
}

impl NewHugetlb {
    /// Creates an empty memfd with huge pages of `order`.
    ///
    /// # Errors
    ///
    /// [`ENODEV`] or [`ENOENT`] if there are no pages of this size; [`ENOMEM`], [`ENOSPC`] and
    /// [`ENFILE`]; errors of security modules.
    pub(crate) fn new(name: &CStr, order: u32) -> Result<Self> {
        // SAFETY: `name` is null-terminated, and the callee returns the only reference to a new file.
        let file = unsafe {
            NewFile::from_raw(bindings::luo_hugetlb_new_file(name.as_char_ptr(), order))
        }?;
        // INVARIANT: The callee has created the file.
        Ok(Self { file, order })
    }

    /// Sets exactly these seals (`F_SEAL_*`), while `fcntl()` may add others.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if writing is sealed and there is a writable mapping.
    pub(crate) fn set_seals(&mut self, seals: u32) -> Result {
        let inode = self.file.inode_ptr();
        // SAFETY: By the type invariant, this is an inode of hugetlbfs. It has no other users, so
        // it need not be locked.
        to_result(unsafe { bindings::luo_hugetlb_set_seals(inode, seals) })
    }

    /// Adds pages to the file, which must be empty, and charges them to the cgroups of the current
    /// task. If they are a `dma_target`, they are held. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], also if a cgroup is at its limit; [`EEXIST`] if there are two pages for one place.
    /// All pages are returned and nothing is charged then; the file is empty, and cannot be filled
    /// again.
    pub(crate) fn fill(
        self,
        pages: KVVec<HugePage>,
        dma_target: bool,
        mut checkpoint: impl FnMut() -> Result,
    ) -> Result<(ARef<File>, HeldFolios), (Error, KVVec<HugePage>)> {
        let inode = self.file.inode_ptr();
        let mut held = match HeldFolios::with_room(if dma_target { pages.len() } else { 0 }) {
            Ok(held) => held,
            Err(err) => return Err((err, pages)),
        };
        let mut done = 0usize;
        let mut result = Ok(());
        for page in &pages {
            result = checkpoint().and_then(|()| {
                let index = page.index.checked_shr(self.order).ok_or(EINVAL)?;
                // CAST: `pgoff_t` has 64 bits.
                let index = index as c_ulong;
                // SAFETY: This is an inode of hugetlbfs, and by the type invariant of `HugePage`, the
                // page has no other users.
                to_result(unsafe {
                    bindings::luo_hugetlb_add_folio(inode, page.folio.as_ptr(), index)
                })
            });
            if result.is_err() {
                break;
            }
            done = done.saturating_add(1);
        }
        if let Err(err) = result {
            // SAFETY: These are the pages that were added above, and afterwards, none is in the file.
            unsafe {
                for page in pages.iter().take(done) {
                    bindings::luo_hugetlb_remove_folio(page.folio.as_ptr());
                }
                bindings::luo_hugetlb_forget(inode);
            }
            return Err((err, pages));
        }
        for page in pages {
            let page = core::mem::ManuallyDrop::new(page);
            // SAFETY: The page was added above; the reference was that of the object.
            unsafe {
                held.hold(page.folio);
                bindings::luo_hugetlb_release_folio(page.folio.as_ptr());
            }
        }
        Ok((self.file.finish(), held))
    }
}

impl Deref for NewHugetlb {
    type Target = NewFile;

    fn deref(&self) -> &NewFile {
        &self.file
    }
}

impl DerefMut for NewHugetlb {
    fn deref_mut(&mut self) -> &mut NewFile {
        &mut self.file
    }
}

/// The node of a page.
pub(crate) fn node(page: &Folio) -> u16 {
    // SAFETY: The folio is valid. CAST: There are at most 1024 nodes.
    unsafe { bindings::luo_hugetlb_node(page.as_ptr()) as u16 }
}

/// Whether this kernel and this machine have huge pages of `order`.
pub(crate) fn has_pages_of(order: u32) -> bool {
    // SAFETY: Always safe to call.
    unsafe { bindings::luo_hugetlb_has_order(order) }
}

/// Announces all pages of the previous kernel, before there are pools.
///
/// # Safety
///
/// Must only be called by `luo_hugetlb_read_expected()`.
#[export]
unsafe extern "C" fn luo_hugetlb_announce() {
    super::expect_pages();
}

/// Announces `nr` pages before there are pools, so that the pools count them.
pub(crate) fn expect(kind: Kind, nr: u64) {
    // CAST: `unsigned long` has 64 bits. The callee checks the values.
    // SAFETY: Called by `luo_hugetlb_announce()`, before there are pools.
    unsafe { bindings::luo_hugetlb_expect(kind.order.into(), kind.node.into(), nr as c_ulong) };
}

/// Replaces announced pages that were not taken over. May sleep.
pub(crate) fn expect_no_more() {
    // SAFETY: Always safe to call.
    unsafe { bindings::luo_hugetlb_expect_no_more() };
}
