// SPDX-License-Identifier: GPL-2.0

//! The socket that luod listens at.

use rustix::fs::{chown, flock, FlockOperation, Gid};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        fs::{FileTypeExt, OpenOptionsExt, PermissionsExt},
        net::UnixListener,
    },
    path::Path,
};

/// A socket that listens, and what keeps others from taking its place.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    /// Locked as long as this luod is there.
    pub(super) _lock: Option<File>,
}

impl From<UnixListener> for Socket {
    /// A socket of the service manager, who makes it once.
    fn from(listener: UnixListener) -> Self {
        Self {
            listener,
            _lock: None,
        }
    }
}

/// Makes the socket that luod listens at. The lock of it is a file beside it, which stays there.
///
/// # Errors
///
/// `EADDRINUSE` if somebody listens there.
pub fn listen(path: &Path) -> io::Result<Socket> {
    let taken = || {
        io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another luod listens at {}", path.display()),
        )
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    // To connect tells whether somebody is there, but two that start together would both find
    // nobody, and the second would remove the socket of the first.
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(0o600);
    let lock = lock.open(path.with_extension("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| taken())?;
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(taken()),
            // It was left by one that is gone.
            Err(_) => fs::remove_file(path)?,
        }
    }
    let listener = UnixListener::bind(path)?;
    restrict(path, None)?;
    Ok(Socket {
        listener,
        _lock: Some(lock),
    })
}

/// Lets everybody connect, or, besides root, a group only. What they may do is decided by their
/// credentials in any case.
///
/// # Errors
///
/// If the socket is not ours, or without `CAP_CHOWN`.
pub fn restrict(path: &Path, group: Option<u32>) -> io::Result<()> {
    let mode = match group {
        Some(gid) => {
            chown(path, None, Some(Gid::from_raw(gid)))?;
            0o660
        }
        None => 0o666,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
