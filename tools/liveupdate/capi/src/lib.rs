// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The client library for C: `include/liveupdate.h` documents the functions.
//!
//! They borrow the descriptors of the caller and return new ones, as is usual in C.

use liveupdate::{
    errno,
    systemd::{kind, Kind},
    Device, IncomingSession, OutgoingSession, DEVICE_PATH,
};
use std::{
    cell::RefCell,
    ffi::{c_char, c_int, CStr, CString, OsStr},
    io,
    mem::ManuallyDrop,
    os::{
        fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    panic::{catch_unwind, AssertUnwindSafe},
};

const EBADF: c_int = 9;
const EFAULT: c_int = 14;
const EINVAL: c_int = 22;
const EIO: c_int = 5;
const ERANGE: c_int = 34;

thread_local! {
    /// The text that [`liveupdate_error`] returns.
    static MESSAGE: RefCell<CString> = RefCell::default();
}

/// Stores an error; returns the value for the caller to return.
fn failed(number: c_int, text: &str) -> c_int {
    let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
    MESSAGE.with(|message| message.replace(text));
    -number
}

/// Runs the body of a function. Does not let panics unwind into C.
fn run(body: impl FnOnce() -> io::Result<c_int>) -> c_int {
    MESSAGE.with(|message| message.take());
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => failed(errno(&error).unwrap_or(EINVAL), &error.to_string()),
        Err(_) => failed(EIO, "liveupdate: internal error"),
    }
}

fn error(number: c_int) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// The bytes of a string of the caller.
///
/// # Safety
///
/// It must be null, or end with a null byte and not change for `'a`.
unsafe fn string<'a>(string: *const c_char) -> io::Result<&'a [u8]> {
    if string.is_null() {
        return Err(error(EFAULT));
    }
    // SAFETY: It is not null, and the caller guarantees the null byte and the lifetime.
    Ok(unsafe { CStr::from_ptr(string) }.to_bytes())
}

/// A descriptor of the caller, as a type of the library that would close it.
fn lend<T: From<OwnedFd>>(fd: c_int) -> io::Result<ManuallyDrop<T>> {
    if fd < 0 {
        return Err(error(EBADF));
    }
    // SAFETY: It is never closed here. The caller must pass an open descriptor; otherwise
    // calls on it fail, as for every function of C.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(ManuallyDrop::new(T::from(owned)))
}

/// A descriptor of the caller.
fn borrow<'a>(fd: c_int) -> io::Result<BorrowedFd<'a>> {
    if fd < 0 {
        return Err(error(EBADF));
    }
    // SAFETY: The caller must pass an open descriptor; otherwise calls on it fail.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// See `liveupdate.h`.
///
/// # Safety
///
/// `path` must be null or a string.
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

/// See `liveupdate.h`.
///
/// # Safety
///
/// `name` must be null or a string.
#[no_mangle]
pub unsafe extern "C" fn liveupdate_create_session(device: c_int, name: *const c_char) -> c_int {
    run(|| {
        // SAFETY: The caller promises that it is a string.
        let name = unsafe { string(name) }?;
        let session = lend::<Device>(device)?.create_session(name)?;
        Ok(OwnedFd::from(session).into_raw_fd())
    })
}

/// See `liveupdate.h`.
///
/// # Safety
///
/// `name` must be null or a string.
#[no_mangle]
pub unsafe extern "C" fn liveupdate_retrieve_session(device: c_int, name: *const c_char) -> c_int {
    run(|| {
        // SAFETY: The caller promises that it is a string.
        let name = unsafe { string(name) }?;
        let session = lend::<Device>(device)?.retrieve_session(name)?;
        Ok(OwnedFd::from(session).into_raw_fd())
    })
}

/// See `liveupdate.h`.
#[no_mangle]
pub extern "C" fn liveupdate_preserve(session: c_int, fd: c_int, token: u64) -> c_int {
    run(|| {
        let file = borrow(fd)?;
        lend::<OutgoingSession>(session)?.preserve(file, token)?;
        Ok(0)
    })
}

/// See `liveupdate.h`.
#[no_mangle]
pub extern "C" fn liveupdate_retrieve(session: c_int, token: u64) -> c_int {
    run(|| {
        let file = lend::<IncomingSession>(session)?.retrieve(token)?;
        Ok(file.into_raw_fd())
    })
}

/// See `liveupdate.h`.
#[no_mangle]
pub extern "C" fn liveupdate_finish(session: c_int) -> c_int {
    run(|| {
        // `finish` consumes and closes the session: pass it a duplicate.
        let session = borrow(session)?.try_clone_to_owned()?;
        IncomingSession::from(session).finish()?;
        Ok(0)
    })
}

/// See `liveupdate.h`.
///
/// # Safety
///
/// `name` must be null or have room for `size` bytes.
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

/// See `liveupdate.h`.
#[no_mangle]
pub extern "C" fn liveupdate_session_kind(fd: c_int) -> c_int {
    run(|| {
        Ok(match kind(borrow(fd)?)? {
            None => 0,
            Some(Kind::Outgoing) => 1,
            Some(Kind::Incoming) => 2,
        })
    })
}

/// See `liveupdate.h`.
#[no_mangle]
pub extern "C" fn liveupdate_error() -> *const c_char {
    MESSAGE.with(|message| message.borrow().as_ptr())
}
