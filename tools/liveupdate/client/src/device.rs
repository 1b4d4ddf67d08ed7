// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device with which sessions are created and retrieved.

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

/// The usual path of the device.
pub const DEVICE_PATH: &str = "/dev/liveupdate";

/// An open `/dev/liveupdate`.
///
/// The device can be open only once at a time, and a service manager may need it as well: open it,
/// create or retrieve sessions, and drop it. Sessions stay open.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Opens [`DEVICE_PATH`].
    ///
    /// # Errors
    ///
    /// `EBUSY` if the device is already open, `ENOENT` if the kernel was started without
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

    /// Creates a session to be handed over.
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
    /// `ENOENT` if there is no such session, `EBUSY` if it is open;
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
    /// Uses an existing descriptor of the device.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Device> for OwnedFd {
    fn from(device: Device) -> Self {
        device.0
    }
}
