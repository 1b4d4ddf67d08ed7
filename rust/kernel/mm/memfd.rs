// SPDX-License-Identifier: GPL-2.0

//! Creation of memfds.
//!
//! C header: [`include/linux/memfd.h`](srctree/include/linux/memfd.h)

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

/// A memfd that is being created and has no other users.
///
/// Dropping it frees the file and its content.
///
/// # Invariants
///
/// The file is backed by shmem, and there is no other reference to it.
///
/// # Examples
///
/// ```
/// use kernel::mm::{memfd::NewMemfd, shmem::ShmemFile};
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
    /// Creates an empty memfd that may be executed, and that user space cannot seal until
    /// [`Self::set_seals`] permits it.
    ///
    /// `name` is shown in `/proc/PID/fd`, and begins with `memfd:` by convention.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`ENFILE`] if there are too many open files; errors of security modules.
    pub fn new(name: &CStr) -> Result<Self> {
        // SAFETY: `name` is null-terminated.
        let file = from_err_ptr(unsafe { bindings::memfd_alloc_file(name.as_char_ptr(), 0) })?;
        let file = NonNull::new(file).ok_or(ENOMEM)?;
        // SAFETY: The caller owns the reference to the new file. There is no file descriptor,
        // and therefore no `fdget_pos`. `File` is a transparent wrapper.
        let file = unsafe { ARef::from_raw(file.cast()) };
        // INVARIANT: This is a new file of shmem, as there is no `MFD_HUGETLB`.
        Ok(Self { file })
    }

    /// Sets the size in bytes.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the size exceeds the maximum file size.
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
    /// [`EINVAL`] if the position exceeds the maximum.
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

    /// Sets exactly these seals (`F_SEAL_*`), while `fcntl()` may add others.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if writing is sealed and there is a writable mapping.
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

    /// Returns the raw pointer to the inode, which belongs to shmem.
    pub fn inode_ptr(&self) -> *mut bindings::inode {
        Inode::from_file(&self.file).as_ptr()
    }

    /// Returns the file, which others may use from now on.
    pub fn finish(self) -> ARef<File> {
        self.file
    }
}
