// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device and its sessions.

use crate::ffi::{borrow, error, lend, run, string, EFAULT, ERANGE};
use liveupdate::{
    systemd::{kind, Kind},
    Device, IncomingSession, OutgoingSession, DEVICE_PATH,
};
use std::{
    ffi::{c_char, c_int, OsStr},
    os::{
        fd::{IntoRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

/// The maximum length of the name of a session in bytes, without the null byte.
pub const LIVEUPDATE_NAME_MAX: usize = 63;

const _: () = assert!(LIVEUPDATE_NAME_MAX == liveupdate::NAME_MAX);

/// The kind of a file descriptor, see liveupdate_session_kind().
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum liveupdate_kind {
    /// No session.
    LIVEUPDATE_NOT_A_SESSION = 0,
    /// To be filled, for the next kernel.
    LIVEUPDATE_OUTGOING = 1,
    /// From the previous kernel.
    LIVEUPDATE_INCOMING = 2,
}

/// Opens /dev/liveupdate, or @path if that is not NULL. -EBUSY if it is already
/// open: close it after creating or retrieving sessions. On machines with luod,
/// use liveupdate_join() instead.
#[no_mangle]
pub unsafe extern "C" fn liveupdate_open(path: *const c_char) -> c_int {
    run(|| {
        let device = if path.is_null() {
            Device::open_path(DEVICE_PATH)
        } else {
            // SAFETY: The caller promises that it is a string.
            Device::open_path(OsStr::from_bytes(unsafe { string(path) }?))
        };
        Ok(OwnedFd::from(device?).into_raw_fd())
    })
}

/// Creates a session. When its last descriptor is closed, the session ends and
/// its files are not handed over.
#[no_mangle]
pub unsafe extern "C" fn liveupdate_create_session(device: c_int, name: *const c_char) -> c_int {
    run(|| {
        // SAFETY: The caller promises that it is a string.
        let name = unsafe { string(name) }?;
        let session = lend::<Device>(device)?.create_session(name)?;
        Ok(OwnedFd::from(session).into_raw_fd())
    })
}

/// Retrieves a session that the previous kernel handed over.
#[no_mangle]
pub unsafe extern "C" fn liveupdate_retrieve_session(device: c_int, name: *const c_char) -> c_int {
    run(|| {
        // SAFETY: The caller promises that it is a string.
        let name = unsafe { string(name) }?;
        let session = lend::<Device>(device)?.retrieve_session(name)?;
        Ok(OwnedFd::from(session).into_raw_fd())
    })
}

/// Preserves @fd: in the next kernel it can be retrieved with @token.
#[no_mangle]
pub extern "C" fn liveupdate_preserve(session: c_int, fd: c_int, token: u64) -> c_int {
    run(|| {
        let file = borrow(fd)?;
        lend::<OutgoingSession>(session)?.preserve(file, token)?;
        Ok(0)
    })
}

/// Retrieves a file from an incoming session.
#[no_mangle]
pub extern "C" fn liveupdate_retrieve(session: c_int, token: u64) -> c_int {
    run(|| {
        let file = lend::<IncomingSession>(session)?.retrieve(token)?;
        Ok(file.into_raw_fd())
    })
}

/// Ends an incoming session; files that were not retrieved are lost. The caller
/// must close the descriptor. If this fails, it can be called again.
#[no_mangle]
pub extern "C" fn liveupdate_finish(session: c_int) -> c_int {
    run(|| {
        // `finish` consumes and closes the session: pass it a duplicate.
        let session = borrow(session)?.try_clone_to_owned()?;
        IncomingSession::from(session).finish()?;
        Ok(0)
    })
}

/// Writes the name of a session, with a null byte, to @name, a buffer of @size
/// bytes. -ERANGE if it does not fit.
#[no_mangle]
pub unsafe extern "C" fn liveupdate_session_name(
    session: c_int,
    name: *mut c_char,
    size: usize,
) -> c_int {
    run(|| {
        let text = lend::<IncomingSession>(session)?.name()?;
        if name.is_null() {
            return Err(error(EFAULT));
        }
        if text.len() >= size {
            return Err(error(ERANGE));
        }
        // SAFETY: The buffer has room for the name and the null byte, which was checked
        // before.
        unsafe {
            name.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
            name.add(text.len()).write(0);
        }
        Ok(0)
    })
}

/// Returns the kind of @fd: one of enum liveupdate_kind. Changes nothing.
#[no_mangle]
pub extern "C" fn liveupdate_session_kind(fd: c_int) -> c_int {
    run(|| {
        let kind = match kind(borrow(fd)?)? {
            None => liveupdate_kind::LIVEUPDATE_NOT_A_SESSION,
            Some(Kind::Outgoing) => liveupdate_kind::LIVEUPDATE_OUTGOING,
            Some(Kind::Incoming) => liveupdate_kind::LIVEUPDATE_INCOMING,
        };
        Ok(kind as c_int)
    })
}
