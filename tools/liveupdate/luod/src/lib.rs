// SPDX-License-Identifier: GPL-2.0

//! luod conducts live updates.
//!
//! - [`machine`] decides: what a request leads to, what happens at a deadline, what is kept for
//!   the next kernel. It neither reads nor writes a socket.
//! - [`server`] has the sockets, and tells the machine what happens.
//! - [`world`] is what luod needs of the machine that it runs on; [`system`] is the real one.
//! - [`registry`] is what luod hands over to the luod in the next kernel.
//! - [`audit`] has the names of the events that say who did what.
//! - [`config`] says who may do what, [`cli`] is the command line.

pub mod audit;
pub mod cli;
pub mod config;
#[cfg(feature = "fake")]
pub mod fake;
pub mod logging;
pub mod machine;
pub mod registry;
pub mod server;
pub mod system;
pub mod world;
