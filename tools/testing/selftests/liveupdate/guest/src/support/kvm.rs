// SPDX-License-Identifier: GPL-2.0

//! Virtual machines whose memory is a guest_memfd.

mod vcpu;

use crate::support::error::{ensure_eq, At, Result};
use kvm_bindings::{kvm_create_guest_memfd, kvm_userspace_memory_region2, KVM_MEM_GUEST_MEMFD};
use kvm_ioctls::{Kvm, VmFd};
use rustix::mm::{MapFlags, ProtFlags};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    ptr, slice,
};

pub const PAGE: usize = 4096;

/// `GUEST_MEMFD_FLAG_MMAP`
pub const MMAP: u64 = 1 << 0;
/// `GUEST_MEMFD_FLAG_INIT_SHARED`
pub const INIT_SHARED: u64 = 1 << 1;

fn error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// A virtual machine.
pub struct Vm(VmFd);

impl Vm {
    pub fn new() -> Result<Self> {
        let kvm = Kvm::new().map_err(error).at("/dev/kvm")?;
        Ok(Self(kvm.create_vm().map_err(error).at("KVM_CREATE_VM")?))
    }

    /// Uses a file that was retrieved.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let kvm = Kvm::new().map_err(error).at("/dev/kvm")?;
        // SAFETY: The descriptor has no other owner.
        let vm = unsafe { kvm.create_vmfd_from_rawfd(fd.into_raw_fd()) };
        Ok(Self(vm.map_err(error).at("use a retrieved VM")?))
    }

    /// A guest_memfd of this VM.
    pub fn memory(&self, pages: usize, flags: u64) -> Result<File> {
        let request = kvm_create_guest_memfd {
            size: (pages * PAGE) as u64,
            flags,
            ..Default::default()
        };
        let fd = self.0.create_guest_memfd(request).map_err(error);
        // SAFETY: The descriptor is new.
        Ok(unsafe { File::from_raw_fd(fd.at("KVM_CREATE_GUEST_MEMFD")?) })
    }

    /// Makes a guest_memfd all memory of the guest. Fails in another process than that which has
    /// created or retrieved the VM.
    pub fn set_memory(&self, memory: &File, map: &Map) -> io::Result<()> {
        let region = kvm_userspace_memory_region2 {
            flags: KVM_MEM_GUEST_MEMFD,
            memory_size: map.len as u64,
            userspace_addr: map.start.addr() as u64,
            guest_memfd: memory.as_raw_fd() as u32,
            ..Default::default()
        };
        // Memory of this kind cannot be replaced, only removed. There may be none.
        // SAFETY: The kernel checks both requests; the mapping is not unmapped while the guest runs.
        unsafe {
            let _ = self.0.set_user_memory_region2(Default::default());
            self.0.set_user_memory_region2(region)
        }
        .map_err(error)
    }
}

impl AsFd for Vm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: The descriptor stays open as long as the object.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// A mapping of all of a guest_memfd.
pub struct Map {
    start: *mut u8,
    len: usize,
}

impl Map {
    pub fn new(memory: &File, pages: usize) -> Result<Self> {
        let (prot, len) = (ProtFlags::READ | ProtFlags::WRITE, pages * PAGE);
        // SAFETY: This is a new mapping without other users.
        let start =
            unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, memory, 0) };
        Ok(Self {
            start: start.at("mmap")?.cast(),
            len,
        })
    }

    pub fn page(&mut self, page: usize) -> &mut [u8] {
        assert!((page + 1) * PAGE <= self.len);
        // SAFETY: Within the mapping, which has no other users while the guest does not run.
        unsafe { slice::from_raw_parts_mut(self.start.add(page * PAGE), PAGE) }
    }

    /// Fails unless all bytes of a page are equal to those of `wanted`.
    pub fn check(&mut self, page: usize, wanted: &[u8]) -> Result {
        let differs = self.page(page).iter().zip(wanted).position(|(a, b)| a != b);
        ensure_eq!(differs, None, "the first byte of page {page} that differs");
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: The mapping belongs to this object.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
    }
}
