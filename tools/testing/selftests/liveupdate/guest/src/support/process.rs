// SPDX-License-Identifier: GPL-2.0

//! Processes that do one thing, and may be killed meanwhile.

use crate::support::error::{At, Result};
use rustix::io::Errno;
use std::{io, panic};

/// How a child has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// The kernel's error.
    Error(Errno),
    Killed,
    /// Anything else; it has said what.
    Other,
}

/// A process that does one thing.
pub struct Child(libc::pid_t);

impl Child {
    /// Starts a process with all the descriptors of this one.
    pub fn start(act: impl FnOnce() -> io::Result<()>) -> Result<Self> {
        // SAFETY: There are no other threads whose locks could stay locked in the child.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).at("fork"),
            0 => {
                let result = panic::catch_unwind(panic::AssertUnwindSafe(act));
                let code = match result {
                    Ok(Ok(())) => 0,
                    Ok(Err(error)) => liveupdate::errno(&error)
                        .or(error.raw_os_error())
                        .unwrap_or_else(|| {
                            println!("# child: {error}");
                            255
                        }),
                    Err(_) => 255,
                };
                // SAFETY: Always safe; nothing of the parent is cleaned up.
                unsafe { libc::_exit(code) }
            }
            pid => Ok(Self(pid)),
        }
    }

    pub fn kill(&self) {
        // SAFETY: The child is not reaped yet, hence the number is its.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }

    pub fn wait(self) -> Result<End> {
        let mut status = 0;
        // SAFETY: The pointer is valid for writing.
        if unsafe { libc::waitpid(self.0, &mut status, 0) } != self.0 {
            return Err(io::Error::last_os_error()).at("waitpid");
        }
        Ok(if libc::WIFSIGNALED(status) {
            End::Killed
        } else {
            match libc::WEXITSTATUS(status) {
                0 => End::Done,
                255 => End::Other,
                code => End::Error(Errno::from_raw_os_error(code)),
            }
        })
    }
}
