// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The timeline of an update.

use crate::{word::words, SessionName, SessionState};
use serde::{Deserialize, Serialize};

/// A point in time, by several clocks.
///
/// Only two of them can be compared across a live update: `realtime_us`, which the next kernel
/// often sets from a hardware clock with a resolution of a second, and `tsc`, the time-stamp
/// counter of the processor, which continues during a kexec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// `CLOCK_REALTIME`, in microseconds.
    pub realtime_us: u64,
    /// `CLOCK_MONOTONIC`, in microseconds.
    pub monotonic_us: u64,
    /// The time-stamp counter, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tsc: Option<u64>,
}

words! {
    /// The event of a [`Mark`].
    pub enum MarkName {
        /// The operator asked for the update.
        Requested = "requested",
        /// The clients have received their sessions.
        Started = "started",
        /// All clients are ready.
        Ready = "ready",
        /// The registry is preserved; all steps before the jump are done.
        Frozen = "frozen",
        /// luod starts the next kernel. The last mark in the old kernel.
        Jump = "jump",
        /// The next kernel started its clock. The first mark in the new kernel.
        Boot = "boot",
        /// luod started in the next kernel.
        Luod = "luod",
        /// luod has retrieved all sessions and serves claims.
        Serving = "serving",
        /// All sessions were claimed.
        Claimed = "claimed",
        /// All sessions are finished.
        Finished = "finished",
    }
}

impl MarkName {
    /// Returns whether this event happens in the new kernel.
    pub fn is_after_jump(self) -> bool {
        matches!(
            self,
            Self::Boot | Self::Luod | Self::Serving | Self::Claimed | Self::Finished
        )
    }
}

/// The time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Mark {
    /// The event.
    pub name: MarkName,
    /// The time.
    pub stamp: Stamp,
    /// Microseconds since the first mark of the update, also across the jump. [`None`] if no
    /// clock measures it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_us: Option<u64>,
}

impl Mark {
    /// The mark of an event, whose distance from the first mark is not known yet.
    pub fn new(name: MarkName, stamp: Stamp) -> Self {
        Self {
            name,
            stamp,
            offset_us: None,
        }
    }
}

words! {
    /// The result of an update.
    pub enum Outcome {
        /// It is running.
        Running = "running",
        /// The next kernel runs.
        Updated = "updated",
        /// The dry run has succeeded.
        DryRun = "dry-run",
        /// It was aborted.
        Aborted = "aborted",
    }
}

/// The part of a session in an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionReport {
    /// Its name.
    pub session: SessionName,
    /// The name of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Its state.
    pub state: SessionState,
    /// The time that the client needed to preserve its files, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_us: Option<u64>,
    /// The time from the client's claim to the end of the session, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_us: Option<u64>,
    /// The blackout of the client, in microseconds: from its READY to its FINISHED.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blackout_us: Option<u64>,
    /// The error, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl SessionReport {
    /// A session in its last state, of which nothing else is known.
    pub fn new(session: SessionName, state: SessionState) -> Self {
        Self {
            session,
            client: None,
            state,
            preserve_us: None,
            restore_us: None,
            blackout_us: None,
            error: None,
        }
    }
}

/// An update from start to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// Its number.
    pub update: u64,
    /// Its result.
    pub outcome: Outcome,
    /// The reason of the abort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The release of the kernel in which it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The release of the kernel that it has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The marks, in order.
    pub marks: Vec<Mark>,
    /// The sessions.
    pub sessions: Vec<SessionReport>,
    /// From the jump to the time when luod served claims again, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump_us: Option<u64>,
    /// From the time when all clients were ready to the end of the last session, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blackout_us: Option<u64>,
    /// The precision of times across the jump, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision_us: Option<u64>,
}

impl Report {
    /// The update with this number, without marks and sessions.
    pub fn new(update: u64, outcome: Outcome) -> Self {
        Self {
            update,
            outcome,
            reason: None,
            from: None,
            to: None,
            marks: Vec::new(),
            sessions: Vec::new(),
            jump_us: None,
            blackout_us: None,
            precision_us: None,
        }
    }
}
