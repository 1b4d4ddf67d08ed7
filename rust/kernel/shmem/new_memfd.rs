// SPDX-License-Identifier: GPL-2.0

//! Files in the next kernel.

use super::resched_or_killed;
use crate::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::{
        inode::Inode,
        File, //
    },
    kho::ClaimedFolio,
    prelude::*,
    sync::aref::ARef, //
};
use core::ptr::NonNull;

/// `__GFP_RETRY_MAYFAIL`, which is a macro that `bindgen` cannot evaluate.
const GFP_RETRY_MAYFAIL: bindings::gfp_t = 1 << bindings::___GFP_RETRY_MAYFAIL_BIT;

/// What is known about the content of a folio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageState {
    /// The content must not be dropped under memory pressure.
    pub dirty: bool,
    /// There is content; otherwise, it reads as zeroes.
    pub uptodate: bool,
}

/// A memfd that is being made and that no one else knows yet.
///
/// Dropping it frees the file with all its content.
///
/// # Invariants
///
/// The file is backed by shmem, and there is no other reference to it.
///
/// # Examples
///
/// ```
/// use kernel::shmem::{NewMemfd, ShmemFile};
///
/// let mut new = NewMemfd::new(c"memfd:doctest")?;
/// new.set_size(12345)?;
/// new.set_pos(123)?;
/// new.set_seals(0x3)?;
/// new.set_permissions(0o666);
/// assert_eq!(new.set_size(1 << 63), Err(EINVAL));
/// assert_eq!(new.set_pos(1 << 63), Err(EINVAL));
///
/// let file = new.finish();
/// let shmem = ShmemFile::from_file(&file).ok_or(EINVAL)?;
/// assert_eq!((shmem.inode().size(), shmem.pos(), shmem.seals()), (12345, 123, 0x3));
/// assert_eq!(shmem.inode().mode() & 0o777, 0o666);
/// # Ok::<(), Error>(())
/// ```
pub struct NewMemfd {
    file: ARef<File>,
}

impl NewMemfd {
    /// Creates an empty memfd that may be executed, and that cannot be sealed by user space until
    /// [`Self::set_seals`] allows it.
    ///
    /// `name` is what `/proc/PID/fd` shows, and begins with `memfd:` by convention.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`ENFILE`] if there are too many open files; what a security module says.
    pub fn new(name: &CStr) -> Result<Self> {
        // SAFETY: `name` is null-terminated.
        let file = from_err_ptr(unsafe { bindings::memfd_alloc_file(name.as_char_ptr(), 0) })?;
        let file = NonNull::new(file).ok_or(ENOMEM)?;
        // SAFETY: The reference to the new file is ours. There is no file descriptor, hence no
        // `fdget_pos`. `File` is a transparent wrapper.
        let file = unsafe { ARef::from_raw(file.cast()) };
        // INVARIANT: This is a new file of shmem, as there is no `MFD_HUGETLB`.
        Ok(Self { file })
    }

    fn inode(&self) -> *mut bindings::inode {
        Inode::from_file(&self.file).as_ptr()
    }

    /// Sets the size in bytes.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if no file can be that large.
    pub fn set_size(&mut self, size: u64) -> Result {
        let size = i64::try_from(size).map_err(|_| EINVAL)?;
        let guard = Inode::from_file(&self.file).lock();
        // SAFETY: The inode is valid and locked.
        unsafe { bindings::i_size_write(guard.as_ptr(), size) };
        Ok(())
    }

    /// Sets the file position in bytes.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if no file can have it.
    pub fn set_pos(&mut self, pos: u64) -> Result {
        let pos = i64::try_from(pos).map_err(|_| EINVAL)?;
        // SAFETY: By the type invariant, the file is valid and no one else changes its position.
        let set = unsafe { bindings::vfs_setpos(self.file.as_ptr(), pos, i64::MAX) };
        if set == pos {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    /// Sets the seals (`F_SEAL_*`), exactly these, where `fcntl()` would add others.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if writing is sealed and there already is a writable mapping.
    pub fn set_seals(&mut self, seals: u32) -> Result {
        let guard = Inode::from_file(&self.file).lock();
        // SAFETY: By the type invariant, this is the inode of a shmem file. It is locked.
        unsafe {
            let info = bindings::SHMEM_I(guard.as_ptr());
            if (seals & !(*info).seals) & bindings::F_SEAL_WRITE != 0 {
                to_result(bindings::mapping_deny_writable((*guard.as_ptr()).i_mapping))?;
            }
            (*info).seals = seals;
        }
        Ok(())
    }

    /// Sets the permission bits; others are ignored.
    pub fn set_permissions(&mut self, mode: u16) {
        const MASK: u16 = 0o777;
        let guard = Inode::from_file(&self.file).lock();
        // SAFETY: The inode is valid and locked.
        unsafe {
            let i_mode = &raw mut (*guard.as_ptr()).i_mode;
            *i_mode = (*i_mode & !MASK) | (mode & MASK);
        }
    }

    /// Puts a folio into the file, at page `index`. May sleep.
    ///
    /// The memory is charged to the calling task's memory cgroup. The OOM killer is not called if
    /// there is not enough: it may free nothing but the task that needs the file.
    ///
    /// # Errors
    ///
    /// The folio is given back, and all is as it was before.
    ///
    /// - [`EINVAL`] if `index` is too large or no multiple of the folio's size.
    /// - [`EEXIST`] if there already is a folio.
    /// - [`ENOMEM`], also if the memory cgroup is at its limit; [`ENOSPC`] if the system has
    ///   committed too much memory.
    /// - [`EINTR`] if the task is being killed.
    pub fn insert(
        &mut self,
        folio: ClaimedFolio,
        index: u64,
        state: PageState,
    ) -> Result<(), (Error, ClaimedFolio)> {
        match self.try_insert(&folio, index, state) {
            // The page cache has its own references; this drops the one of the claim.
            Ok(()) => Ok(()),
            Err(err) => Err((err, folio)),
        }
    }

    fn try_insert(&mut self, claimed: &ClaimedFolio, index: u64, state: PageState) -> Result {
        resched_or_killed()?;
        let inode = self.inode();
        // SAFETY: The claim is on one whole folio, to which its memory belongs.
        let folio = unsafe { bindings::virt_to_folio(claimed.bytes().as_ptr().cast()) };
        // SAFETY: The folio is valid.
        let nr = unsafe { bindings::folio_nr_pages(folio) };
        let limit = i64::MAX as u64 >> crate::page::PAGE_SHIFT;
        if index.checked_rem(nr as u64) != Some(0) || index > limit {
            return Err(EINVAL);
        }
        // CAST: A folio has few pages.
        let blocks = nr as c_long;

        // SAFETY: By the type invariant, this is the inode of a shmem file.
        to_result(unsafe { bindings::shmem_inode_acct_blocks(inode, blocks) })?;
        // SAFETY: The inode is that of a shmem file. The folio is valid, and no one else uses it,
        // as it has just been claimed and is not in any page cache.
        let result = unsafe { Self::add_to_page_cache(inode, folio, index, state) };
        // On success, the blocks are used from now on. Otherwise, this notices that they are not
        // and gives them back.
        // SAFETY: As above, and so many blocks were accounted.
        unsafe { bindings::shmem_recalc_inode(inode, blocks, 0) };
        result
    }

    /// # Safety
    ///
    /// `inode` must be of a shmem file. `folio` must be valid, not be in use by anyone, and have one
    /// reference, which belongs to the caller. `index` must be a multiple of its size.
    unsafe fn add_to_page_cache(
        inode: *mut bindings::inode,
        folio: *mut bindings::folio,
        index: u64,
        state: PageState,
    ) -> Result {
        // SAFETY: The inode is valid.
        let mapping = unsafe { (*inode).i_mapping };
        // SAFETY: The mapping is valid.
        let gfp = unsafe { bindings::mapping_gfp_mask(mapping) };

        // SAFETY: No one else uses the folio, so non-atomic operations on its flags are fine.
        unsafe {
            bindings::__folio_set_locked(folio);
            bindings::__folio_set_swapbacked(folio);
            if bindings::folio_test_large(folio) {
                // As the page cache expects it; KHO does not know what folios are used for.
                bindings::folio_set_large_rmappable(folio);
            }
        }
        // SAFETY: The folio is valid, locked, and not charged yet: if this function fails below,
        // it takes the charge back.
        let mut result = to_result(unsafe {
            bindings::mem_cgroup_charge(folio, core::ptr::null_mut(), gfp | GFP_RETRY_MAYFAIL)
        });
        if result.is_ok() {
            // SAFETY: The folio is locked, swap-backed, charged, and the index aligned.
            result = to_result(unsafe {
                bindings::shmem_add_to_page_cache(
                    folio,
                    mapping,
                    // CAST: Checked by the caller; `pgoff_t` has 64 bits.
                    index as c_ulong,
                    core::ptr::null_mut(),
                    gfp,
                )
            });
            if result.is_err() {
                // SAFETY: The folio was charged.
                unsafe { bindings::mem_cgroup_uncharge(folio) };
            }
        }
        // SAFETY: The folio is valid and locked by this function.
        unsafe {
            if result.is_ok() {
                if state.uptodate {
                    bindings::folio_mark_uptodate(folio);
                }
                if state.dirty {
                    bindings::folio_mark_dirty(folio);
                }
                bindings::folio_add_lru(folio);
            }
            bindings::folio_unlock(folio);
        }
        result
    }

    /// Makes the file known to others.
    pub fn finish(self) -> ARef<File> {
        self.file
    }
}
