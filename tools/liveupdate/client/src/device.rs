// SPDX-License-Identifier: GPL-2.0

//! The device that sessions come from.

use crate::{
    error::Context,
    raw::{self, take_fd},
    session::{IncomingSession, Name, OutgoingSession},
    transport,
};
use rustix::fs::{Mode, OFlags};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Where the device usually is.
pub const DEVICE_PATH: &str = "/dev/liveupdate";

/// `/dev/liveupdate`, opened.
///
/// Only one file of the device can be open at a time, and a service manager may want it, too: open
/// it, create or retrieve sessions, and drop it again. Sessions outlive it.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Opens [`DEVICE_PATH`].
    ///
    /// # Errors
    ///
    /// `EBUSY` if somebody has the device open, `ENOENT` if the kernel was started without
    /// `liveupdate=on`.
    pub fn open() -> io::Result<Self> {
        Self::open_path(DEVICE_PATH)
    }

    /// Opens the device at `path`.
    ///
    /// # Errors
    ///
    /// See [`Self::open`].
    pub fn open_path(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map(Self)
            .context(|| format!("open {}", path.display()))
    }

    /// Creates a session that the next kernel will get.
    ///
    /// # Errors
    ///
    /// `EEXIST` if there is such a session; [`io::ErrorKind::InvalidInput`] if `name` is empty,
    /// longer than [`NAME_MAX`](crate::NAME_MAX) bytes, or contains a null byte.
    pub fn create_session(&self, name: impl AsRef<[u8]>) -> io::Result<OutgoingSession> {
        let name = Name::new(name.as_ref())?;
        let mut command = raw::CreateSession {
            size: 0,
            fd: -1,
            name: name.field(),
        };
        transport::call(self.as_fd(), &mut command)
            .map(|()| OutgoingSession::from(take_fd(command.fd)))
            .context(|| format!("create the session '{name}'"))
    }

    /// Retrieves a session that the previous kernel handed over.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such session, `EBUSY` if somebody has it already;
    /// [`io::ErrorKind::InvalidInput`] as for [`Self::create_session`].
    pub fn retrieve_session(&self, name: impl AsRef<[u8]>) -> io::Result<IncomingSession> {
        let name = Name::new(name.as_ref())?;
        let mut command = raw::RetrieveSession {
            size: 0,
            fd: -1,
            name: name.field(),
        };
        transport::call(self.as_fd(), &mut command)
            .map(|()| IncomingSession::from(take_fd(command.fd)))
            .context(|| format!("retrieve the session '{name}'"))
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Device {
    /// Uses a descriptor of the device that came from elsewhere.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Device> for OwnedFd {
    fn from(device: Device) -> Self {
        device.0
    }
}
