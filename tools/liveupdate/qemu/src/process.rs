// SPDX-License-Identifier: GPL-2.0

//! A QEMU that runs: started by this luo-qemu, or by one that was killed.

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal},
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    process::Child,
};

/// A QEMU.
#[derive(Debug)]
pub enum Process {
    /// A child of this process.
    Child(Child),
    /// The child of a process that was killed.
    Adopted {
        /// Its process id.
        pid: u32,
        /// What keeps the id from being that of another process.
        pidfd: OwnedFd,
    },
}

impl Process {
    /// Takes over the process `pid`, if it runs and `argument` is in one of its arguments.
    ///
    /// # Errors
    ///
    /// If that cannot be found out.
    pub fn adopt(pid: u32, argument: &Path) -> io::Result<Option<Self>> {
        let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(id, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The id is not used again while there is a descriptor of the process: what is read now is
        // about the process of the descriptor, unless that has ended before.
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let wanted = argument.as_os_str().as_bytes();
        let is_it = arguments
            .split(|byte| *byte == 0)
            .any(|text| text.windows(wanted.len()).any(|part| part == wanted));
        let process = Self::Adopted { pid, pidfd };
        Ok(Some(process).filter(|process| is_it && !process.has_ended().unwrap_or(true)))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        match self {
            Self::Child(child) => child.id(),
            Self::Adopted { pid, .. } => *pid,
        }
    }

    /// Opens a file that it has open.
    ///
    /// # Errors
    ///
    /// If it has no such descriptor.
    pub fn file(&self, fd: RawFd) -> io::Result<File> {
        let path = format!("/proc/{}/fd/{fd}", self.id());
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn has_ended(&self) -> io::Result<bool> {
        match self {
            Self::Child(_) => Ok(false),
            Self::Adopted { pidfd, .. } => {
                let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
                Ok(poll(&mut fds, Some(&Timespec::default()))? > 0)
            }
        }
    }

    /// Whether it has ended, and how: true if it was successful. How a process has ended that is
    /// no child cannot be found out; that counts as success.
    ///
    /// # Errors
    ///
    /// If that cannot be found out.
    pub fn ended(&mut self) -> io::Result<Option<bool>> {
        match self {
            Self::Child(child) => Ok(child.try_wait()?.map(|status| status.success())),
            Self::Adopted { .. } => Ok(self.has_ended()?.then_some(true)),
        }
    }

    /// Ends it, whatever it does, and waits for its end.
    pub fn end(self) {
        // These fail only if it has ended already.
        match self {
            Self::Child(mut child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Adopted { pidfd, .. } => {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None);
            }
        }
    }
}
