// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Clients of `luod`.
//!
//! A program implements its part of a live update as a [`Participant`]. A [`Member`] implements
//! the protocol: it claims the sessions of the previous kernel, subscribes for the next update,
//! calls the participant when luod asks for it or when an update is aborted, and connects again
//! when luod was restarted.
//!
//! ```no_run
//! use liveupdate::luod::{Member, Participant, Result, SessionName};
//! use liveupdate::{IncomingSession, OutgoingSession};
//! use std::fs::File;
//!
//! struct Cache {
//!     memory: File,
//! }
//!
//! impl Participant for Cache {
//!     fn preserve(&mut self, _: &SessionName, session: &OutgoingSession) -> Result {
//!         // Stop changing the memory first, if a half-made change would be a problem.
//!         Ok(session.preserve(&self.memory, 1)?)
//!     }
//!
//!     fn cancelled(&mut self, _: &SessionName, reason: &str) {
//!         eprintln!("no update: {reason}");
//!     }
//!
//!     fn restore(&mut self, _: &SessionName, session: &IncomingSession) -> Result {
//!         self.memory = session.retrieve(1)?.into();
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let cache = Cache { memory: File::open("/dev/zero")? };
//! let mut member = Member::join("cache", &["cache"], cache)?;
//! member.run()
//! # }
//! ```
//!
//! Programs with an event loop of their own poll [`Member::poll_fd`] and call [`Member::step`];
//! programs that need full control use a [`Client`], or an `AsyncClient` on tokio (feature `tokio`).
//!
//! To test such a program, connect it to a luod on a fake machine: see `luod::fake` in the
//! crate `luod`.

mod answer;
#[cfg(feature = "tokio")]
mod async_client;
mod client;
mod member;
mod participant;
#[cfg(all(test, feature = "fake"))]
mod tests;

pub use answer::{Notice, Refused};
#[cfg(feature = "tokio")]
pub use async_client::AsyncClient;
pub use client::Client;
pub use luod_protocol::{ErrorCode, Progress, SessionName, SOCKET_PATH};
pub use member::Member;
pub use participant::{Participant, Result};
