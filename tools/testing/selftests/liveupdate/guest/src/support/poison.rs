// SPDX-License-Identifier: GPL-2.0

//! Makes the kernel treat memory as bad.

use crate::support::{
    error::{At, Result},
    process::{Child, End},
};
use std::{ffi::c_void, io};

const PAGE: usize = 4096;

/// Marks the page at `page` as bad. It must not be read any more.
///
/// Fails with `EBUSY` if the kernel knows that the page is bad, but cannot remove it from its users.
pub fn poison(page: *mut c_void) -> io::Result<()> {
    let _handler = Handler::new()?;
    // SAFETY: The page belongs to the caller, and is not read any more.
    match unsafe { libc::madvise(page, PAGE, libc::MADV_HWPOISON) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns whether reading from `address` kills a process.
pub fn read_kills(address: *const c_void) -> Result<bool> {
    let address = address.cast::<u8>();
    let child = Child::start(|| {
        // SAFETY: The page is mapped; if it is bad, only this process is killed.
        unsafe { address.read_volatile() };
        Ok(())
    })?;
    Ok(child.wait().at("wait for a process that reads")? == End::Killed)
}

/// Handles SIGBUS while this exists: the kernel sends it for a bad page, and kills a process that
/// ignores it.
struct Handler(libc::sigaction);

impl Handler {
    fn new() -> io::Result<Self> {
        extern "C" fn handle(_: libc::c_int) {}

        // SAFETY: All zero is a valid value: no flags, no handler, an empty mask.
        let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
        let mut old = new;
        new.sa_sigaction = handle as extern "C" fn(libc::c_int) as usize;
        // SAFETY: Both are valid, and the handler does nothing.
        match unsafe { libc::sigaction(libc::SIGBUS, &new, &mut old) } {
            0 => Ok(Self(old)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // SAFETY: This is the previous handler.
        unsafe { libc::sigaction(libc::SIGBUS, &self.0, std::ptr::null_mut()) };
    }
}
