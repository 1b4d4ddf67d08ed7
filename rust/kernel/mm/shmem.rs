// SPDX-License-Identifier: GPL-2.0

//! Files backed by shared memory, e.g. memfds.
//!
//! C header: [`include/linux/shmem_fs.h`](srctree/include/linux/shmem_fs.h)

use crate::{
    bindings,
    fs::{
        inode::Inode,
        File, //
    },
    mm::memfd,
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    }, //
};
use core::ptr::NonNull;

/// A [`File`] that is known to be backed by shmem.
///
/// # Invariants
///
/// `shmem_file()` is true for the file.
///
/// # Examples
///
/// ```
/// use kernel::mm::{memfd::NewMemfd, shmem::ShmemFile};
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
    /// Returns `file` if it is backed by shmem. Files of hugetlbfs are not.
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

    /// Returns whether the file is like a memfd, see [`memfd::is_internal`].
    pub fn is_internal(&self) -> bool {
        memfd::is_internal(self)
    }

    /// File position in bytes. May change at any time.
    pub fn pos(&self) -> u64 {
        memfd::pos(self)
    }

    /// Seals (`F_SEAL_*`). More may be added at any time unless the inode is locked.
    pub fn seals(&self) -> u32 {
        // SAFETY: By the type invariant, the inode is part of a `shmem_inode_info`. This reads a
        // single integer that may change concurrently.
        unsafe { (&raw const (*bindings::SHMEM_I(self.inode().as_ptr())).seals).read_volatile() }
    }
}

// SAFETY: The type is a transparent wrapper around `File`, and has the reference count of that.
unsafe impl AlwaysRefCounted for ShmemFile {
    fn inc_ref(&self) {
        self.0.inc_ref();
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the safety requirements, the caller transfers a reference, and a `ShmemFile`
        // is a transparent wrapper around `File`.
        unsafe { File::dec_ref(obj.cast()) };
    }
}

impl core::ops::Deref for ShmemFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

/// Prevents a file from being truncated, extended, or punched, until this is dropped.
///
/// Attempts of user space fail with `EPERM`. Writes and page faults still fill holes, and seals can
/// be added.
///
/// # Invariants
///
/// The mapping of `file` was frozen by this object.
///
/// # Examples
///
/// ```
/// use kernel::mm::{memfd::NewMemfd, shmem::{MappingFreeze, ShmemFile}};
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
    file: ARef<ShmemFile>,
}

impl MappingFreeze {
    /// Freezes the mapping of `file`. May sleep.
    ///
    /// Queues for the lock of the file. A task that writes to the file holds this lock while it
    /// waits for a page, whose duration user space determines; the caller must not make other tasks
    /// wait for this.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if the mapping is frozen already; [`EINTR`] if the task is being killed while it
    /// waits.
    pub fn new(file: &ShmemFile) -> Result<Self> {
        let guard = file.inode().lock_killable()?;
        // SAFETY: By the type invariant of `ShmemFile`, this is a shmem inode. It is locked.
        unsafe {
            let flags = (&raw const (*bindings::SHMEM_I(guard.as_ptr())).flags).read_volatile();
            if flags & bindings::SHMEM_F_MAPPING_FROZEN != 0 {
                return Err(EBUSY);
            }
            bindings::shmem_freeze(guard.as_ptr(), true);
        }
        // INVARIANT: Just frozen, and a file never changes its mapping.
        Ok(Self {
            file: ARef::from(file),
        })
    }

    /// The file whose mapping is frozen.
    pub fn file(&self) -> &ShmemFile {
        &self.file
    }

    /// Size of the file in bytes, which cannot change.
    pub fn size(&self) -> u64 {
        self.file.inode().size()
    }
}

impl Drop for MappingFreeze {
    fn drop(&mut self) {
        // A bit operation, because `shmem_freeze()` needs the inode lock, which a writer may hold for
        // as long as user space makes it wait for a page.
        let bit = bindings::SHMEM_F_MAPPING_FROZEN.trailing_zeros();
        // SAFETY: By the type invariants, this is a shmem inode, and the bit belongs to this object.
        // CAST: Lossless.
        unsafe {
            let info = bindings::SHMEM_I(self.file.inode().as_ptr());
            bindings::clear_bit(bit as c_ulong, &raw mut (*info).flags);
        }
    }
}
