// SPDX-License-Identifier: GPL-2.0

//! A QEMU that runs: started by this luo-qemu, or by one that was killed.

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::{retry_on_intr, Errno},
    process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal},
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{OwnedFd, RawFd},
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
        /// A descriptor, which prevents that another process gets the id.
        pidfd: OwnedFd,
    },
}

/// Whether the process `pid` has the argument `argument`. It has none if it has ended.
fn has_argument(pid: u32, argument: &str) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = arguments.split(|byte| *byte == 0);
    arguments.any(|text| text == argument.as_bytes())
}

impl Process {
    /// Takes over the process `pid`, if it runs and has the argument `argument`.
    ///
    /// # Errors
    ///
    /// If that cannot be found out.
    pub fn adopt(pid: u32, argument: &str) -> io::Result<Option<Self>> {
        let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(id, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The id is not used again while there is a descriptor of the process: what is read now is
        // about the process of the descriptor, unless that has ended before.
        let is_it = has_argument(pid, argument);
        let process = Self::Adopted { pid, pidfd };
        Ok(Some(process).filter(|process| is_it && !process.has_ended().unwrap_or(true)))
    }

    /// Takes over all processes that have the argument `argument`.
    ///
    /// # Errors
    ///
    /// If these cannot be found out.
    pub fn all(argument: &str) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|pid| has_argument(*pid, argument)) {
                found.extend(Self::adopt(pid, argument)?);
            }
        }
        Ok(found)
    }

    /// Sends a signal to the process `pid`, if it runs and has the argument `argument`: it may have
    /// ended since its id was recorded, and another process may have the id. Returns whether the
    /// signal was sent.
    ///
    /// # Errors
    ///
    /// If the user is not permitted to send the signal.
    pub fn signal(pid: u32, argument: &str, signal: Signal) -> io::Result<bool> {
        let Some(Self::Adopted { pidfd, .. }) = Self::adopt(pid, argument)? else {
            return Ok(false);
        };
        match pidfd_send_signal(&pidfd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
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

    /// Kills it, and waits for its end.
    pub fn end(self) {
        // These fail only if it has ended already.
        match self {
            Self::Child(mut child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Adopted { pidfd, .. } => {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                // A signal to this process must not end the wait.
                let wait = || poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None);
                let _ = retry_on_intr(wait);
            }
        }
    }
}
