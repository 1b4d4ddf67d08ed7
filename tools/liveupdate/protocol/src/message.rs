// SPDX-License-Identifier: GPL-2.0

//! The messages.

use crate::{word::words, Phase, Report, SessionInfo, SessionName, SessionState, Status};
use serde::{de::DeserializeOwned, Deserialize, Serialize};
use std::{error::Error, fmt};

/// A line: a [`Request`] or an [`Event`], and what connects the two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message<T> {
    /// A number of the client's choice; what luod answers to a request has the same one.
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
    /// Parses a line, which may but need not end with a newline.
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

/// A line that is no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// What to answer to it.
    pub code: ErrorCode,
    /// The number of the request, if it has got one.
    pub seq: Option<u64>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ParseError {}

/// How far a client is. All of it is for people to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How much is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// Out of how much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What the client is doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What is sent to luod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Request {
    /// Introduces the client. If it is sent, it must come first, and luod acknowledges requests.
    Hello {
        /// The highest version of the protocol that the client knows.
        version: u32,
        /// How the client wants to be called in lists and logs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
    },
    /// Wants a session of this name in the next update.
    Subscribe {
        /// The name of the session.
        id: SessionName,
        /// How long the client needs to preserve its files at most, in milliseconds. luod has a
        /// limit for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// Takes a subscription back.
    Unsubscribe {
        /// The name of the session.
        id: SessionName,
    },
    /// Everything is preserved. Without `id`: in all sessions of the client.
    Ready {
        /// The name of the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<SessionName>,
    },
    /// The client cannot or does not want to take part: the update is aborted.
    Refuse {
        /// The name of the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<SessionName>,
        /// Why, for people to read.
        #[serde(default)]
        reason: String,
    },
    /// Says how far the client is.
    Progress {
        /// The name of the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<SessionName>,
        /// How far.
        #[serde(flatten)]
        progress: Progress,
    },
    /// Wants the session that the previous kernel handed over.
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
        /// How long the clients get, in milliseconds, if they did not ask for something else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
        /// Lets clients preserve everything, but then takes it all back.
        #[serde(default)]
        dry_run: bool,
        /// Goes on without clients that refuse, fail or are late, and in spite of sessions that
        /// are not finished. What they have is lost.
        #[serde(default)]
        force: bool,
        /// How many sessions have to be subscribed at least.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expect: Option<u64>,
    },
    /// Operator: lets clients preserve everything, if the service manager is about to start the
    /// next kernel by itself. That cannot be taken back: what a client that refuses, fails or is
    /// late has is lost, as in an update with `force`.
    Handover,
    /// Operator: aborts the update that is under way.
    Abort,
    /// Operator: ends a session that a client has claimed.
    Finish {
        /// The name of the session.
        session: SessionName,
    },
    /// Operator: ends a session that nobody has claimed. What is in it is lost.
    Discard {
        /// The name of the session.
        session: SessionName,
    },
    /// Operator: gives up what the previous kernel handed over and luod could not find out, in
    /// the phase [`Phase::Unknown`]. What is in it is lost.
    Forget,
    /// Operator: asks for the timeline of the last update.
    Report,
    /// Operator: wants to be told whatever happens, after the [`Status`] and the sessions at the
    /// time.
    Watch,
}

impl Request {
    /// Returns the command.
    pub fn command(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "HELLO",
            Self::Subscribe { .. } => "SUBSCRIBE",
            Self::Unsubscribe { .. } => "UNSUBSCRIBE",
            Self::Ready { .. } => "READY",
            Self::Refuse { .. } => "REFUSE",
            Self::Progress { .. } => "PROGRESS",
            Self::Claim { .. } => "CLAIM",
            Self::Finished { .. } => "FINISHED",
            Self::Status => "STATUS",
            Self::List => "LIST",
            Self::Update { .. } => "UPDATE",
            Self::Handover => "HANDOVER",
            Self::Abort => "ABORT",
            Self::Finish { .. } => "FINISH",
            Self::Discard { .. } => "DISCARD",
            Self::Forget => "FORGET",
            Self::Report => "REPORT",
            Self::Watch => "WATCH",
        }
    }

    /// Whether only operators may ask for it.
    pub fn is_for_operators(&self) -> bool {
        matches!(
            self,
            Self::Status
                | Self::List
                | Self::Update { .. }
                | Self::Handover
                | Self::Abort
                | Self::Finish { .. }
                | Self::Discard { .. }
                | Self::Forget
                | Self::Report
                | Self::Watch
        )
    }
}

/// What comes from luod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Event {
    /// Answer to HELLO.
    Hello {
        /// The version of the protocol that is spoken from now on.
        version: u32,
        /// The version of luod.
        luod: String,
        /// What luod is doing.
        phase: Phase,
    },
    /// A request was carried out. Operators always get it, clients only if they said HELLO.
    Ok {
        /// The command.
        cmd: String,
        /// The session that it was about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<SessionName>,
    },
    /// A request was not carried out, or the connection is at an end.
    Error {
        /// What kind of error it is.
        code: ErrorCode,
        /// What went wrong and what to do, for people to read.
        message: String,
        /// The command.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cmd: Option<String>,
        /// The session that it was about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<SessionName>,
    },
    /// An update begins: the session comes next. The client can REFUSE at once.
    PreservationRequest {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
        /// How long the client gets, in milliseconds, counted from now.
        deadline_ms: u64,
        /// Whether the update is only tried.
        #[serde(default)]
        dry_run: bool,
    },
    /// Here is the session, as a descriptor: preserve everything, then say READY.
    StartPreservation {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
        /// How long the client has got left, in milliseconds.
        deadline_ms: u64,
    },
    /// There will be no update now: close the session and go on.
    Cancelled {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
        /// Why, for people to read.
        reason: String,
    },
    /// All clients are ready, the kernel goes down next. Sent for each session.
    Frozen {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
    },
    /// Answer to CLAIM: here is the session, as a descriptor. Retrieve everything, finish the
    /// session, then say FINISHED.
    Session {
        /// The name of the session.
        id: SessionName,
        /// The number of the update that it came through.
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
    /// To watchers and who asked for the update: luod does something else now.
    Phase {
        /// What it is doing.
        phase: Phase,
        /// The number of the update.
        update: u64,
    },
    /// To watchers and who asked for the update: something happened to a session.
    Change {
        /// The session as it is now.
        #[serde(flatten)]
        info: SessionInfo,
    },
    /// To watchers: a session is gone from the list.
    Gone {
        /// The name of the session.
        session: SessionName,
        /// How far it was.
        state: SessionState,
    },
    /// To watchers and who asked for the update: an update is at its end. If it was no dry run
    /// and succeeded, the connection ends next, since the kernel does; wait for luod to return.
    Result(Report),
    /// Anything that this library does not know.
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
        /// Descriptors came along, which no command has a use for. They were closed.
        UnexpectedFds = "unexpected-fds",
        /// There are too many connections, or this one has too many sessions.
        TooMany = "too-many",
        /// HELLO did not come first, or its version is not supported.
        BadHello = "bad-hello",
        /// The configuration does not allow this user to do this.
        NotAllowed = "not-allowed",
        /// Somebody else has subscribed or claimed the session.
        InUse = "in-use",
        /// luod could not find out yet whether there is such a session: ask again. Unlike
        /// [`Self::NoSession`], this says nothing about the session.
        TryAgain = "try-again",
        /// There is no such session, or the client has not got it.
        NoSession = "no-session",
        /// A request that does not fit to what is going on.
        WrongState = "wrong-state",
        /// An update is under way.
        UpdateRunning = "update-running",
        /// No update is under way.
        NoUpdate = "no-update",
        /// The service manager is not about to start another kernel.
        NoKexec = "no-kexec",
        /// No kernel is loaded that could be started.
        NotLoaded = "not-loaded",
        /// Sessions of the last update are not finished.
        Unfinished = "unfinished",
        /// `/dev/liveupdate` is busy.
        DeviceBusy = "device-busy",
        /// There is no `/dev/liveupdate`, or it does not work.
        NoDevice = "no-device",
        /// The kernel refused something else.
        Kernel = "kernel",
    }
}

#[cfg(test)]
mod tests;
