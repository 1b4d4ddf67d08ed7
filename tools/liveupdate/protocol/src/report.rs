// SPDX-License-Identifier: GPL-2.0

//! What happened when in an update.

use crate::{SessionName, SessionState};
use serde::{Deserialize, Serialize};
use std::fmt;

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

/// What a [`Mark`] marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MarkName {
    /// The operator asked for the update.
    Requested,
    /// The clients have got their sessions.
    Started,
    /// All clients are ready.
    Ready,
    /// The registry is preserved; nothing is left to do.
    Frozen,
    /// The next kernel is going to be started. The last mark in the old kernel.
    Jump,
    /// The next kernel started its clock. The first mark in the new kernel.
    Boot,
    /// luod started in the next kernel.
    Luod,
    /// luod has retrieved all sessions and serves claims.
    Serving,
    /// All sessions were claimed.
    Claimed,
    /// All sessions are finished.
    Finished,
}

impl MarkName {
    /// Returns the name as it is in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Frozen => "frozen",
            Self::Jump => "jump",
            Self::Boot => "boot",
            Self::Luod => "luod",
            Self::Serving => "serving",
            Self::Claimed => "claimed",
            Self::Finished => "finished",
        }
    }

    /// Whether this happens in the new kernel.
    pub fn is_after_jump(self) -> bool {
        matches!(
            self,
            Self::Boot | Self::Luod | Self::Serving | Self::Claimed | Self::Finished
        )
    }
}

impl fmt::Display for MarkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
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

/// How an update ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is under way.
    Running,
    /// The next kernel runs.
    Updated,
    /// It would have worked; nothing was changed.
    DryRun,
    /// It was aborted; clients were told to go on.
    Aborted,
}

impl Outcome {
    /// Returns the outcome as it is in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Updated => "updated",
            Self::DryRun => "dry-run",
            Self::Aborted => "aborted",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
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
