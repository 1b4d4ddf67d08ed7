// SPDX-License-Identifier: GPL-2.0

//! What happened when in an update.

use crate::{word::words, SessionName, SessionState};
use serde::{Deserialize, Serialize};

/// A point in time, by several clocks.
///
/// Only two of them can be compared across a live update: `realtime_us`, which the next kernel
/// often sets from a hardware clock that knows whole seconds only, and `tsc`, the time-stamp
/// counter of the processor, which runs on while kernels change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// `CLOCK_REALTIME`, in microseconds.
    pub realtime_us: u64,
    /// `CLOCK_MONOTONIC`, in microseconds.
    pub monotonic_us: u64,
    /// The time-stamp counter, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tsc: Option<u64>,
}

words! {
    /// What a [`Mark`] marks.
    pub enum MarkName {
        /// The operator asked for the update.
        Requested = "requested",
        /// The clients have got their sessions.
        Started = "started",
        /// All clients are ready.
        Ready = "ready",
        /// The registry is preserved; nothing is left to do.
        Frozen = "frozen",
        /// The next kernel is going to be started. The last mark in the old kernel.
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
    /// Whether this happens in the new kernel.
    pub fn is_after_jump(self) -> bool {
        matches!(
            self,
            Self::Boot | Self::Luod | Self::Serving | Self::Claimed | Self::Finished
        )
    }
}

/// Something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What.
    pub name: MarkName,
    /// When.
    pub stamp: Stamp,
    /// Microseconds since the first mark of the update, also across the jump. [`None`] if no
    /// clock can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_us: Option<u64>,
}

words! {
    /// How an update ended.
    pub enum Outcome {
        /// It is under way.
        Running = "running",
        /// The next kernel runs.
        Updated = "updated",
        /// It would have worked; nothing was changed.
        DryRun = "dry-run",
        /// It was aborted; clients were told to go on.
        Aborted = "aborted",
    }
}

/// What one session had to do with an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// Its name.
    pub session: SessionName,
    /// How the client called itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// How far it is.
    pub state: SessionState,
    /// How long the client took to preserve its files, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_us: Option<u64>,
    /// How long the client took from its claim to the end of the session, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_us: Option<u64>,
    /// How long the client could not work, in microseconds: from the time when it said that it
    /// was ready to the time when it said that the session is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blackout_us: Option<u64>,
    /// What went wrong, if something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An update from start to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its number.
    pub update: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The release of the kernel that it started in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The release of the kernel that it led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What happened, in order.
    pub marks: Vec<Mark>,
    /// What became of the sessions.
    pub sessions: Vec<SessionReport>,
    /// From the jump to the time when luod served claims again, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump_us: Option<u64>,
    /// From the time when all clients were ready to the end of the last session, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blackout_us: Option<u64>,
    /// How exact times across the jump are, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision_us: Option<u64>,
}
