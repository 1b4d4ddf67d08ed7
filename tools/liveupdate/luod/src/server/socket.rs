// SPDX-License-Identifier: GPL-2.0

//! The socket of luod.

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

/// A listening socket, and the lock that prevents another luod from replacing it.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    /// Locked as long as this luod runs.
    pub(super) _lock: Option<File>,
}

impl From<UnixListener> for Socket {
    /// A socket that the service manager has created.
    fn from(listener: UnixListener) -> Self {
        Self {
            listener,
            _lock: None,
        }
    }
}

/// Creates the socket of luod. Its lock is a file in the same directory, which is not removed.
///
/// # Errors
///
/// `EADDRINUSE` if another process listens there.
pub fn listen(path: &Path) -> io::Result<Socket> {
    let taken = || {
        io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another luod listens on {}", path.display()),
        )
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    // A connect would show whether another luod listens, but of two that start at the same
    // time, the second could remove the socket of the first.
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(0o600);
    let lock = lock.open(path.with_extension("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| taken())?;
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(taken()),
            // It is a remainder of a luod that has ended.
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

/// Permits all users to connect, or only root and a group. Requests are checked by credentials
/// in any case.
///
/// # Errors
///
/// If the socket has another owner, or without `CAP_CHOWN`.
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
