// SPDX-License-Identifier: GPL-2.0

//! Files of VMs.
//!
//! This is the only module of the crate with `unsafe` code.
//!
//! C header: `virt/kvm/liveupdate/core.h`

use core::ptr::NonNull;
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};

/// Returns whether this is the file of a VM.
pub(crate) fn is_vm(file: &File) -> bool {
    // SAFETY: The file is valid.
    unsafe { bindings::kvm_liveupdate_is_vm(file.as_ptr()) }
}

/// Returns the type of the VM.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if VMs of this type cannot be preserved, [`EIO`] if the VM does not work any more;
/// [`EINVAL`] if this is not the file of a VM.
pub(crate) fn vm_type(file: &File) -> Result<u64> {
    if !is_vm(file) {
        return Err(EINVAL);
    }
    let mut kind = 0;
    // SAFETY: The file is valid, and that of a VM, which it stays; `kind` is valid for writing.
    to_result(unsafe { bindings::kvm_liveupdate_vm_type(file.as_ptr(), &mut kind) })?;
    Ok(kind)
}

/// Creates a VM, which belongs to the address space of the current task.
///
/// # Errors
///
/// [`ENODEV`] if KVM is not loaded, and the errors of `KVM_CREATE_VM`.
pub(crate) fn new_vm(kind: u64) -> Result<ARef<File>> {
    // SAFETY: Called in an ioctl, so that the task has an address space.
    let file = unsafe { bindings::kvm_liveupdate_new_vm(kind) };
    let file = NonNull::new(from_err_ptr(file)?).ok_or(EIO)?;
    // SAFETY: The callee returns a reference to a new file, which is not in any descriptor table yet, so
    // that there are no `fdget_pos` calls on it.
    Ok(unsafe { ARef::from_raw(file.cast()) })
}
