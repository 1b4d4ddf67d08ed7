// SPDX-License-Identifier: GPL-2.0

//! Files in the next kernel.

use super::{
    resched_or_killed,
    ClaimedFolios, //
};
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
    prelude::*,
    sync::aref::ARef, //
};
use core::ptr::NonNull;

/// `__GFP_RETRY_MAYFAIL`, which is a macro that `bindgen` cannot evaluate.
const GFP_RETRY_MAYFAIL: bindings::gfp_t = 1 << bindings::___GFP_RETRY_MAYFAIL_BIT;

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

    /// Makes `folios` the content of the file, which must not have any yet. May sleep.
    ///
    /// The memory is charged to the calling task's memory cgroup. The OOM killer is not called if
    /// there is not enough: it may free nothing but the task that needs the file.
    ///
    /// # Errors
    ///
    /// All folios are given back as they were, nothing is charged, and the file is empty.
    ///
    /// - [`ENOMEM`], also if the memory cgroup is at its limit; [`ENOSPC`] if the system has
    ///   committed too much memory.
    /// - [`EEXIST`] if there already is some content.
    /// - [`EINTR`] if the task is being killed; [`EBUSY`] if somebody waits for this to end.
    pub fn fill(&mut self, folios: ClaimedFolios) -> Result<(), (Error, ClaimedFolios)> {
        let Ok(pages) = c_long::try_from(folios.pages()) else {
            return Err((ENOSPC, folios));
        };
        // SAFETY: By the type invariant, this is the inode of a shmem file.
        let accounted = unsafe { bindings::shmem_inode_acct_blocks(self.inode(), pages) };
        if let Err(err) = to_result(accounted) {
            return Err((err, folios));
        }
        let result = self.insert(&folios);
        // If the folios are in the page cache, the blocks are used from now on. Otherwise, this
        // notices that they are not and gives them back.
        // SAFETY: As above, and so many blocks were accounted.
        unsafe { bindings::shmem_recalc_inode(self.inode(), pages, 0) };
        match result {
            Ok(()) => {
                // SAFETY: `insert` has succeeded.
                unsafe { Self::release(folios) };
                Ok(())
            }
            Err(err) => Err((err, folios)),
        }
    }

    /// Puts all folios into the page cache, or none. They stay locked, and are not on the LRU lists.
    fn insert(&self, folios: &ClaimedFolios) -> Result {
        let mut rest = folios.iter();
        let mut done = 0usize;
        let mut batch = Batch::new();

        while batch.refill(&mut rest) {
            let result = resched_or_killed().and_then(|()| {
                // SAFETY: The folios come from `folios`, in this order.
                unsafe { self.insert_batch(&mut batch) }
            });
            if let Err(err) = result {
                let mut inserted = folios.iter().take(done);
                while batch.refill(&mut inserted) {
                    // SAFETY: These are the folios for which this loop was successful.
                    unsafe { self.remove_batch(&mut batch) };
                }
                return Err(err);
            }
            done = done.saturating_add(batch.len());
        }
        Ok(())
    }

    /// # Safety
    ///
    /// The folios must be valid and not be used by anyone; each must have an index that is a multiple
    /// of its size; and they must be in the order of their index, which is behind that of all folios
    /// that are in the page cache already.
    unsafe fn insert_batch(&self, batch: &mut Batch) -> Result {
        // SAFETY: By the type invariant, this is a valid inode with a mapping.
        let mapping = unsafe { (*self.inode()).i_mapping };
        // SAFETY: The mapping is valid.
        let gfp = unsafe { bindings::mapping_gfp_mask(mapping) };

        // SAFETY: By the safety requirements, the folios are not charged yet.
        to_result(unsafe {
            bindings::mem_cgroup_charge_folios(batch.as_ptr(), gfp | GFP_RETRY_MAYFAIL)
        })?;
        // SAFETY: Nobody else uses the folios.
        unsafe { bindings::folio_batch_set_locked(batch.as_ptr()) };
        // SAFETY: By the safety requirements; nobody else knows the mapping; the folios were just
        // locked and charged to one cgroup.
        let result = to_result(unsafe {
            bindings::shmem_add_batch_to_page_cache(mapping, batch.as_ptr(), gfp)
        });
        if result.is_err() {
            // SAFETY: The folios were charged and locked by this function.
            unsafe { Self::unlock_and_uncharge(batch) };
        }
        result
    }

    /// # Safety
    ///
    /// [`Self::insert_batch`] must have been successful for the folios.
    unsafe fn remove_batch(&self, batch: &mut Batch) {
        // SAFETY: By the safety requirements; nobody else knows the mapping, and our reference to
        // each of the folios is that of `ClaimedFolios`.
        unsafe {
            bindings::shmem_remove_batch_from_page_cache((*self.inode()).i_mapping, batch.as_ptr());
            Self::unlock_and_uncharge(batch);
            bindings::cond_resched();
        }
    }

    /// # Safety
    ///
    /// The folios must have been locked and charged by the caller, and not be in the page cache.
    unsafe fn unlock_and_uncharge(batch: &mut Batch) {
        // SAFETY: By the safety requirements.
        unsafe {
            bindings::mem_cgroup_uncharge_folios(batch.as_ptr());
            bindings::folio_batch_unlock(batch.as_ptr());
        }
    }

    /// Leaves the folios to the page cache. Cannot fail.
    ///
    /// # Safety
    ///
    /// [`Self::insert`] must have been successful for the folios.
    unsafe fn release(folios: ClaimedFolios) {
        let mut list = folios.into_list();
        let mut batch = Batch::new();

        while batch.refill(&mut core::iter::from_fn(|| list.pop_raw())) {
            // SAFETY: By the safety requirements, the folios are in the page cache, locked, and not
            // on an LRU list. The references were those of the list.
            unsafe {
                bindings::folios_add_lru(batch.as_ptr());
                bindings::folio_batch_unlock(batch.as_ptr());
                bindings::folio_batch_put(batch.as_ptr());
                bindings::cond_resched();
            }
        }
    }

    /// Makes the file known to others.
    pub fn finish(self) -> ARef<File> {
        self.file
    }
}

/// As many folios as C handles at a time. Has no references to them.
struct Batch(bindings::folio_batch);

impl Batch {
    fn new() -> Self {
        Self(bindings::folio_batch::default())
    }

    /// Gets the next few folios. Returns whether there are any.
    fn refill(&mut self, folios: &mut impl Iterator<Item = NonNull<bindings::folio>>) -> bool {
        self.0.nr = 0;
        for (slot, folio) in self.0.folios.iter_mut().zip(folios) {
            *slot = folio.as_ptr();
            self.0.nr = self.0.nr.saturating_add(1);
        }
        self.0.nr != 0
    }

    fn len(&self) -> usize {
        usize::from(self.0.nr)
    }

    fn as_ptr(&mut self) -> *mut bindings::folio_batch {
        &mut self.0
    }
}
