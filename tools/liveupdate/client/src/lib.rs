// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Client library for the Live Update Orchestrator.
//!
//! A *live update* replaces the running kernel by kexec and preserves files, such as the memory of
//! a virtual machine or the contents of a cache. A program preserves files in a *session*, each
//! with a number of its choice, the *token*:
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! # let memfd = std::fs::File::open("/dev/null")?;
//! let session = liveupdate::Device::open()?.create_session("cache")?;
//! session.preserve(&memfd, 1)?;
//! // Keep `session` open until the new kernel is started: closing it unpreserves its files.
//! # Ok(())
//! # }
//! ```
//!
//! and retrieves them in the next kernel:
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! let session = liveupdate::Device::open()?.retrieve_session("cache")?;
//! let memfd = session.retrieve(1)?;
//! // If the session is closed without this, it can be retrieved again.
//! session.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! Outgoing and incoming sessions are different types: files can only be preserved in the former,
//! and only be retrieved from the latter.
//!
//! Programs on machines with `luod` do not open the device, but are clients of luod: see [`luod`].
//!
//! # Errors
//!
//! All functions return [`std::io::Error`]s that name the operation. They wrap the error of the
//! kernel; [`errno`] returns it. `Documentation/userspace-api/liveupdate-errno.rst` lists the
//! errors of the kernel.

mod device;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod luod;
mod memory;
pub mod raw;
mod session;
pub mod systemd;
mod transport;

pub use crate::{
    device::{Device, DEVICE_PATH},
    error::errno,
    memory::{collapse, Collapsed},
    raw::{Policy, Token},
    session::{FinishError, IncomingSession, OutgoingSession, NAME_MAX},
};
