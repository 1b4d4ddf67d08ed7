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
    mm::folio::PinBatch,
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef, //
};
use core::{
    ops::{
        Deref,
        DerefMut,
        Range, //
    },
    ptr::NonNull, //
};

/// Returns whether the file is on the kernel's own mount, like memfds, with an inode that is not
/// internal to the kernel.
pub fn is_internal(file: &File) -> bool {
    let inode = Inode::from_file(file);
    // SAFETY: The inode is valid, and so is its super block. This reads a single integer; the flag in
    // it does not change.
    let flags = unsafe { (&raw const (*(*inode.as_ptr()).i_sb).s_flags).read_volatile() };
    flags & bindings::SB_KERNMOUNT != 0 && !inode.is_private()
}

/// File position in bytes. May change at any time.
pub fn pos(file: &File) -> u64 {
    // SAFETY: The file is valid. This reads a single integer that may change concurrently.
    let pos = unsafe { (&raw const (*file.as_ptr()).f_pos).read_volatile() };
    // Never negative for a memfd.
    u64::try_from(pos).unwrap_or(0)
}

/// Pins the folios of a range of pages of a memfd for long, and replaces the content of `batch` with
/// them.
///
/// Begins at the first page, and ends when `batch` is full. Holes are filled, swapped out pages are
/// read back, and folios that cannot be pinned at their address are moved. Pages after the end of the
/// file are skipped. May sleep.
///
/// # Errors
///
/// [`EINVAL`] if the file is neither of shmem nor of hugetlbfs, or if the range is empty or starts
/// after the end of the file, [`EFBIG`] if it exceeds the maximum file size, [`EHWPOISON`] if a folio
/// with bad memory must be moved, and cannot be, [`EINTR`] if the task is being killed, [`ENOMEM`], and
/// the errors of filling holes.
pub fn pin_folios(file: &File, pages: Range<u64>, batch: &mut PinBatch) -> Result {
    let bytes = |pages: u64| i64::try_from(pages.checked_mul(PAGE_SIZE as u64)?).ok();
    let start = bytes(pages.start).ok_or(EFBIG)?;
    let size = i64::try_from(Inode::from_file(file).size())?;
    let last = bytes(pages.end)
        .map_or(size, |end| end.min(size))
        .checked_sub(1)
        .ok_or(EINVAL)?;

    // SAFETY: The callee stores the number of pointers that it returns, each with a pin. It
    // checks the file and the range itself.
    unsafe {
        batch.refill(|folios, max| {
            let mut offset = 0;
            let nr =
                bindings::memfd_pin_folios(file.as_ptr(), start, last, folios, max, &mut offset);
            // CAST: Error numbers are small.
            usize::try_from(nr).map_err(|_| Error::from_errno(nr as c_int))
        })
    }
}

/// A file of memory that is being created and has no other users.
///
/// Dropping it frees the file and its content.
///
/// # Invariants
///
/// There is no other reference to the file.
pub struct NewFile {
    file: ARef<File>,
}

impl NewFile {
    /// Takes ownership of a new file, or returns the error in an error pointer.
    ///
    /// # Safety
    ///
    /// `file` must be an error pointer, or a file to which the caller owns the only reference.
    pub unsafe fn from_raw(file: *mut bindings::file) -> Result<Self> {
        let file = NonNull::new(from_err_ptr(file)?).ok_or(ENOMEM)?;
        // SAFETY: By the safety requirements. There is no file descriptor, and therefore no
        // `fdget_pos`. `File` is a transparent wrapper.
        let file = unsafe { ARef::from_raw(file.cast()) };
        // INVARIANT: By the safety requirements.
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

    /// Returns the raw pointer to the inode.
    pub fn inode_ptr(&self) -> *mut bindings::inode {
        Inode::from_file(&self.file).as_ptr()
    }

    /// Returns the file, which others may use from now on.
    pub fn finish(self) -> ARef<File> {
        self.file
    }
}

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
pub struct NewMemfd(NewFile);

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
        // SAFETY: `name` is null-terminated, and the callee returns the only reference to a new file.
        let file = unsafe { NewFile::from_raw(bindings::memfd_alloc_file(name.as_char_ptr(), 0)) };
        // INVARIANT: This is a new file of shmem, as there is no `MFD_HUGETLB`.
        file.map(Self)
    }

    /// Sets exactly these seals (`F_SEAL_*`), while `fcntl()` may add others.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if writing is sealed and there is a writable mapping.
    pub fn set_seals(&mut self, seals: u32) -> Result {
        let guard = Inode::from_file(&self.0.file).lock();
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

    /// Returns the file, which others may use from now on.
    pub fn finish(self) -> ARef<File> {
        self.0.finish()
    }
}

impl Deref for NewMemfd {
    type Target = NewFile;

    fn deref(&self) -> &NewFile {
        &self.0
    }
}

impl DerefMut for NewMemfd {
    fn deref_mut(&mut self) -> &mut NewFile {
        &mut self.0
    }
}
