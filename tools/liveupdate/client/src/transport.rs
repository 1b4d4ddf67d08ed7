// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The transport of requests: to the running kernel by ioctl(2), or to an in-process fake kernel,
//! if the descriptor belongs to one and the library was built with the feature `fake`.

#[cfg(feature = "fake")]
pub(crate) mod fake;

use crate::raw::{self, Command};
use std::{io, os::fd::BorrowedFd};

/// Executes `command` on the file `fd`, after setting its size.
///
/// # Errors
///
/// All errors of the kernel.
pub(crate) fn call<C: Command + 'static>(fd: BorrowedFd<'_>, command: &mut C) -> io::Result<()> {
    #[cfg(feature = "fake")]
    if let Some(result) = fake::call(fd, command) {
        return result;
    }
    raw::call(fd, command)
}
