// SPDX-License-Identifier: GPL-2.0

//! luod coordinates live updates.
//!
//! - [`machine`] makes the decisions: the result of a request, the action at a deadline, the
//!   state for the next kernel. It neither reads nor writes a socket.
//! - [`server`] owns the sockets, and passes events to the machine.
//! - [`world`] is the interface to the system that luod runs on; [`system`] is the real one.
//! - [`registry`] is the data that luod hands over to luod in the next kernel.
//! - [`audit`] has the identifiers of the events of the audit trail.
//! - [`hooks`] runs programs of the administrator before and after an update.
//! - `command` runs commands that answer a question.
//! - [`config`] has the permissions, [`cli`] the command line.

pub mod audit;
pub mod cli;
mod command;
pub mod config;
#[cfg(feature = "fake")]
pub mod fake;
pub mod hooks;
pub mod logging;
pub mod machine;
pub mod registry;
pub mod server;
pub mod system;
mod text;
pub mod world;
