// SPDX-License-Identifier: GPL-2.0

//! What luod is doing, and for whom.

use crate::{word::words, Progress, SessionName};
use serde::{Deserialize, Serialize};

words! {
    /// What luod is doing.
    pub enum Phase {
        /// Nothing; an update can be started.
        Idle = "idle",
        /// There are sessions of the last update that are not finished.
        Restoring = "restoring",
        /// Clients put their files into sessions.
        Preserving = "preserving",
        /// All of them have done so, the registry is written.
        Frozen = "frozen",
        /// The next kernel is being started.
        Jump = "jump",
        /// luod could not find out yet whether the previous kernel handed something over. It tries
        /// again; until then, no update can be started.
        Unknown = "unknown",
    }
}

impl Phase {
    /// The phase for a program that speaks a version of the protocol, and may not know all of them.
    pub fn in_version(self, version: u32) -> Self {
        match self {
            Self::Unknown if version < 2 => Self::Restoring,
            phase => phase,
        }
    }

    /// Whether an update is under way in this kernel.
    pub fn is_update(self) -> bool {
        matches!(self, Self::Preserving | Self::Frozen | Self::Jump)
    }
}

words! {
    /// Which way a session goes.
    pub enum Direction {
        /// To the next kernel.
        Outgoing = "outgoing",
        /// From the previous kernel.
        Incoming = "incoming",
    }
}

words! {
    /// How far a session is.
    pub enum SessionState {
        /// Outgoing: a client has subscribed; the session is made when an update is.
        Subscribed = "subscribed",
        /// Outgoing: the client was told that an update begins.
        Requested = "requested",
        /// Outgoing: the client has the session and preserves its files.
        Preserving = "preserving",
        /// Outgoing: the client has preserved its files.
        Ready = "ready",
        /// Outgoing: left out of a forced update, since the client refused, failed or was too late.
        Dropped = "dropped",
        /// Incoming: nobody has claimed it.
        Unclaimed = "unclaimed",
        /// Incoming: a client has it.
        Claimed = "claimed",
        /// Incoming: somebody else has it, so that luod cannot retrieve it now.
        Elsewhere = "elsewhere",
        /// Incoming: it could not be retrieved from the kernel.
        Failed = "failed",
        /// Incoming: it is finished.
        Finished = "finished",
        /// Incoming: an operator or a forced update has ended it. What was in it is lost.
        Discarded = "discarded",
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
    /// Why no live update is possible, why the last one lost data, or what luod could not find
    /// out, if there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
