// SPDX-License-Identifier: GPL-2.0

//! Sessions: named sets of files with a file descriptor of their own.
//!
//! Outgoing and incoming sessions are different types with different file operations: a file
//! cannot be preserved in an incoming session, or retrieved from an outgoing session.

pub(crate) mod carry_over;
pub(crate) mod incoming;
pub(crate) mod outgoing;

use crate::{
    abi::Name,
    ioctl::{
        GetName,
        UserArg, //
    },
};
use kernel::{
    fmt,
    fs::{
        file::{
            flags,
            FileDescriptorReservation, //
        },
        File, //
    },
    prelude::*,
    str::BStr,
    sync::aref::ARef, //
};
use zerocopy_derive::{
    Immutable,
    IntoBytes, //
};

/// A session's name, for messages.
pub(crate) fn display(name: &Name) -> &BStr {
    name.as_ref()
}

/// The name after `anon_inode:` in the link of a session's file descriptor in `/proc/PID/fd`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Link {
    prefix: [u8; 14],
    name: [u8; Name::LEN],
}

impl Link {
    fn new(name: &Name) -> Self {
        Self {
            prefix: *b"[luo_session] ",
            // The name is part of the user space interface, and therefore not escaped.
            name: *name.field(),
        }
    }

    fn as_c_str(&self) -> Result<&CStr> {
        // A name is null-terminated.
        CStr::from_bytes_until_nul(self.as_bytes()).map_err(|_| EINVAL)
    }
}

/// Creates a file descriptor for the file that `open` returns.
///
/// The number is written to user space before the descriptor is installed. If this fails, the
/// file is closed, which undoes `open`.
pub(crate) fn install(
    open: impl FnOnce() -> Result<ARef<File>>,
    respond: impl FnOnce(i32) -> Result,
) -> Result<isize> {
    let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
    let number = fd.reserved_fd().try_into()?;
    let file = open()?;
    respond(number)?;
    fd.fd_install(file);
    Ok(0)
}

/// The common part of `LIVEUPDATE_SESSION_GET_NAME` of all sessions.
fn get_name(name: &Name, arg: usize) -> Result<isize> {
    let (arg, mut command) = UserArg::read::<GetName>(arg)?;
    if command.reserved != 0 {
        return Err(EINVAL);
    }
    command.name = *name.field();
    arg.respond(&command)?;
    Ok(0)
}

/// The report about a session.
///
/// Written as a line of `key:\tvalue` pairs for the session and one for each file.
struct Report<'a> {
    name: &'a Name,
    direction: &'static str,
    state: &'static str,
    files: u64,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "luo-session:\t{}",
            kernel::fmt::Adapter(display(self.name))
        )?;
        writeln!(f, "luo-direction:\t{}", self.direction)?;
        writeln!(f, "luo-state:\t{}", self.state)?;
        writeln!(f, "luo-files:\t{}", self.files)
    }
}

/// The report about a file.
struct FileReport<'a> {
    token: u64,
    handler: &'a BStr,
    state: &'static str,
    error: Option<Error>,
}

impl fmt::Display for FileReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "luo-file:\ttoken {} handler {} state {}",
            self.token,
            kernel::fmt::Adapter(self.handler),
            self.state
        )?;
        if let Some(err) = self.error {
            write!(f, " error {}", err.to_errno())?;
        }
        writeln!(f)
    }
}
