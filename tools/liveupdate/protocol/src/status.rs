// SPDX-License-Identifier: GPL-2.0

//! What luod is doing, and for whom.

use crate::{Progress, SessionName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What luod is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing; an update can be started.
    Idle,
    /// There are sessions of the last update that are not finished.
    Restoring,
    /// Clients put their files into sessions.
    Preserving,
    /// All of them have done so, the registry is written.
    Frozen,
    /// The next kernel is being started.
    Jump,
}

impl Phase {
    /// Returns the phase as it is in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Restoring => "restoring",
            Self::Preserving => "preserving",
            Self::Frozen => "frozen",
            Self::Jump => "jump",
        }
    }

    /// Whether an update is under way in this kernel.
    pub fn is_update(self) -> bool {
        matches!(self, Self::Preserving | Self::Frozen | Self::Jump)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which way a session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the next kernel.
    Outgoing,
    /// From the previous kernel.
    Incoming,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// Outgoing: a client has subscribed; the session is made when an update is.
    Subscribed,
    /// Outgoing: the client was told that an update begins.
    Requested,
    /// Outgoing: the client has the session and preserves its files.
    Preserving,
    /// Outgoing: the client has preserved its files.
    Ready,
    /// Outgoing: left out of a forced update, since the client refused, failed or was too late.
    Dropped,
    /// Incoming: nobody has claimed it.
    Unclaimed,
    /// Incoming: a client has it.
    Claimed,
    /// Incoming: somebody else has it, so that luod cannot retrieve it now.
    Elsewhere,
    /// Incoming: it could not be retrieved from the kernel.
    Failed,
    /// Incoming: it is finished.
    Finished,
}

impl SessionState {
    /// Returns the state as it is in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subscribed => "subscribed",
            Self::Requested => "requested",
            Self::Preserving => "preserving",
            Self::Ready => "ready",
            Self::Dropped => "dropped",
            Self::Unclaimed => "unclaimed",
            Self::Claimed => "claimed",
            Self::Elsewhere => "elsewhere",
            Self::Failed => "failed",
            Self::Finished => "finished",
        }
    }

    /// Which way a session in this state goes.
    pub fn direction(self) -> Direction {
        match self {
            Self::Subscribed | Self::Requested | Self::Preserving | Self::Ready | Self::Dropped => {
                Direction::Outgoing
            }
            Self::Unclaimed | Self::Claimed | Self::Elsewhere | Self::Failed | Self::Finished => {
                Direction::Incoming
            }
        }
    }
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One session that luod knows of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its name.
    pub session: SessionName,
    /// Which way it goes. The same name can be there once for either.
    pub direction: Direction,
    /// How far it is.
    pub state: SessionState,
    /// How the client calls itself, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The process that is connected for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The user of that process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// For how long it has been in this state, in milliseconds.
    pub since_ms: u64,
    /// How long the client has got left, in milliseconds, if it has a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// What the client said last about how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What went wrong, if something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// luod at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What luod is doing.
    pub phase: Phase,
    /// The update that is under way, or else the last one; 0 if there was none. Counts on through
    /// live updates.
    pub update: u64,
    /// Whether the update that is under way only tries whether it would work.
    #[serde(default)]
    pub dry_run: bool,
    /// How many connections there are, the asking one included.
    pub connections: u64,
    /// How many sessions clients have subscribed.
    pub subscribed: u64,
    /// How many of them are ready.
    pub ready: u64,
    /// How many sessions of the last update are not finished yet.
    pub incoming: u64,
    /// How many of those nobody has claimed.
    pub unclaimed: u64,
    /// Whether a kernel is loaded. [`None`] if that could not be found out.
    pub image_loaded: Option<bool>,
    /// The release of the running kernel, as `uname -r` has it.
    pub kernel: String,
    /// The version of luod.
    pub luod: String,
    /// Why no live update is possible, or why the last one lost data, if luod knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
