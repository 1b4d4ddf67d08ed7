// SPDX-License-Identifier: GPL-2.0

//! Arguments of ioctls in memory that can be made inaccessible.

use crate::support::error::{At, Result};
use liveupdate::raw;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd, BorrowedFd},
    ptr, slice,
};

const PAGE: usize = 4096;

/// An argument at the end of a page; the next page is not mapped.
pub struct Arg {
    page: *mut c_void,
    len: usize,
}

impl Arg {
    /// Copies `bytes`, which must fit into a page.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: The mapping is new and has no other users; its second page is unmapped
        // immediately.
        let page = unsafe {
            let page =
                rustix::mm::mmap_anonymous(ptr::null_mut(), 2 * PAGE, prot, MapFlags::PRIVATE)
                    .at("mmap")?;
            rustix::mm::munmap(page.byte_add(PAGE), PAGE).at("munmap")?;
            page
        };
        let arg = Self {
            page,
            len: bytes.len().min(PAGE),
        };
        // SAFETY: There are `len` bytes at both places, and they do not overlap.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), arg.ptr().cast(), arg.len) };
        Ok(arg)
    }

    fn ptr(&self) -> *mut c_void {
        self.page.wrapping_byte_add(PAGE - self.len)
    }

    /// The current bytes.
    pub fn bytes(&self) -> Vec<u8> {
        // SAFETY: The page is mapped until the drop of this value, and readable.
        unsafe { slice::from_raw_parts(self.ptr().cast::<u8>(), self.len) }.to_vec()
    }

    /// Makes writes fail from now on.
    pub fn read_only(self) -> Result<Self> {
        // SAFETY: The page belongs to this object, and there are no references to it.
        unsafe { rustix::mm::mprotect(self.page, PAGE, MprotectFlags::READ) }.at("mprotect")?;
        Ok(self)
    }

    /// Calls an ioctl with this argument.
    pub fn ioctl(&self, fd: impl AsFd, request: u32) -> io::Result<()> {
        // SAFETY: The page has no other users, and the page after it is not mapped.
        unsafe { raw::ioctl(fd.as_fd(), request, self.ptr()) }
    }
}

impl Drop for Arg {
    fn drop(&mut self) {
        // SAFETY: The page belongs to this object, and there are no references to it.
        let _ = unsafe { rustix::mm::munmap(self.page, PAGE) };
    }
}

/// Calls an ioctl with an argument at an unmapped address.
pub fn without_memory(fd: BorrowedFd<'_>, request: u32) -> io::Result<()> {
    // SAFETY: This address is not mapped.
    unsafe { raw::ioctl(fd, request, ptr::without_provenance_mut(8)) }
}

/// The bytes of a structure that consists of a size, another number and a name.
pub fn named(size: u32, name: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8 + raw::NAME_LENGTH];
    let (head, field) = bytes.split_at_mut(8);
    for (to, from) in head.iter_mut().zip(size.to_ne_bytes()) {
        *to = from;
    }
    for (to, from) in field.iter_mut().zip(name) {
        *to = *from;
    }
    bytes
}

/// The bytes of a structure that consists of its size and numbers.
pub fn numbers(size: u32, second: u32, rest: &[u64]) -> Vec<u8> {
    let mut bytes = size.to_ne_bytes().to_vec();
    bytes.extend(second.to_ne_bytes());
    bytes.extend(rest.iter().flat_map(|number| number.to_ne_bytes()));
    bytes
}
