// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Conversions between the types of C and those of the library, and errors.

use liveupdate::{
    errno,
    luod::{ErrorCode, Refused},
};
use std::{
    cell::RefCell,
    ffi::{c_char, c_int, CStr, CString},
    io,
    mem::ManuallyDrop,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd},
    panic::{catch_unwind, AssertUnwindSafe},
};

const ENOENT: c_int = 2;
const EIO: c_int = 5;
const EBADF: c_int = 9;
const EACCES: c_int = 13;
pub(crate) const EFAULT: c_int = 14;
pub(crate) const EBUSY: c_int = 16;
const ENODEV: c_int = 19;
pub(crate) const EINVAL: c_int = 22;
const EMFILE: c_int = 24;
pub(crate) const ERANGE: c_int = 34;
const EPROTO: c_int = 71;
const ECONNRESET: c_int = 104;
const ETIMEDOUT: c_int = 110;
const ECONNREFUSED: c_int = 111;

thread_local! {
    /// The text that [`liveupdate_error`] returns.
    static MESSAGE: RefCell<CString> = RefCell::default();
}

/// Stores the text of an error.
fn store(text: &str) {
    let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
    MESSAGE.with(|message| message.replace(text));
}

/// Removes the text of the last error in this thread, and returns it.
pub(crate) fn take_message() -> String {
    let message = MESSAGE.with(|message| message.take());
    message.to_string_lossy().into_owned()
}

/// The number of an error. Errors of luod, and of this library, have none of their own.
fn number(error: &io::Error) -> c_int {
    if let Some(number) = errno(error) {
        return number;
    }
    match error.kind() {
        io::ErrorKind::TimedOut => return ETIMEDOUT,
        io::ErrorKind::NotFound => return ENOENT,
        io::ErrorKind::ConnectionRefused => return ECONNREFUSED,
        io::ErrorKind::UnexpectedEof => return ECONNRESET,
        _ => {}
    }
    match Refused::of(error).map(|refused| refused.code) {
        Some(ErrorCode::NotAllowed) => EACCES,
        Some(ErrorCode::InUse | ErrorCode::DeviceBusy | ErrorCode::UpdateRunning) => EBUSY,
        Some(ErrorCode::TooMany) => EMFILE,
        Some(ErrorCode::NoDevice) => ENODEV,
        Some(_) => EPROTO,
        None => EINVAL,
    }
}

/// Runs the body of a function. Does not let panics unwind into C.
pub(crate) fn run(body: impl FnOnce() -> io::Result<c_int>) -> c_int {
    take_message();
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            store(&error.to_string());
            -number(&error)
        }
        Err(_) => {
            store("liveupdate: internal error");
            -EIO
        }
    }
}

pub(crate) fn error(number: c_int) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// The bytes of a string of the caller.
///
/// # Safety
///
/// It must be null, or end with a null byte and not change for `'a`.
pub(crate) unsafe fn string<'a>(string: *const c_char) -> io::Result<&'a [u8]> {
    if string.is_null() {
        return Err(error(EFAULT));
    }
    // SAFETY: It is not null, and the caller guarantees the null byte and the lifetime.
    Ok(unsafe { CStr::from_ptr(string) }.to_bytes())
}

/// A descriptor of the caller, as a type of the library that would close it.
pub(crate) fn lend<T: From<OwnedFd>>(fd: c_int) -> io::Result<ManuallyDrop<T>> {
    if fd < 0 {
        return Err(error(EBADF));
    }
    // SAFETY: It is never closed here. The caller must pass an open descriptor; otherwise
    // calls on it fail, as for every function of C.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(ManuallyDrop::new(T::from(owned)))
}

/// A descriptor of the caller.
pub(crate) fn borrow<'a>(fd: c_int) -> io::Result<BorrowedFd<'a>> {
    if fd < 0 {
        return Err(error(EBADF));
    }
    // SAFETY: The caller must pass an open descriptor; otherwise calls on it fail.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// The last error in this thread, as a sentence; "" if there was none. Valid
/// until the next call of a function of this library in this thread.
#[no_mangle]
pub extern "C" fn liveupdate_error() -> *const c_char {
    MESSAGE.with(|message| message.borrow().as_ptr())
}
