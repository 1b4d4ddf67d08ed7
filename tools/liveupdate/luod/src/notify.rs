// SPDX-License-Identifier: GPL-2.0

//! What systemd, or another service manager that does the same, is told and asked to keep.
//!
//! See `sd_notify(3)` and `systemd`'s `FILE_DESCRIPTOR_STORE.md`.

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    net::{
        sendmsg_addr, socket_with, AddressFamily, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    },
    pipe::{pipe_with, PipeFlags},
};
use std::{
    env,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    time::Duration,
};

/// How long the service manager may take to have read everything.
const BARRIER: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The service manager, if there is one.
#[derive(Debug)]
pub struct Manager {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl Manager {
    /// Finds it in the environment.
    pub fn from_env() -> Option<Self> {
        let path = env::var_os("NOTIFY_SOCKET")?;
        Self::new(path.as_bytes())
            .map_err(|error| tracing::warn!("cannot use $NOTIFY_SOCKET: {error}"))
            .ok()
    }

    fn new(path: &[u8]) -> io::Result<Self> {
        let address = match path {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path => SocketAddrUnix::new(path)?,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        Ok(Self { socket, address })
    }

    /// Sends something like `READY=1`, with descriptors.
    ///
    /// # Errors
    ///
    /// If the service manager does not listen.
    pub fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut room);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::INVAL.into());
        }
        let text = [IoSlice::new(text.as_bytes())];
        loop {
            let flags = SendFlags::NOSIGNAL;
            match sendmsg_addr(&self.socket, &self.address, &text, &mut ancillary, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
                    if poll(&mut fds, Some(&BARRIER)) == Ok(0) {
                        return Err(Errno::TIMEDOUT.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until everything that was sent before has been read.
    ///
    /// # Errors
    ///
    /// If that takes too long.
    pub fn barrier(&self) -> io::Result<()> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        self.send("BARRIER=1", &[write.as_fd()])?;
        drop(write);
        let mut fds = [PollFd::new(&read, PollFlags::empty())];
        match poll(&mut fds, Some(&BARRIER))? {
            0 => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the service manager does not read what it is sent",
            )),
            _ => Ok(()),
        }
    }
}

/// How often the service manager wants to hear of us, if it does.
pub fn watchdog() -> Option<Duration> {
    let for_us = env::var("WATCHDOG_PID")
        .ok()
        .and_then(|pid| pid.parse().ok())
        .is_none_or(|pid: u32| pid == std::process::id());
    let micros = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    for_us.then(|| Duration::from_micros(micros) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn what_is_sent_arrives() {
        let dir = env::temp_dir().join(format!("luod-notify-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::new(path.as_os_str().as_bytes()).unwrap();
        let fd = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        manager.send("FDSTORE=1\nFDNAME=x", &[fd.as_fd()]).unwrap();
        let mut text = [0; 100];
        let length = socket.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"FDSTORE=1\nFDNAME=x");
        std::fs::remove_dir_all(&dir).unwrap();
        drop(socket);
        assert!(manager.send("READY=1", &[]).is_err());
    }
}
