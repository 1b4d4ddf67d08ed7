// SPDX-License-Identifier: GPL-2.0

//! The protocol of `luod`, the daemon that conducts live updates.
//!
//! Clients and operators talk to luod over a UNIX stream socket, [`SOCKET_PATH`], in lines of
//! JSON. A [`Request`] goes to luod, an [`Event`] comes from it; file descriptors go along with
//! the line that announces them. `Documentation/userspace-api/liveupdate-luod-protocol.rst` says
//! what is sent when.
//!
//! - [`Request`], [`Event`] and what is in them: the messages;
//! - [`Decoder`] and [`Outbox`]: lines from bytes and back, for programs that must not block;
//! - [`Channel`]: the same for programs that may.
//!
//! Nothing here decides anything: that is up to luod and its clients.

mod channel;
mod framing;
mod message;
mod name;
mod report;
mod status;
mod word;

pub use crate::{
    channel::Channel,
    framing::{encode, Decoder, Frame, FrameError, Outbox, OutboxFull, Receive},
    message::{ErrorCode, Event, Message, ParseError, Progress, Request},
    name::{NameError, SessionName, RESERVED_NAMES},
    report::{Mark, MarkName, Outcome, Report, SessionReport, Stamp},
    status::{Direction, Phase, SessionInfo, SessionState, Status},
    word::Word,
};

/// The version of the protocol that this library speaks.
///
/// It grows when something is added that the other side has to know about. Programs ignore fields
/// and events that they do not know, so that most additions do not need that.
///
/// Since version 2, they keep values that they do not know, too, such as phases and states:
/// [`Word`]. To programs that speak version 1, luod says none but those that there were then.
pub const VERSION: u32 = 2;

/// Where luod listens unless it is told something else.
pub const SOCKET_PATH: &str = "/run/luod/liveupdate.sock";

/// How long a line can be, in bytes, with the newline.
///
/// A line that luod receives and that is longer ends the connection.
pub const LINE_MAX: usize = 16 * 1024;

/// How long a line from luod can be, in bytes: answers list all sessions.
pub const REPLY_MAX: usize = 4 * 1024 * 1024;

/// How many descriptors can go along with one line.
pub const FDS_MAX: usize = 8;
