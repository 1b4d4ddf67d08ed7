// SPDX-License-Identifier: GPL-2.0

//! Memory whose page faults are never handled.

use crate::support::error::{ensure, At, Failure, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fd::{FromRawFd, OwnedFd},
    mm::{MapFlags, ProtFlags},
};
use std::{ffi::c_void, fs::File, io, os::fd::AsRawFd, ptr, thread};

const PAGE: usize = 4096;

const UFFD_API: u64 = 0xaa;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;
const REGISTER_MODE_MISSING: u64 = 1 << 0;
const REGISTER_MODE_WP: u64 = 1 << 1;
const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;

/// A page at which tasks block, until this value is dropped.
pub struct StuckPage {
    page: *mut c_void,
    uffd: Option<OwnedFd>,
}

// SAFETY: The page is only accessed through `ptr()`, whose users must justify the access.
unsafe impl Send for StuckPage {}
// SAFETY: `ptr()` only returns a pointer, whose users must justify the access.
unsafe impl Sync for StuckPage {}

/// Calls an ioctl of userfaultfd.
fn ioctl<const N: usize>(uffd: &OwnedFd, request: u64, mut arg: [u64; N]) -> io::Result<()> {
    // SAFETY: The requests that are used here read and write exactly the given words.
    let status = unsafe { libc::ioctl(uffd.as_raw_fd(), request as _, arg.as_mut_ptr()) };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl StuckPage {
    fn new(mode: u64, features: u64) -> Result<Self> {
        // SAFETY: The mapping is new.
        let page = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                PAGE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .at("mmap")?;
        // SAFETY: The system call returns a new descriptor, or fails.
        let uffd = unsafe {
            match libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(OwnedFd::from_raw_fd(fd as i32)),
            }
        }
        .at("userfaultfd")?;
        ioctl(&uffd, UFFDIO_API, [UFFD_API, features, 0]).at("UFFDIO_API")?;
        ioctl(&uffd, UFFDIO_REGISTER, [page as u64, PAGE as u64, mode, 0]).at("UFFDIO_REGISTER")?;
        Ok(Self {
            page,
            uffd: Some(uffd),
        })
    }

    /// A page that cannot be read.
    pub fn unreadable() -> Result<Self> {
        Self::new(REGISTER_MODE_MISSING, 0)
    }

    /// A page that begins with `bytes` and can be read, but not written.
    pub fn unwritable(bytes: &[u8]) -> Result<Self> {
        let this = Self::new(REGISTER_MODE_WP, FEATURE_PAGEFAULT_FLAG_WP)?;
        // SAFETY: The page belongs to this function, and has no other users yet.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), this.page.cast(), bytes.len().min(PAGE))
        };
        if let Some(uffd) = &this.uffd {
            let protect = 1;
            ioctl(
                uffd,
                UFFDIO_WRITEPROTECT,
                [this.page as u64, PAGE as u64, protect],
            )
            .at("UFFDIO_WRITEPROTECT")?;
        }
        Ok(this)
    }

    pub fn ptr(&self) -> *mut c_void {
        self.page
    }

    /// Waits until a task blocks; returns false after 10 s.
    pub fn wait(&self) -> Result<bool> {
        let Some(uffd) = &self.uffd else {
            return Ok(false);
        };
        let timeout = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(uffd, PollFlags::IN)];
        Ok(rustix::event::poll(&mut fds, Some(&timeout)).at("poll")? == 1)
    }

    /// Wakes the blocked tasks. The page stays mapped.
    pub fn release(&mut self) {
        self.uffd = None;
    }
}

/// A thread that is blocked in a write, and holds the lock of the file.
pub struct StuckWriter {
    page: StuckPage,
    thread: thread::JoinHandle<()>,
}

impl StuckWriter {
    pub fn new(file: &File) -> Result<Self> {
        let page = StuckPage::unreadable()?;
        let address = page.ptr() as usize;
        let file = file.try_clone().at("dup")?;
        let thread = thread::spawn(move || {
            // SAFETY: The kernel checks the address.
            unsafe { libc::pwrite(file.as_raw_fd(), address as *const _, 100, 0) };
        });
        ensure!(page.wait()?, "no task is blocked");
        Ok(Self { page, thread })
    }

    /// Wakes the thread, and waits for its end.
    pub fn release(mut self) -> Result {
        self.page.release();
        self.thread
            .join()
            .map_err(|_| Failure::new("the writer has panicked"))
    }
}
