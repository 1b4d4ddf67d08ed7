// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Answers and events of luod, for `Client` and `AsyncClient`.

use crate::{IncomingSession, OutgoingSession};
use luod_protocol::{ErrorCode, Event, SessionName};
use std::{error::Error, fmt, io, os::fd::OwnedFd, time::Duration};

/// The time until a retry after a temporary refusal.
pub(super) const RETRY: Duration = Duration::from_millis(200);

/// An answer, and its descriptors.
pub(super) type Answer = (Event, Vec<OwnedFd>);

/// A refusal of luod.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The kind of the error.
    pub code: ErrorCode,
    /// The message of luod.
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "luod: {}", self.message)
    }
}

impl Error for Refused {}

impl Refused {
    /// Returns the refusal of luod in an error, if it is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Returns whether the same request may succeed later: another process has the session or the
    /// device open, or luod has not read the sessions of the previous kernel yet.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::TryAgain | ErrorCode::DeviceBusy | ErrorCode::InUse
        )
    }

    /// Converts a temporary refusal into an error after the time limit.
    pub(super) fn at_last(&self, id: &SessionName, patience: Duration) -> io::Error {
        let message = format!(
            "the session {id} could not be claimed within {} s: {}",
            patience.as_secs_f32(),
            self.message
        );
        let code = self.code;
        io::Error::new(io::ErrorKind::TimedOut, Self { code, message })
    }
}

/// An event of luod for a client.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// An update begins; luod sends the session next.
    Prepare {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
        /// The time until the client must be ready.
        deadline: Duration,
        /// Whether this is a dry run.
        dry_run: bool,
    },
    /// The session for the update: the client must preserve its files, then call
    /// [`Client::ready`](super::Client::ready).
    Preserve {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
        /// The session, which must be kept open.
        session: OutgoingSession,
        /// The time left.
        deadline: Duration,
    },
    /// All other clients are ready, or only have to stop their work. Sent after
    /// [`Client::preserved`](super::Client::preserved): the client must stop its work, preserve the
    /// rest, and call [`Client::ready`](super::Client::ready).
    Pause {
        /// The name of the session.
        id: SessionName,
        /// The number of the update.
        update: u64,
        /// The time until the client must be ready.
        deadline: Duration,
    },
    /// The update was aborted, or continues without the client: the client must drop the session,
    /// and continues its work.
    Cancelled {
        /// The name of the session.
        id: SessionName,
        /// Why.
        reason: String,
    },
    /// luod starts the next kernel now.
    Frozen {
        /// The name of the session.
        id: SessionName,
    },
}

/// Converts a refusal into an error.
pub(super) fn accepted(answer: Answer) -> io::Result<Answer> {
    match answer {
        (Event::Error { code, message, .. }, _) => Err(io::Error::other(Refused { code, message })),
        answer => Ok(answer),
    }
}

/// The answer to CLAIM. [`None`] if there is no session.
pub(super) fn claimed(answer: io::Result<Answer>) -> io::Result<Option<IncomingSession>> {
    match answer {
        Ok((Event::Session { .. }, fds)) => one(fds).map(IncomingSession::from).map(Some),
        Ok((other, _)) => Err(unexpected(&other)),
        Err(error) if is_refused(&error, ErrorCode::NoSession) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The answer to FINISHED. If luod has already detected that the session is finished, it does not
/// know the session any more.
pub(super) fn finished(answer: io::Result<Answer>) -> io::Result<()> {
    match answer {
        Err(error) if !is_refused(&error, ErrorCode::NoSession) => Err(error),
        _ => Ok(()),
    }
}

/// The answer to PRESERVED. False if this luod does not know the request.
pub(super) fn preserved(answer: io::Result<Answer>) -> io::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if is_refused(&error, ErrorCode::UnknownCommand) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_refused(error: &io::Error, code: ErrorCode) -> bool {
    Refused::of(error).is_some_and(|refused| refused.code == code)
}

/// An event for a client. [`None`] if it is for display only.
pub(super) fn notice((event, fds): Answer) -> io::Result<Option<Notice>> {
    let notice = match event {
        Event::PreservationRequest {
            id,
            update,
            deadline_ms,
            dry_run,
        } => Notice::Prepare {
            id,
            update,
            deadline: Duration::from_millis(deadline_ms),
            dry_run,
        },
        Event::StartPreservation {
            id,
            update,
            deadline_ms,
        } => Notice::Preserve {
            id,
            update,
            session: one(fds)?.into(),
            deadline: Duration::from_millis(deadline_ms),
        },
        Event::Pause {
            id,
            update,
            deadline_ms,
        } => Notice::Pause {
            id,
            update,
            deadline: Duration::from_millis(deadline_ms),
        },
        Event::Cancelled { id, reason, .. } => Notice::Cancelled { id, reason },
        Event::Frozen { id, .. } => Notice::Frozen { id },
        Event::Error { code, message, .. } => {
            return Err(io::Error::other(Refused { code, message }))
        }
        _ => return Ok(None),
    };
    Ok(Some(notice))
}

/// A time limit as luod reads it.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the only descriptor.
fn one(fds: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    match <[OwnedFd; 1]>::try_from(fds) {
        Ok([fd]) => Ok(fd),
        Err(fds) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "luod has sent {} descriptors instead of a session",
                fds.len()
            ),
        )),
    }
}

fn unexpected(event: &Event) -> io::Error {
    let text = format!("luod has sent an unexpected answer: {event:?}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}
