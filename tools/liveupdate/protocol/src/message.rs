// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The messages.

use crate::{word::words, History, Phase, Report, SessionInfo, SessionName, SessionState, Status};
use serde::{de::DeserializeOwned, Deserialize, Serialize};
use std::{error::Error, fmt};

/// A line: a [`Request`] or an [`Event`], and the number that connects them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message<T> {
    /// A number of the client's choice, which luod copies from the request to the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The message.
    #[serde(flatten)]
    pub body: T,
}

impl<T> From<T> for Message<T> {
    fn from(body: T) -> Self {
        Self { seq: None, body }
    }
}

impl<T: DeserializeOwned> Message<T> {
    /// Parses a line, with or without a newline.
    ///
    /// # Errors
    ///
    /// If it is not JSON, if the command is unknown, or if one of its fields is missing or wrong.
    pub fn parse(line: &[u8]) -> Result<Self, ParseError> {
        let value: serde_json::Value =
            serde_json::from_slice(line).map_err(|error| ParseError {
                code: ErrorCode::BadJson,
                seq: None,
                message: format!("not a line of JSON: {error}"),
            })?;
        let seq = value.get("seq").and_then(serde_json::Value::as_u64);
        serde_json::from_value(value).map_err(|error| {
            let message = error.to_string();
            let code = if message.starts_with("unknown variant") {
                ErrorCode::UnknownCommand
            } else {
                ErrorCode::BadRequest
            };
            ParseError { code, seq, message }
        })
    }
}

/// A line that is not a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The error code of the answer.
    pub code: ErrorCode,
    /// The number of the request, if it has one.
    pub seq: Option<u64>,
    /// A description of the error.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ParseError {}

/// The progress of a client, for display only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// The amount of completed work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// The total amount of work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// The current activity of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A request to luod.
///
/// This enumeration is exhaustive, unlike [`Event`]: clients only create requests, and a program that
/// implements luod must handle each of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Request {
    /// Introduces the client. Must be the first request. luod then acknowledges requests.
    Hello {
        /// The highest version of the protocol that the client supports.
        version: u32,
        /// The name of the client in lists and logs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
    },
    /// Requests a session of this name for the next update.
    Subscribe {
        /// The name of the session.
        id: SessionName,
        /// The maximum time that the client needs to preserve its files, in milliseconds. luod
        /// limits it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// Cancels a subscription.
    Unsubscribe {
        /// The name of the session.
        id: SessionName,
    },
    /// The files whose contents may still change are preserved, and the client still works. It
    /// stops when luod sends [`Event::Pause`], and then sends [`Request::Ready`].
    Preserved {
        /// The name of the session.
        id: SessionName,
    },
    /// All files are preserved. Without `id`: in all sessions of the client.
    Ready {
        /// The name of the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<SessionName>,
        /// The size of all files in each of these sessions, in bytes, for statistics.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// The client refuses the update, which is aborted.
    Refuse {
        /// The name of the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<SessionName>,
        /// The number of the update; without it, the running one is refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        update: Option<u64>,
        /// The reason, for display.
        #[serde(default)]
        reason: String,
    },
    /// Reports the progress of the client.
    Progress {
        /// The name of the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<SessionName>,
        /// The progress.
        #[serde(flatten)]
        progress: Progress,
    },
    /// Requests the session that the previous kernel handed over.
    Claim {
        /// The name of the session.
        id: SessionName,
    },
    /// The client has finished a claimed session.
    Finished {
        /// The name of the session.
        id: SessionName,
    },

    /// Operator: asks for a [`Status`].
    Status,
    /// Operator: asks for all sessions.
    List,
    /// Operator: starts an update.
    Update {
        /// The time for clients that have not set a timeout, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
        /// Lets clients preserve their files, and then aborts the update.
        #[serde(default)]
        dry_run: bool,
        /// Continues without clients that refuse, fail or are late, and discards unfinished
        /// sessions. Their data is lost.
        #[serde(default)]
        force: bool,
        /// The minimum number of subscribed sessions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expect: Option<u64>,
    },
    /// Operator: lets clients preserve their files, if the service manager is about to start the
    /// next kernel by itself. This cannot be aborted: the data of clients that refuse, fail or
    /// are late is lost, as in an update with `force`.
    Handover,
    /// Operator: keeps updates from starting as long as the connection is open.
    Inhibit {
        /// The reason, for display.
        #[serde(default)]
        why: String,
    },
    /// Operator: aborts the running update.
    Abort,
    /// Operator: finishes a session that a client has claimed.
    Finish {
        /// The name of the session.
        session: SessionName,
    },
    /// Operator: finishes a session that no client has claimed. Its contents are lost.
    Discard {
        /// The name of the session.
        session: SessionName,
    },
    /// Operator: gives up the sessions of the previous kernel that luod could not read, in the
    /// phase [`Phase::Unknown`]. Their contents are lost.
    Forget,
    /// Operator: asks for the timeline of the last update.
    Report,
    /// Operator: asks for the last updates.
    History,
    /// Operator: requests the [`Status`], the sessions, and all later events.
    Watch,
}

impl Request {
    /// Returns the command.
    pub fn command(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "HELLO",
            Self::Subscribe { .. } => "SUBSCRIBE",
            Self::Unsubscribe { .. } => "UNSUBSCRIBE",
            Self::Preserved { .. } => "PRESERVED",
            Self::Ready { .. } => "READY",
            Self::Refuse { .. } => "REFUSE",
            Self::Progress { .. } => "PROGRESS",
            Self::Claim { .. } => "CLAIM",
            Self::Finished { .. } => "FINISHED",
            Self::Status => "STATUS",
            Self::List => "LIST",
            Self::Update { .. } => "UPDATE",
            Self::Handover => "HANDOVER",
            Self::Inhibit { .. } => "INHIBIT",
            Self::Abort => "ABORT",
            Self::Finish { .. } => "FINISH",
            Self::Discard { .. } => "DISCARD",
            Self::Forget => "FORGET",
            Self::Report => "REPORT",
            Self::History => "HISTORY",
            Self::Watch => "WATCH",
        }
    }

    /// Returns whether only operators may send it.
    pub fn is_for_operators(&self) -> bool {
        matches!(
            self,
            Self::Status
                | Self::List
                | Self::Update { .. }
                | Self::Handover
                | Self::Inhibit { .. }
                | Self::Abort
                | Self::Finish { .. }
                | Self::Discard { .. }
                | Self::Forget
                | Self::Report
                | Self::History
                | Self::Watch
        )
    }
}

/// An event of luod. Clients ignore events that they do not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum Event {
    /// Answer to HELLO.
    Hello {
        /// The version of the protocol from now on.
        version: u32,
        /// The version of luod.
        luod: String,
        /// The phase of luod.
        phase: Phase,
    },
    /// A request was carried out. Operators always get it, clients only if they have sent HELLO.
    Ok {
        /// The command.
        cmd: String,
        /// The session of the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<SessionName>,
    },
    /// A request has failed, or the connection will be closed.
    Error {
        /// The kind of the error.
        code: ErrorCode,
        /// The problem and its solution, for display.
        message: String,
        /// The command.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cmd: Option<String>,
        /// The session of the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<SessionName>,
    },
    /// An update begins: the session is sent next. The client can send REFUSE immediately.
    PreservationRequest {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
        /// The time until the deadline, in milliseconds from now.
        deadline_ms: u64,
        /// Whether this is a dry run.
        #[serde(default)]
        dry_run: bool,
    },
    /// The session for the update, as a descriptor: the client must preserve its files, then send
    /// READY.
    StartPreservation {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
        /// The time left, in milliseconds.
        deadline_ms: u64,
    },
    /// All clients are ready, or only have to stop their work: a client that has sent PRESERVED
    /// must stop its work, preserve the rest, and send READY.
    Pause {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
        /// The time until the deadline, in milliseconds from now.
        deadline_ms: u64,
    },
    /// The update was aborted, or continues without the client: it must close the session.
    Cancelled {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
        /// The reason, for display.
        reason: String,
    },
    /// All clients are ready, and the next kernel is started now. Sent for each session.
    Frozen {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
    },
    /// Answer to CLAIM: the session, as a descriptor. The client must retrieve its files, finish
    /// the session, then send FINISHED.
    Session {
        /// The name of the session.
        id: SessionName,
        /// The number of the update that handed it over.
        update: u64,
    },

    /// Answer to STATUS, first answer to WATCH.
    Status(Status),
    /// Answer to LIST, second answer to WATCH.
    List {
        /// All sessions.
        sessions: Vec<SessionInfo>,
    },
    /// Answer to REPORT.
    Report(Report),
    /// Answer to HISTORY.
    History(History),
    /// To watchers and the requester of the update: the phase has changed.
    Phase {
        /// The new phase.
        phase: Phase,
        /// The number of the update.
        update: u64,
    },
    /// To watchers and the requester of the update: a session has changed.
    Change {
        /// The session in its new state.
        #[serde(flatten)]
        info: SessionInfo,
    },
    /// To watchers: a session was removed from the list.
    Gone {
        /// The name of the session.
        session: SessionName,
        /// Its last state.
        state: SessionState,
    },
    /// To watchers and the requester of the update: an update has ended. If it succeeds and is
    /// not a dry run, the connection ends with the kernel; wait for luod in the next kernel.
    Result(Report),
    /// An unknown event.
    #[serde(other)]
    Unknown,
}

words! {
    /// Kinds of errors.
    pub enum ErrorCode {
        /// A line is not JSON.
        BadJson = "bad-json",
        /// A command is unknown.
        UnknownCommand = "unknown-command",
        /// A field is missing or wrong.
        BadRequest = "bad-request",
        /// A line is longer than [`LINE_MAX`](crate::LINE_MAX). The connection ends.
        LineTooLong = "line-too-long",
        /// Descriptors were sent, which no command accepts. They were closed.
        UnexpectedFds = "unexpected-fds",
        /// There are too many connections, or this one has too many sessions.
        TooMany = "too-many",
        /// HELLO is not the first request, or its version is not supported.
        BadHello = "bad-hello",
        /// The configuration does not permit this to the user.
        NotAllowed = "not-allowed",
        /// Another client has subscribed or claimed the session.
        InUse = "in-use",
        /// luod does not know yet whether there is such a session: ask again. Unlike after
        /// [`Self::NoSession`], the session may exist.
        TryAgain = "try-again",
        /// There is no such session, or the client does not have it.
        NoSession = "no-session",
        /// The request is not possible in this phase.
        WrongState = "wrong-state",
        /// An update is running.
        UpdateRunning = "update-running",
        /// A restriction in the configuration does not permit an update now.
        Policy = "policy",
        /// A program inhibits updates.
        Inhibited = "inhibited",
        /// No update is running.
        NoUpdate = "no-update",
        /// The service manager is not about to start another kernel.
        NoKexec = "no-kexec",
        /// No kernel is loaded.
        NotLoaded = "not-loaded",
        /// Sessions of the last update are not finished.
        Unfinished = "unfinished",
        /// `/dev/liveupdate` is busy.
        DeviceBusy = "device-busy",
        /// There is no `/dev/liveupdate`, or it does not work.
        NoDevice = "no-device",
        /// The kernel returned another error.
        Kernel = "kernel",
    }
}

#[cfg(test)]
mod tests;
