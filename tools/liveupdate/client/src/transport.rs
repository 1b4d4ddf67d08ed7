// SPDX-License-Identifier: GPL-2.0

//! How requests get to a kernel: to the one that is running, by ioctl(2), or to an in-process fake
//! one, if the descriptor is of one and the library was built with the feature `fake`.

#[cfg(feature = "fake")]
pub(crate) mod fake;

use crate::raw::{self, Command};
use std::{io, os::fd::BorrowedFd};

/// Does what `command` asks for with the file `fd`, after setting its size.
///
/// # Errors
///
/// Whatever the kernel returns.
pub(crate) fn call<C: Command + 'static>(fd: BorrowedFd<'_>, command: &mut C) -> io::Result<()> {
    #[cfg(feature = "fake")]
    if let Some(result) = fake::call(fd, command) {
        return result;
    }
    raw::call(fd, command)
}
