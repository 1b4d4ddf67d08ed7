// SPDX-License-Identifier: GPL-2.0

//! Inodes.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use crate::{
    bindings,
    error::to_result,
    fs::File,
    prelude::*,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// An inode (`struct inode`) with a reference.
///
/// # Invariants
///
/// The inode is valid as long as the reference to this object lives.
#[repr(transparent)]
pub struct Inode(Opaque<bindings::inode>);

// SAFETY: The methods may be called on any thread.
unsafe impl Send for Inode {}
// SAFETY: The methods only read single integers, or synchronise.
unsafe impl Sync for Inode {}

impl Inode {
    /// Returns the inode of an open file.
    pub fn from_file(file: &File) -> &Self {
        // SAFETY: A file has an inode, which does not change and to which it holds a reference.
        // `Inode` is a transparent wrapper.
        unsafe { &*bindings::file_inode(file.as_ptr()).cast() }
    }

    /// Returns the raw pointer.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::inode {
        self.0.get()
    }

    /// A number that is unique among all inodes that exist at the same time.
    #[inline]
    pub fn id(&self) -> usize {
        self.as_ptr() as usize
    }

    /// Number of names that the inode has in its file system.
    ///
    /// May change at any time unless the inode is [locked](Self::lock).
    pub fn nlink(&self) -> u32 {
        // SAFETY: The inode is valid. This reads a single integer that may change concurrently.
        unsafe { (&raw const (*self.as_ptr()).__bindgen_anon_1.i_nlink).read_volatile() }
    }

    /// File type and permission bits. May change like [`Self::nlink`].
    pub fn mode(&self) -> u16 {
        // SAFETY: The inode is valid. This reads a single integer that may change concurrently.
        unsafe { (&raw const (*self.as_ptr()).i_mode).read_volatile() }
    }

    /// Returns whether the inode is internal to the kernel (`IS_PRIVATE()`).
    pub fn is_private(&self) -> bool {
        // SAFETY: The inode is valid. This reads a single integer that may change concurrently.
        unsafe { (&raw const (*self.as_ptr()).i_flags).read_volatile() & bindings::S_PRIVATE != 0 }
    }

    /// Size in bytes. May change like [`Self::nlink`].
    pub fn size(&self) -> u64 {
        // SAFETY: The inode is valid.
        let size = unsafe { bindings::i_size_read(self.as_ptr()) };
        // Never negative.
        u64::try_from(size).unwrap_or(0)
    }

    /// Locks the inode. May sleep, and may wait for user space, which can delay a page fault in
    /// a `write()`.
    pub fn lock(&self) -> InodeGuard<'_> {
        // SAFETY: The inode is valid.
        unsafe { bindings::inode_lock(self.as_ptr()) };
        // INVARIANT: Just locked.
        InodeGuard {
            inode: self,
            _not_send: NotThreadSafe,
        }
    }

    /// As [`Self::lock`], unless the task is killed before that is possible.
    ///
    /// Tasks that wait get the lock in turn, so others that take it again and again do not delay this
    /// for long.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed.
    pub fn lock_killable(&self) -> Result<InodeGuard<'_>> {
        // SAFETY: The inode is valid.
        to_result(unsafe { bindings::inode_lock_killable(self.as_ptr()) })?;
        // INVARIANT: Just locked.
        Ok(InodeGuard {
            inode: self,
            _not_send: NotThreadSafe,
        })
    }

    /// Locks the inode if that is possible without waiting.
    pub fn try_lock(&self) -> Option<InodeGuard<'_>> {
        // SAFETY: The inode is valid.
        if !unsafe { bindings::inode_trylock(self.as_ptr()) } {
            return None;
        }
        // INVARIANT: Just locked.
        Some(InodeGuard {
            inode: self,
            _not_send: NotThreadSafe,
        })
    }
}

/// An inode that is locked (`i_rwsem`, exclusively); dropping this unlocks it.
///
/// # Invariants
///
/// The inode is locked, and the lock belongs to this object.
#[must_use = "the inode is unlocked when this is dropped"]
pub struct InodeGuard<'a> {
    inode: &'a Inode,
    _not_send: NotThreadSafe,
}

impl core::ops::Deref for InodeGuard<'_> {
    type Target = Inode;

    fn deref(&self) -> &Inode {
        self.inode
    }
}

impl Drop for InodeGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the inode is valid and the lock belongs to this
        // object.
        unsafe { bindings::inode_unlock(self.inode.as_ptr()) };
    }
}
