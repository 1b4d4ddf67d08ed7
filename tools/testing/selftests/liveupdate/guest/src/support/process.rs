// SPDX-License-Identifier: GPL-2.0

//! Processes and threads for one operation, which can be killed or watched.

use crate::support::{
    error::{At, Failure, Result},
    wait::eventually,
};
use rustix::{io::Errno, process::Pid, thread::gettid};
use std::{fs, io, panic, sync::mpsc, thread};

/// The result of a child.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// The kernel's error.
    Error(Errno),
    Killed,
    /// Another error, which the child has printed.
    Other,
}

/// A process for one operation.
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
                // SAFETY: Always safe; it does not run cleanup handlers of the parent.
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

/// A thread for one operation, which can be checked for blocking.
pub struct Thread<T> {
    handle: thread::JoinHandle<T>,
    id: Pid,
}

impl<T: Send + 'static> Thread<T> {
    pub fn start(act: impl FnOnce() -> T + Send + 'static) -> Result<Self> {
        let (tell, told) = mpsc::channel();
        let handle = thread::spawn(move || {
            let _ = tell.send(gettid());
            act()
        });
        let id = told
            .recv()
            .map_err(|_| Failure::new("a thread has panicked"))?;
        Ok(Self { handle, id })
    }

    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits until the thread sleeps, or has finished.
    pub fn wait_until_asleep(&self) -> Result {
        let path = format!("/proc/self/task/{}/stat", self.id.as_raw_nonzero());
        eventually("a thread runs", || {
            if self.is_finished() {
                return Ok(true);
            }
            let Ok(stat) = fs::read_to_string(&path) else {
                // It has finished since.
                return Ok(false);
            };
            let state = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            Ok(matches!(state, Some('S' | 'D')))
        })
    }

    pub fn join(self) -> Result<T> {
        self.handle
            .join()
            .map_err(|_| Failure::new("a thread has panicked"))
    }
}

/// Drops `CAP_IPC_LOCK` of the calling thread, to which the limit for locked memory then applies.
pub fn drop_ipc_lock() -> Result {
    const CAP_IPC_LOCK: u32 = 14;
    /// `_LINUX_CAPABILITY_VERSION_3`, with two structures of three words.
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let mut sets = [0u32; 6];
    // SAFETY: The arrays have the layout that the kernel reads and writes; 0 is the calling thread.
    let status = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    if status != 0 {
        return Err(io::Error::last_os_error()).at("capget");
    }
    // The effective set is the first one.
    sets[0] &= !(1 << CAP_IPC_LOCK);
    // SAFETY: The kernel only reads the arrays, which have the layout that it expects.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).at("capset"),
    }
}
