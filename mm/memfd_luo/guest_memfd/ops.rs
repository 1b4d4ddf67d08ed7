// SPDX-License-Identifier: GPL-2.0

//! Safe types and functions for the use of guest_memfds.
//!
//! This is the only module about them with `unsafe` code.
//!
//! C headers: `mm/luo_guest_memfd.h`, `virt/kvm/liveupdate/core.h`

#![allow(unsafe_code)]

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
        ClaimedFolio, //
    },
    mm::{
        folio::PinnedFolio,
        memfd::NewFile, //
    },
    prelude::*,
    sync::aref::ARef, //
};

use crate::ops::{
    insert,
    release, //
};

/// Returns whether this is a guest_memfd.
pub(crate) fn is_guest_memfd(file: &File) -> bool {
    // SAFETY: The file is valid.
    unsafe { bindings::kvm_liveupdate_is_gmem(file.as_ptr()) }
}

/// Keeps the folios of a guest_memfd as they are, until this is dropped.
///
/// An access to memory without a folio fails, and so does removing folios.
///
/// # Invariants
///
/// `file` is a guest_memfd, and was frozen by this object.
pub(crate) struct Frozen {
    file: ARef<File>,
    flags: u64,
}

impl Frozen {
    /// Freezes `file`. May sleep, and waits for those who change it.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if not all of its memory is shared with user space, [`EBUSY`] if it is frozen
    /// already, [`EINTR`] for a fatal signal; [`EINVAL`] if it is no guest_memfd.
    pub(crate) fn new(file: &File) -> Result<Self> {
        if !is_guest_memfd(file) {
            return Err(EINVAL);
        }
        let mut flags = 0;
        // SAFETY: The file is valid, and a guest_memfd, which it stays; `flags` is valid for writing.
        to_result(unsafe { bindings::kvm_liveupdate_freeze_gmem(file.as_ptr(), &mut flags) })?;
        // INVARIANT: Just frozen.
        Ok(Self {
            file: file.into(),
            flags,
        })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// `GUEST_MEMFD_FLAG_*`.
    pub(crate) const fn flags(&self) -> u64 {
        self.flags
    }

    /// The file of the VM, or [`None`] if it is closed.
    pub(crate) fn vm(&self) -> Option<ARef<File>> {
        // SAFETY: By the type invariant, this is a guest_memfd.
        let vm = unsafe { bindings::kvm_liveupdate_gmem_vm(self.file.as_ptr()) };
        // SAFETY: The callee returns a reference. Operations of a handler are not called while the task
        // holds a file's position lock.
        Some(unsafe { ARef::from_raw(NonNull::new(vm)?.cast()) })
    }

    /// Pins the first `max` folios in `pages`. May sleep.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if a folio is where it cannot be pinned, [`ENOMEM`].
    pub(crate) fn pin(&self, pages: Range<u64>, max: u32) -> Result<KVVec<PinnedFolio>> {
        let mut folios = KVVec::<PinnedFolio>::with_capacity(usize::try_from(max)?, GFP_KERNEL)?;
        // `PinnedFolio` is a transparent wrapper around a pointer.
        let room = folios.spare_capacity_mut().as_mut_ptr().cast();
        // CAST: `pgoff_t` has 64 bits.
        let (start, end) = (pages.start as c_ulong, pages.end as c_ulong);
        // SAFETY: The mapping lives as long as the inode, and the file is frozen. There is room for `max`
        // pointers.
        let nr = unsafe {
            let mapping = (*Inode::from_file(&self.file).as_ptr()).i_mapping;
            bindings::luo_gmem_pin_folios(mapping, start, end, room, max)
        };
        // CAST: Error numbers are small.
        let nr = usize::try_from(nr).map_err(|_| Error::from_errno(nr as c_int))?;
        // SAFETY: The callee has stored `nr` pointers, at most `max`, each with a pin.
        unsafe { folios.inc_len(nr) };
        Ok(folios)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kvm_liveupdate_thaw_gmem(self.file.as_ptr()) };
    }
}

/// Sets up a folio with content, for page `index` of a file.
pub(crate) fn init_folio(folio: &mut ClaimedFolio, index: u64) {
    // SAFETY: The folio is valid, and nobody else uses it.
    // CAST: `pgoff_t` has 64 bits.
    unsafe { bindings::luo_gmem_init_folio(folio.as_raw().as_ptr(), index as c_ulong) };
}

/// A guest_memfd that is being created and has no other users.
///
/// # Invariants
///
/// The file is a guest_memfd.
pub(crate) struct NewGuestMemfd(NewFile);

impl NewGuestMemfd {
    /// Creates an empty guest_memfd for the VM of a file.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `vm` is no file of a VM, or the VM does not support the flags; [`ENODEV`] if KVM is
    /// not loaded, [`ENOMEM`], [`ENFILE`].
    pub(crate) fn new(vm: &File, size: u64, flags: u64) -> Result<Self> {
        // SAFETY: The file of the VM is valid, and the callee returns the only reference to a new file.
        let file = unsafe {
            NewFile::from_raw(bindings::kvm_liveupdate_new_gmem(vm.as_ptr(), size, flags))
        }?;
        // INVARIANT: The callee has made the file.
        Ok(Self(file))
    }

    /// Adds folios to the file, which must be empty, and charges them to the memory cgroup of the
    /// current task. They must have been set up by [`init_folio`]. May sleep.
    ///
    /// # Errors
    ///
    /// All folios are returned unchanged, and nothing is charged: [`ENOMEM`], also if the cgroup is at
    /// its limit, and what [`insert`] fails with.
    pub(crate) fn fill(self, folios: ClaimedList) -> Result<ARef<File>, (Error, ClaimedList)> {
        // SAFETY: By the type invariant, this is an inode whose folios are added to the page cache and
        // charged only.
        if let Err(err) = unsafe { insert(self.0.inode_ptr(), &folios) } {
            return Err((err, folios));
        }
        // SAFETY: `insert` has succeeded for these folios.
        unsafe { release(folios) };
        Ok(self.0.finish())
    }
}
