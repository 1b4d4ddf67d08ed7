// SPDX-License-Identifier: GPL-2.0

//! The entry of 32-bit programs into a kernel of x86.

use crate::support::error::{At, Result};
use liveupdate::raw::Command;
use rustix::mm::{MapFlags, ProtFlags};
use std::{
    arch::asm,
    ffi::c_void,
    io,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

const PAGE: usize = 4096;
/// The number of ioctl(2) for programs of 32 bits.
const IOCTL: u64 = 54;

/// A page below 4 GiB.
struct LowPage(*mut c_void);

impl LowPage {
    fn new() -> Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::from_bits_retain(libc::MAP_32BIT as u32);
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: The mapping is new.
        let page = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), PAGE, prot, flags) };
        Ok(Self(page.at("mmap below 4 GiB")?))
    }
}

impl Drop for LowPage {
    fn drop(&mut self) {
        // SAFETY: The page belongs to this object, and there are no references to it.
        let _ = unsafe { rustix::mm::munmap(self.0, PAGE) };
    }
}

/// Calls an ioctl like a 32-bit program.
pub fn call<C: Command + Copy>(fd: &impl AsFd, command: &mut C) -> io::Result<()> {
    let page = LowPage::new().map_err(|failure| io::Error::other(failure.to_string()))?;
    let arg = page.0.cast::<C>();
    let result: u64;
    // SAFETY: The page has room for the command, and has no other users. The kernel only
    // writes to it and to the named registers.
    unsafe {
        arg.write(*command);
        asm!(
            "xchg rbx, {fd}",
            "int 0x80",
            "xchg rbx, {fd}",
            fd = inout(reg) u64::from(fd.as_fd().as_raw_fd().unsigned_abs()) => _,
            inlateout("rax") IOCTL => result,
            in("rcx") u64::from(C::REQUEST),
            in("rdx") arg,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
        *command = arg.read();
    }
    // CAST: The result has 32 bits.
    match result as i32 {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
