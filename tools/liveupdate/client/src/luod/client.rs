// SPDX-License-Identifier: GPL-2.0

//! A connection to luod.

use crate::{IncomingSession, OutgoingSession};
use luod_protocol::{
    Channel, ErrorCode, Event, Message, Progress, Request, SessionName, SOCKET_PATH, VERSION,
};
use std::{
    error::Error,
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// How long luod may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// How long to wait until something that was busy is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(200);

/// luod has refused something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What kind of error it is.
    pub code: ErrorCode,
    /// What luod says about it.
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "luod: {}", self.message)
    }
}

impl Error for Refused {}

impl Refused {
    /// Finds out whether an error is a refusal of luod.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Whether luod may answer something else to the same request, asked again: somebody else has
    /// the session or the device, or luod does not know yet what there is.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::TryAgain | ErrorCode::DeviceBusy | ErrorCode::InUse
        )
    }

    /// The same, after it was asked for as long as somebody was ready to wait.
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

/// What luod tells a client.
#[derive(Debug)]
pub enum Notice {
    /// An update begins; the session comes next.
    Prepare {
        /// The name of the session.
        id: SessionName,
        /// How much time there is until the client has to be ready.
        deadline: Duration,
        /// Whether the update is only tried.
        dry_run: bool,
    },
    /// Here is the session: preserve everything, then call [`Client::ready`].
    Preserve {
        /// The name of the session.
        id: SessionName,
        /// The session. To be kept open.
        session: OutgoingSession,
        /// How much time is left.
        deadline: Duration,
    },
    /// There is no update now: drop the session, and go on.
    Cancelled {
        /// The name of the session.
        id: SessionName,
        /// Why.
        reason: String,
    },
    /// The kernel goes down next.
    Frozen {
        /// The name of the session.
        id: SessionName,
    },
}

/// A connection to luod.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    /// How long luod may take to answer.
    limit: Duration,
}

impl Client {
    /// Connects to luod where it usually is; `name` is how the program wants to be called in lists
    /// and logs.
    ///
    /// # Errors
    ///
    /// `ENOENT` or `ECONNREFUSED` if luod is not running; [`Refused`] if it does not want to talk
    /// to us.
    pub fn connect(name: &str) -> io::Result<Self> {
        Self::connect_to(SOCKET_PATH, name)
    }

    /// Connects to luod at another socket.
    ///
    /// # Errors
    ///
    /// See [`Self::connect`].
    pub fn connect_to(path: impl AsRef<Path>, name: &str) -> io::Result<Self> {
        let path = path.as_ref();
        let channel = Channel::connect(path).map_err(|error| {
            let text = format!("cannot connect to luod at {}: {error}", path.display());
            io::Error::new(error.kind(), text)
        })?;
        let mut client = Self {
            channel,
            limit: ANSWER,
        };
        client.call(&Request::Hello {
            version: VERSION,
            client: Some(name.to_owned()),
        })?;
        Ok(client)
    }

    /// Gives luod another time to answer than half a minute.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Does a request, and turns a refusal into an error.
    fn call(&mut self, request: &Request) -> io::Result<(Event, Vec<OwnedFd>)> {
        self.call_within(request, self.limit)
    }

    fn call_within(
        &mut self,
        request: &Request,
        limit: Duration,
    ) -> io::Result<(Event, Vec<OwnedFd>)> {
        match self.channel.call(request, Some(limit))? {
            (Event::Error { code, message, .. }, _) => {
                Err(io::Error::other(Refused { code, message }))
            }
            answer => Ok(answer),
        }
    }

    /// Wants a session in the next update. `timeout` is how long it may take to fill it; luod has
    /// a default, and a limit.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the configuration of luod does not allow it, or somebody else has it.
    pub fn subscribe(&mut self, id: &SessionName, timeout: Option<Duration>) -> io::Result<()> {
        let id = id.clone();
        let timeout_ms = timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.call(&Request::Subscribe { id, timeout_ms })
            .map(|_| ())
    }

    /// Takes a subscription back.
    ///
    /// # Errors
    ///
    /// [`Refused`] while an update is under way.
    pub fn unsubscribe(&mut self, id: &SessionName) -> io::Result<()> {
        let id = id.clone();
        self.call(&Request::Unsubscribe { id }).map(|_| ())
    }

    /// Claims the session that the previous kernel handed over. [`None`] if there is none.
    ///
    /// # Errors
    ///
    /// [`Refused`]; with a refusal that [is temporary](Refused::is_temporary), nothing is said
    /// about the session, and it has to be asked for again: see [`Self::claim_within`].
    pub fn claim(&mut self, id: &SessionName) -> io::Result<Option<IncomingSession>> {
        self.claim_once(id, self.limit)
    }

    /// The same, and asks again for up to `patience` if luod cannot tell, or cannot get the session
    /// now.
    ///
    /// # Errors
    ///
    /// [`Refused`]; [`io::ErrorKind::TimedOut`] if luod could not tell within that time.
    pub fn claim_within(
        &mut self,
        id: &SessionName,
        patience: Duration,
    ) -> io::Result<Option<IncomingSession>> {
        let claimed = self.claim_until(id, Instant::now() + patience);
        claimed.map_err(|error| match Refused::of(&error) {
            Some(refused) if refused.is_temporary() => refused.at_last(id, patience),
            _ => error,
        })
    }

    /// The same until `end`, with the last refusal as it came.
    pub(super) fn claim_until(
        &mut self,
        id: &SessionName,
        end: Instant,
    ) -> io::Result<Option<IncomingSession>> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let error = match self.claim_once(id, left.clamp(RETRY, self.limit.max(RETRY))) {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            match Refused::of(&error) {
                Some(refused) if refused.is_temporary() && Instant::now() < end => {
                    sleep(RETRY.min(left));
                }
                _ => return Err(error),
            }
        }
    }

    fn claim_once(
        &mut self,
        id: &SessionName,
        limit: Duration,
    ) -> io::Result<Option<IncomingSession>> {
        match self.call_within(&Request::Claim { id: id.clone() }, limit) {
            Ok((Event::Session { .. }, fds)) => one(fds).map(IncomingSession::from).map(Some),
            Ok((other, _)) => Err(unexpected(&other)),
            Err(error) => match Refused::of(&error) {
                Some(refused) if refused.code == ErrorCode::NoSession => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Says that a claimed session is finished. Also right if luod knows that already.
    ///
    /// Whatever comes of this, the session *is* finished, and what was retrieved from it is the
    /// client's: an error must not be taken for a failure of that. Say it again when luod is there
    /// again; if nobody does, luod finds it out from the kernel.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the session is not finished, and the client has not claimed it.
    pub fn finished(&mut self, id: &SessionName) -> io::Result<()> {
        match self.call(&Request::Finished { id: id.clone() }) {
            Err(error) => match Refused::of(&error) {
                Some(refused) if refused.code == ErrorCode::NoSession => Ok(()),
                _ => Err(error),
            },
            Ok(_) => Ok(()),
        }
    }

    /// Says that everything is preserved.
    ///
    /// # Errors
    ///
    /// [`Refused`] with [`ErrorCode::WrongState`] if the update was cancelled in between. With any
    /// other error, such as [`io::ErrorKind::TimedOut`], luod may count on the session: the client
    /// must not go on before it gets [`Notice::Cancelled`] or, on a new connection, an answer to
    /// [`Self::refuse`].
    pub fn ready(&mut self, id: &SessionName) -> io::Result<()> {
        let id = Some(id.clone());
        self.call(&Request::Ready { id }).map(|_| ())
    }

    /// Refuses to take part: the update is aborted. A client that has lost its connection after it
    /// was ready does so on a new one before it goes on.
    ///
    /// # Errors
    ///
    /// [`Refused`] with [`ErrorCode::NoSession`] if luod does not count on the session, with
    /// [`ErrorCode::WrongState`] if it is too late to refuse.
    pub fn refuse(&mut self, id: &SessionName, reason: &str) -> io::Result<()> {
        let (id, reason) = (Some(id.clone()), reason.to_owned());
        self.call(&Request::Refuse { id, reason }).map(|_| ())
    }

    /// Says how far the client is, for people to see.
    ///
    /// # Errors
    ///
    /// As [`Self::ready`].
    pub fn progress(&mut self, id: &SessionName, progress: Progress) -> io::Result<()> {
        let id = Some(id.clone());
        self.call(&Request::Progress { id, progress }).map(|_| ())
    }

    /// Waits for what luod has to say. [`None`] if it has said nothing in time.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if luod is gone.
    pub fn next(&mut self, timeout: Option<Duration>) -> io::Result<Option<Notice>> {
        loop {
            let Some((Message { body, .. }, fds)) = self.channel.receive(timeout)? else {
                return Ok(None);
            };
            let notice = match body {
                Event::PreservationRequest {
                    id,
                    deadline_ms,
                    dry_run,
                    ..
                } => Notice::Prepare {
                    id,
                    deadline: Duration::from_millis(deadline_ms),
                    dry_run,
                },
                Event::StartPreservation {
                    id, deadline_ms, ..
                } => Notice::Preserve {
                    id,
                    session: one(fds)?.into(),
                    deadline: Duration::from_millis(deadline_ms),
                },
                Event::Cancelled { id, reason, .. } => Notice::Cancelled { id, reason },
                Event::Frozen { id, .. } => Notice::Frozen { id },
                Event::Error { code, message, .. } => {
                    return Err(io::Error::other(Refused { code, message }))
                }
                _ => continue,
            };
            return Ok(Some(notice));
        }
    }

    /// Whether [`Self::next`] has something that polling the descriptor would not show.
    pub fn has_early(&self) -> bool {
        self.channel.has_early()
    }
}

impl AsFd for Client {
    /// For polling; readable when luod has said something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
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
    let text = format!("luod has answered something else than expected: {event:?}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}
