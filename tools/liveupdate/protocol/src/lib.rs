// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The protocol of `luod`, the live update daemon.
//!
//! Clients and operators connect to luod by a UNIX stream socket, [`SOCKET_PATH`], and exchange
//! lines of JSON. Clients send a [`Request`], luod sends an [`Event`]; file descriptors are sent
//! with their line. `Documentation/userspace-api/liveupdate-luod-protocol.rst` describes the
//! protocol.
//!
//! - [`Request`], [`Event`] and their fields: the messages;
//! - [`Decoder`] and [`Outbox`]: conversion of lines, for programs that must not block;
//! - [`Channel`]: a connection for programs that may block.
//!
//! This crate contains no policy of luod or its clients.

mod channel;
mod framing;
mod history;
mod message;
mod name;
mod report;
mod status;
mod word;

pub use crate::{
    channel::Channel,
    framing::{encode, Decoder, Frame, FrameError, Outbox, OutboxFull, Receive},
    history::{History, PastUpdate, Totals},
    message::{ErrorCode, Event, Message, ParseError, Progress, Request},
    name::{NameError, SessionName, RESERVED_NAMES},
    report::{Mark, MarkName, Outcome, Report, SessionReport, Stamp},
    status::{Direction, Inhibitor, Phase, SessionInfo, SessionState, Status},
    word::Word,
};

/// The version of the protocol that this library implements.
///
/// It is increased by additions that the other side must support. Programs ignore unknown fields
/// and events, so that most additions do not need a new version.
///
/// Since version 2, programs also keep unknown values, such as phases and states: [`Word`]. To
/// programs of version 1, luod sends only the values of that version.
pub const VERSION: u32 = 4;

/// The default socket of luod.
pub const SOCKET_PATH: &str = "/run/luod/liveupdate.sock";

/// The maximum length of a line, in bytes, with the newline.
///
/// luod closes the connection if it receives a longer line.
pub const LINE_MAX: usize = 16 * 1024;

/// The maximum length of a line from luod, in bytes: answers list all sessions.
pub const REPLY_MAX: usize = 4 * 1024 * 1024;

/// The maximum number of descriptors of a line.
pub const FDS_MAX: usize = 8;
