// SPDX-License-Identifier: GPL-2.0

//! Files backed by shared memory, e.g. memfds, and what it takes to carry them over a kexec.
//!
//! In the kernel that is left, a file's mapping is [frozen](MappingFreeze), and its memory
//! [pinned and preserved](PreservedFolios). In the next kernel, memory that was claimed is put into
//! a [new file](NewMemfd).
//!
//! C headers: [`include/linux/shmem_fs.h`](srctree/include/linux/shmem_fs.h),
//! [`include/linux/memfd.h`](srctree/include/linux/memfd.h)

use crate::{
    bindings,
    error::to_result,
    fs::{
        inode::Inode,
        File, //
    },
    liveupdate,
    mm::folio::PinBatch,
    page::PAGE_SHIFT,
    prelude::*,
    sync::aref::ARef, //
};
use core::ops::Range;

mod claimed;
mod mover;
mod new_memfd;
mod preserved;

pub use self::{
    claimed::{
        ClaimedFolios,
        PageState, //
    },
    new_memfd::NewMemfd,
    preserved::{
        FolioRecord,
        PreservedFolios, //
    }, //
};

/// Lets others run; fails with [`EINTR`] if the task is being killed, with [`EBUSY`] if a kexec waits
/// for it.
///
/// For loops that last for as long as user space made a file.
fn resched_or_killed() -> Result {
    // SAFETY: FFI call without safety requirements; all callers may sleep.
    to_result(unsafe { bindings::resched_or_killed() })?;
    liveupdate::give_way()
}

/// A [`File`] that is known to be backed by shmem.
///
/// # Invariants
///
/// `shmem_file()` is true for the file.
///
/// # Examples
///
/// ```
/// use kernel::{fs::File, shmem::{NewMemfd, ShmemFile}};
///
/// let file = NewMemfd::new(c"memfd:doctest")?.finish();
/// let shmem = ShmemFile::from_file(&file).ok_or(EINVAL)?;
/// assert!(shmem.inode().nlink() == 0 && shmem.is_internal());
/// assert_eq!((shmem.pos(), shmem.inode().size()), (0, 0));
/// # Ok::<(), Error>(())
/// ```
#[repr(transparent)]
pub struct ShmemFile(File);

impl ShmemFile {
    /// Returns `file` if it is backed by shmem. Huge pages of hugetlbfs are something else.
    pub fn from_file(file: &File) -> Option<&Self> {
        // SAFETY: The file is valid.
        if !unsafe { bindings::shmem_file(file.as_ptr()) } {
            return None;
        }
        // INVARIANT: Just checked, and a file never changes its mapping.
        // SAFETY: `ShmemFile` is a transparent wrapper around `File`.
        Some(unsafe { &*core::ptr::from_ref(file).cast() })
    }

    /// The inode of the file.
    pub fn inode(&self) -> &Inode {
        Inode::from_file(&self.0)
    }

    /// Returns whether the file lives where memfds do: on the kernel's own mount, with an inode that
    /// user space may know about.
    pub fn is_internal(&self) -> bool {
        let inode = self.inode();
        // SAFETY: The inode is valid, and with it its super block; the flag does not change.
        let kernmount = unsafe { bindings::sb_is_kernmount((*inode.as_ptr()).i_sb) };
        kernmount && !inode.is_private()
    }

    /// File position in bytes. May change at any time.
    pub fn pos(&self) -> u64 {
        // SAFETY: The file is valid. This reads a single integer that may change concurrently.
        let pos = unsafe { (&raw const (*self.0.as_ptr()).f_pos).read_volatile() };
        // Never negative for this kind of file.
        u64::try_from(pos).unwrap_or(0)
    }

    /// Seals (`F_SEAL_*`). More may be added at any time unless the inode is locked.
    pub fn seals(&self) -> u32 {
        // SAFETY: By the type invariant, the inode is part of a `shmem_inode_info`. This reads a
        // single integer that may change concurrently.
        unsafe { (&raw const (*bindings::SHMEM_I(self.inode().as_ptr())).seals).read_volatile() }
    }

    /// Finds the first pages from `first` on that have memory, or had some that was swapped out.
    ///
    /// The range ends where a page has none, or after about `max` pages.
    fn next_run(&self, first: u64, max: u64) -> Option<Range<u64>> {
        // CAST: `pgoff_t` has 64 bits.
        let mut first = first as c_ulong;
        let mut end = first;
        // SAFETY: The mapping lives as long as the inode; the other pointers are valid for writing.
        let found = unsafe {
            bindings::shmem_next_run(
                (*self.inode().as_ptr()).i_mapping,
                &mut first,
                &mut end,
                max as c_ulong,
            )
        };
        found.then_some(first as u64..end as u64)
    }

    /// Returns the first page from `first` on that has memory, or had some that was swapped out.
    fn next_page(&self, first: u64) -> Option<u64> {
        self.next_run(first, 1).map(|run| run.start)
    }

    /// Number of pages that have memory, or had some that was swapped out. May change at any time.
    fn nr_pages(&self) -> u64 {
        // SAFETY: By the type invariant, this is the inode of a shmem file.
        unsafe { bindings::shmem_nr_pages(self.inode().as_ptr()) as u64 }
    }

    /// Pins folios from the first one of `pages` on, as many as there are in a row and as fit into
    /// `batch`, and replaces the content of the latter. May sleep.
    ///
    /// Returns whether they were there and could stay where they are, which is quick.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the range is empty or not inside of the file; [`ENOMEM`] if there is no memory
    /// to read back what was swapped out, or to move folios to; [`ENOENT`] if the first page has no
    /// memory any more and the file is handed over; [`EINTR`] if the task is being killed,
    /// [`EBUSY`] if a kexec waits for it.
    fn pin_folios(&self, pages: Range<u64>, batch: &mut PinBatch) -> Result<bool> {
        /// What is not simply there is brought back in portions of so many pages.
        const PORTION: u64 = 256;

        resched_or_killed()?;
        // SAFETY: The callee fills in as many pointers as it returns, for each of which it has got
        // a pin. The mapping lives as long as the inode.
        unsafe {
            batch.refill(|folios, max| {
                let mapping = (*self.inode().as_ptr()).i_mapping;
                let (start, end) = (pages.start as c_ulong, pages.end as c_ulong);
                Ok(bindings::shmem_pin_folios(mapping, start, end, folios, max) as usize)
            })
        }?;
        if !batch.folios().is_empty() {
            return Ok(true);
        }

        // Nothing behind the next hole, which would be filled.
        let run = self
            .next_run(pages.start, PORTION)
            .filter(|run| run.start < pages.end)
            .ok_or(ENOENT)?;
        let bytes = |pages: u64| pages.checked_shl(PAGE_SHIFT as u32).ok_or(EFBIG);
        let end = bytes(pages.end.min(run.end))?.min(self.inode().size());
        let last = end.checked_sub(1).ok_or(EINVAL)?;
        let (start, last) = (i64::try_from(bytes(run.start)?)?, i64::try_from(last)?);

        // SAFETY: The callee fills in as many pointers as it returns, for each of which it has got
        // a pin. It checks the range itself.
        unsafe {
            batch.refill(|folios, max| {
                let mut offset = 0;
                let nr = bindings::memfd_pin_folios(
                    self.0.as_ptr(),
                    start,
                    last,
                    folios,
                    max,
                    &mut offset,
                );
                // CAST: Error numbers are small.
                usize::try_from(nr).map_err(|_| Error::from_errno(nr as c_int))
            })
        }?;
        Ok(false)
    }
}

impl core::ops::Deref for ShmemFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

/// How many pages of this machine are known to be broken. May change at any time.
pub fn broken_pages() -> u64 {
    // SAFETY: FFI call without safety requirements.
    unsafe { bindings::nr_poisoned_pages() as u64 }
}

/// Keeps a file from being truncated, extended, or punched; dropping this gives it free.
///
/// User space gets `EPERM` meanwhile. Holes are still filled by writes and page faults, and seals
/// added, until the file is [handed over](HandedOver).
///
/// # Invariants
///
/// `file` is backed by shmem, and its mapping was frozen by this object.
///
/// # Examples
///
/// ```
/// use kernel::shmem::{MappingFreeze, NewMemfd, ShmemFile};
///
/// let file = NewMemfd::new(c"memfd:doctest")?.finish();
/// let shmem = ShmemFile::from_file(&file).ok_or(EINVAL)?;
/// let freeze = MappingFreeze::new(shmem)?;
/// assert_eq!(freeze.size(), 0);
/// assert_eq!(MappingFreeze::new(shmem).err(), Some(EBUSY));
/// drop(freeze);
/// assert!(MappingFreeze::new(shmem).is_ok());
/// # Ok::<(), Error>(())
/// ```
pub struct MappingFreeze {
    file: ARef<File>,
}

impl MappingFreeze {
    /// Freezes the mapping of `file`. May sleep, and may have to wait for user space.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if it already is frozen or a kexec waits for us, [`EINTR`] after a fatal signal.
    pub fn new(file: &ShmemFile) -> Result<Self> {
        // A writer holds the lock for as long as user space lets it wait for a page, which must not
        // hold up a kexec.
        let guard = loop {
            if let Some(guard) = file.inode().try_lock() {
                break guard;
            }
            // SAFETY: FFI call without safety requirements; the caller may sleep.
            unsafe { bindings::schedule_timeout_killable(1) };
            resched_or_killed()?;
        };
        // SAFETY: By the type invariant of `ShmemFile`, this is a shmem inode. It is locked.
        unsafe {
            if bindings::shmem_is_frozen(guard.as_ptr()) {
                return Err(EBUSY);
            }
            bindings::shmem_freeze(guard.as_ptr(), true);
        }
        // INVARIANT: Just frozen, and a file never changes its mapping.
        Ok(Self {
            file: ARef::from(&**file),
        })
    }

    /// The file whose mapping is frozen.
    pub fn file(&self) -> &ShmemFile {
        // SAFETY: By the type invariant. `ShmemFile` is a transparent wrapper around `File`.
        unsafe { &*core::ptr::from_ref(&*self.file).cast() }
    }

    /// Size of the file in bytes, which cannot change.
    pub fn size(&self) -> u64 {
        self.file().inode().size()
    }
}

impl Drop for MappingFreeze {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, this is a shmem inode, and nobody else freezes or unfreezes
        // it while it is frozen by this object.
        unsafe { bindings::shmem_unfreeze(self.file().inode().as_ptr()) };
    }
}

/// Keeps the folios and seals of a file as they are, for the next kernel.
///
/// Whoever needs a further folio, for a write or a page fault, waits; adding a seal fails. Dropping
/// this lets all of them go on.
///
/// # Invariants
///
/// The mapping of `file` is frozen by somebody, and marked as handed over by this object.
pub struct HandedOver {
    file: ARef<File>,
}

impl HandedOver {
    /// Marks the file as handed over. Waits for nobody.
    pub fn new(freeze: &MappingFreeze) -> Self {
        let file = ARef::from(&**freeze.file());
        // SAFETY: By the type invariant of `MappingFreeze`, this is a shmem inode.
        unsafe { bindings::shmem_set_handed_over(Inode::from_file(&file).as_ptr(), true) };
        // INVARIANT: Just marked.
        Self { file }
    }

    fn file(&self) -> &ShmemFile {
        // SAFETY: By the type invariant. `ShmemFile` is a transparent wrapper around `File`.
        unsafe { &*core::ptr::from_ref(&*self.file).cast() }
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, this is a shmem inode.
        unsafe { bindings::shmem_set_handed_over(Inode::from_file(&self.file).as_ptr(), false) };
    }
}
