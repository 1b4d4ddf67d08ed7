// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The status of luod and its sessions.

use crate::{word::words, Progress, SessionName};
use serde::{Deserialize, Serialize};

words! {
    /// The phase of luod.
    pub enum Phase {
        /// Idle; an update can be started.
        Idle = "idle",
        /// There are unfinished sessions of the last update.
        Restoring = "restoring",
        /// Clients preserve their files in sessions.
        Preserving = "preserving",
        /// All clients are ready, and the registry is written.
        Frozen = "frozen",
        /// The next kernel is being started.
        Jump = "jump",
        /// luod has not read the sessions of the previous kernel yet. It tries again; until then,
        /// no update can be started.
        Unknown = "unknown",
    }
}

impl Phase {
    /// The phase for a program with a version of the protocol that may not support all phases.
    pub fn in_version(self, version: u32) -> Self {
        match self {
            Self::Unknown if version < 2 => Self::Restoring,
            phase => phase,
        }
    }

    /// Returns whether an update is running in this kernel.
    pub fn is_update(self) -> bool {
        matches!(self, Self::Preserving | Self::Frozen | Self::Jump)
    }
}

words! {
    /// The direction of a session.
    pub enum Direction {
        /// To the next kernel.
        Outgoing = "outgoing",
        /// From the previous kernel.
        Incoming = "incoming",
    }
}

words! {
    /// The state of a session.
    pub enum SessionState {
        /// Outgoing: a client has subscribed; the session is created in the next update.
        Subscribed = "subscribed",
        /// Outgoing: the client was told that an update begins.
        Requested = "requested",
        /// Outgoing: the client has the session and preserves its files.
        Preserving = "preserving",
        /// Outgoing: the client has preserved its files.
        Ready = "ready",
        /// Outgoing: a forced update has continued without it, since the client refused, failed or
        /// was late.
        Dropped = "dropped",
        /// Incoming: not claimed.
        Unclaimed = "unclaimed",
        /// Incoming: a client has claimed it.
        Claimed = "claimed",
        /// Incoming: another process has it open, so that luod cannot retrieve it now.
        Elsewhere = "elsewhere",
        /// Incoming: it could not be retrieved from the kernel.
        Failed = "failed",
        /// Incoming: it is finished.
        Finished = "finished",
        /// Incoming: an operator or a forced update has discarded it. Its contents are lost.
        Discarded = "discarded",
    }
}

/// A session of luod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its name.
    pub session: SessionName,
    /// Its direction. There can be two sessions of the same name, one for each direction.
    pub direction: Direction,
    /// Its state.
    pub state: SessionState,
    /// The name of the client, if it has sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The process of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The user of that process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The time in this state, in milliseconds.
    pub since_ms: u64,
    /// The time left for the client, in milliseconds, if it has a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// The last reported progress of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The size of the preserved files in bytes, if the client has reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The error, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl SessionInfo {
    /// A session in a new state.
    pub fn new(session: SessionName, direction: Direction, state: SessionState) -> Self {
        Self {
            session,
            direction,
            state,
            client: None,
            pid: None,
            uid: None,
            since_ms: 0,
            left_ms: None,
            progress: None,
            bytes: None,
            error: None,
        }
    }
}

/// A program that keeps updates from starting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Inhibitor {
    /// The reason, for display.
    pub why: String,
    /// The name of the client, if it has sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Its process.
    pub pid: i32,
    /// The user of that process.
    pub uid: u32,
}

impl Inhibitor {
    /// The process `pid` of the user `uid`, and its reason.
    pub fn new(why: String, pid: i32, uid: u32) -> Self {
        Self {
            why,
            client: None,
            pid,
            uid,
        }
    }
}

/// The status of luod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The phase of luod.
    pub phase: Phase,
    /// The number of the running update, or of the last one; 0 if there was none. Continues after
    /// live updates.
    pub update: u64,
    /// Whether the running update is a dry run.
    #[serde(default)]
    pub dry_run: bool,
    /// The number of connections, including the requesting one.
    pub connections: u64,
    /// The number of subscribed sessions.
    pub subscribed: u64,
    /// The number of ready sessions.
    pub ready: u64,
    /// The number of unfinished sessions of the last update.
    pub incoming: u64,
    /// The number of unclaimed ones among these.
    pub unclaimed: u64,
    /// Whether a kernel is loaded. [`None`] if this is not known.
    pub image_loaded: Option<bool>,
    /// The release of the running kernel, as in `uname -r`.
    pub kernel: String,
    /// The version of luod.
    pub luod: String,
    /// Programs that keep updates from starting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inhibitors: Vec<Inhibitor>,
    /// Why no live update is possible, why the last one lost data, or why luod cannot read its
    /// sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Status {
    /// The status of a luod with the version `luod` on the kernel `kernel` that has done nothing yet.
    pub fn new(phase: Phase, kernel: String, luod: String) -> Self {
        Self {
            phase,
            update: 0,
            dry_run: false,
            connections: 0,
            subscribed: 0,
            ready: 0,
            incoming: 0,
            unclaimed: 0,
            image_loaded: None,
            kernel,
            luod,
            inhibitors: Vec::new(),
            problem: None,
        }
    }
}
