// SPDX-License-Identifier: GPL-2.0

//! The types of the interface, as `io.luod.LiveUpdate.varlink` describes them. Their fields are a part
//! of those of `luoctl --json`.

use luod_protocol::{Report as LuodReport, SessionInfo, Status as LuodStatus};
use serde::Serialize;

/// A program that keeps updates from starting.
#[derive(Clone, Debug, Serialize)]
pub struct Inhibitor {
    /// The reason, for display.
    pub why: String,
    /// The name of the client, if it has sent one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Its process.
    pub pid: i32,
    /// The user of that process.
    pub uid: u32,
}

/// The status of luod.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The phase, such as `idle`.
    pub phase: String,
    /// The number of the running update, or of the last one; 0 if there was none.
    pub update: u64,
    /// Whether the running update is a dry run.
    pub dry_run: bool,
    /// The number of subscribed sessions.
    pub subscribed: u64,
    /// The number of ready sessions.
    pub ready: u64,
    /// The number of unfinished sessions of the last update.
    pub incoming: u64,
    /// The number of unclaimed ones among these.
    pub unclaimed: u64,
    /// Whether a kernel is loaded, if this is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_loaded: Option<bool>,
    /// The release of the running kernel.
    pub kernel: String,
    /// The version of luod.
    pub luod: String,
    /// Programs that keep updates from starting.
    pub inhibitors: Vec<Inhibitor>,
    /// Why no live update is possible, or why the last one lost data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl From<LuodStatus> for Status {
    fn from(status: LuodStatus) -> Self {
        let inhibitors = status.inhibitors.into_iter().map(|one| Inhibitor {
            why: one.why,
            client: one.client,
            pid: one.pid,
            uid: one.uid,
        });
        Self {
            phase: status.phase.to_string(),
            update: status.update,
            dry_run: status.dry_run,
            subscribed: status.subscribed,
            ready: status.ready,
            incoming: status.incoming,
            unclaimed: status.unclaimed,
            image_loaded: status.image_loaded,
            kernel: status.kernel,
            luod: status.luod,
            inhibitors: inhibitors.collect(),
            problem: status.problem,
        }
    }
}

/// A session.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    /// Its name.
    pub session: String,
    /// `outgoing` or `incoming`.
    pub direction: String,
    /// Its state, such as `subscribed`.
    pub state: String,
    /// The name of the client, if it has sent one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The process of the client, if it is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The user of that process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The time in this state, in milliseconds.
    pub since_ms: u64,
    /// The size of the preserved files in bytes, if the client has reported it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The error, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<SessionInfo> for Session {
    fn from(info: SessionInfo) -> Self {
        Self {
            session: info.session.to_string(),
            direction: info.direction.to_string(),
            state: info.state.to_string(),
            client: info.client,
            pid: info.pid,
            uid: info.uid,
            since_ms: info.since_ms,
            bytes: info.bytes,
            error: info.error,
        }
    }
}

/// The sessions of luod.
#[derive(Clone, Debug, Serialize)]
pub struct Sessions {
    /// All of them, in both directions.
    pub sessions: Vec<Session>,
}

/// An update.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its number.
    pub update: u64,
    /// Its result, such as `updated`.
    pub outcome: String,
    /// The reason of the abort.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The release of the kernel in which it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The release of the kernel that it has started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// From the time when all clients were ready to the end of the last session, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blackout_us: Option<u64>,
}

impl From<LuodReport> for Report {
    fn from(report: LuodReport) -> Self {
        Self {
            update: report.update,
            outcome: report.outcome.to_string(),
            reason: report.reason,
            from: report.from,
            to: report.to,
            blackout_us: report.blackout_us,
        }
    }
}
