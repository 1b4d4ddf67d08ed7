// SPDX-License-Identifier: GPL-2.0

//! Client library for the Live Update Orchestrator.
//!
//! A *live update* replaces the running kernel by kexec while files, such as the memory of a
//! virtual machine or the contents of a cache, stay where they are. Who wants to keep files puts
//! them into a *session*, under a number of his own choice, the *token*:
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! # let memfd = std::fs::File::open("/dev/null")?;
//! let session = liveupdate::Device::open()?.create_session("cache")?;
//! session.preserve(&memfd, 1)?;
//! // Keep `session` open until the new kernel is started: closing it takes everything back.
//! # Ok(())
//! # }
//! ```
//!
//! and takes them out again in the next kernel:
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! let session = liveupdate::Device::open()?.retrieve_session("cache")?;
//! let memfd = session.retrieve(1)?;
//! // Closing the session without this leaves everything retrievable, for another try.
//! session.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! Outgoing and incoming sessions are different types, since the kernel treats them as different
//! things: one can only be filled, the other only be emptied.
//!
//! Programs on machines where `luod` conducts live updates do not open the device, but take part in
//! what luod does: see [`luod`].
//!
//! # Errors
//!
//! All functions return [`std::io::Error`]s that say what was attempted. They wrap the error of
//! the kernel; [`errno`] gets at it. Which errors the kernel reports, and when, is in
//! `Documentation/userspace-api/liveupdate-errno.rst`.

mod device;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod luod;
pub mod raw;
mod session;
pub mod systemd;
mod transport;

pub use crate::{
    device::{Device, DEVICE_PATH},
    error::errno,
    raw::{Policy, Token},
    session::{FinishError, IncomingSession, OutgoingSession, NAME_MAX},
};
