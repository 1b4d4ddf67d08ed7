// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A connection to luod.

use super::answer::{self, Answer, Notice, Refused, RETRY};
use crate::IncomingSession;
use luod_protocol::{Channel, Message, Progress, Request, SessionName, SOCKET_PATH, VERSION};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// The time limit for an answer of luod.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to luod.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    /// The time limit for an answer of luod.
    limit: Duration,
}

impl Client {
    /// Connects to luod at the default socket; `name` is the name of the program in lists and logs.
    ///
    /// # Errors
    ///
    /// `ENOENT` or `ECONNREFUSED` if luod is not running; [`Refused`] if it refuses the connection.
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

    /// Sets the time limit for answers; the default is half a minute.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Sends a request, and converts a refusal into an error.
    fn call(&mut self, request: &Request) -> io::Result<Answer> {
        self.call_within(request, self.limit)
    }

    fn call_within(&mut self, request: &Request, limit: Duration) -> io::Result<Answer> {
        answer::accepted(self.channel.call(request, Some(limit))?)
    }

    /// Subscribes a session for the next update. `timeout` is the time to preserve its files; luod
    /// has a default, and a limit.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the configuration of luod does not permit it, or another client has
    /// subscribed it.
    pub fn subscribe(&mut self, id: &SessionName, timeout: Option<Duration>) -> io::Result<()> {
        let id = id.clone();
        let timeout_ms = timeout.map(answer::milliseconds);
        self.call(&Request::Subscribe { id, timeout_ms })
            .map(|_| ())
    }

    /// Cancels a subscription.
    ///
    /// # Errors
    ///
    /// [`Refused`] while an update is running.
    pub fn unsubscribe(&mut self, id: &SessionName) -> io::Result<()> {
        let id = id.clone();
        self.call(&Request::Unsubscribe { id }).map(|_| ())
    }

    /// Claims the session that the previous kernel handed over. [`None`] if there is none.
    ///
    /// # Errors
    ///
    /// [`Refused`]; if the refusal [is temporary](Refused::is_temporary), the session may exist,
    /// and the caller must try again: see [`Self::claim_within`].
    pub fn claim(&mut self, id: &SessionName) -> io::Result<Option<IncomingSession>> {
        self.claim_once(id, self.limit)
    }

    /// The same, with retries for up to `patience` after temporary refusals.
    ///
    /// # Errors
    ///
    /// [`Refused`]; [`io::ErrorKind::TimedOut`] if all refusals within that time were temporary.
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

    /// The same until `end`; returns the last refusal unchanged.
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
        answer::claimed(self.call_within(&Request::Claim { id: id.clone() }, limit))
    }

    /// Reports that a claimed session is finished. Succeeds if luod has already detected that.
    ///
    /// Even if this fails, the session *is* finished, and its retrieved files belong to the client.
    /// The client should report it again when luod is running; otherwise luod asks the kernel.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the session is not finished, and the client has not claimed it.
    pub fn finished(&mut self, id: &SessionName) -> io::Result<()> {
        answer::finished(self.call(&Request::Finished { id: id.clone() }))
    }

    /// Reports that the client still works, and only has to stop its work and preserve the rest:
    /// luod sends [`Notice::Pause`] when all other clients are ready or have reported this as well.
    /// Returns false if luod is too old to send that: the client must stop its work and become
    /// ready at once.
    ///
    /// # Errors
    ///
    /// [`Refused`] with [`ErrorCode::WrongState`](super::ErrorCode::WrongState) if the update was
    /// cancelled in between.
    pub fn preserved(&mut self, id: &SessionName) -> io::Result<bool> {
        answer::preserved(self.call(&Request::Preserved { id: id.clone() }))
    }

    /// Reports that all files are preserved.
    ///
    /// # Errors
    ///
    /// [`Refused`] with [`ErrorCode::WrongState`](super::ErrorCode::WrongState) if the update was
    /// cancelled in between. After any other error, such as [`io::ErrorKind::TimedOut`], the session
    /// may be part of the update: the client must not continue its work before it gets
    /// [`Notice::Cancelled`] or, on a new connection, an answer to [`Self::refuse`].
    pub fn ready(&mut self, id: &SessionName) -> io::Result<()> {
        let (id, bytes) = (Some(id.clone()), None);
        self.call(&Request::Ready { id, bytes }).map(|_| ())
    }

    /// The same, with the size of all preserved files in bytes, for statistics of operators: see
    /// [`OutgoingSession::bytes`](crate::OutgoingSession::bytes).
    ///
    /// # Errors
    ///
    /// See [`Self::ready`].
    pub fn ready_with(&mut self, id: &SessionName, bytes: u64) -> io::Result<()> {
        let (id, bytes) = (Some(id.clone()), Some(bytes));
        self.call(&Request::Ready { id, bytes }).map(|_| ())
    }

    /// Refuses the running update, which aborts it. A client that has lost its connection after it
    /// was ready must call this on a new connection before it continues its work.
    ///
    /// # Errors
    ///
    /// [`Refused`] with [`ErrorCode::NoSession`](super::ErrorCode::NoSession) if the session is not
    /// part of an update, with [`ErrorCode::WrongState`](super::ErrorCode::WrongState) if it is too
    /// late to refuse.
    pub fn refuse(&mut self, id: &SessionName, reason: &str) -> io::Result<()> {
        self.refuse_any(id, None, reason)
    }

    /// Refuses the update with the number `update`, which aborts it. Unlike [`Self::refuse`], this
    /// cannot abort the next update if luod has cancelled that one in between.
    ///
    /// # Errors
    ///
    /// See [`Self::refuse`]; [`Refused`] with
    /// [`ErrorCode::WrongState`](super::ErrorCode::WrongState) if another update is running.
    pub fn refuse_update(&mut self, id: &SessionName, update: u64, reason: &str) -> io::Result<()> {
        self.refuse_any(id, Some(update), reason)
    }

    fn refuse_any(
        &mut self,
        id: &SessionName,
        update: Option<u64>,
        reason: &str,
    ) -> io::Result<()> {
        let (id, reason) = (Some(id.clone()), reason.to_owned());
        let refuse = Request::Refuse { id, update, reason };
        self.call(&refuse).map(|_| ())
    }

    /// Reports the progress of the client, which is shown to operators.
    ///
    /// # Errors
    ///
    /// See [`Self::ready`].
    pub fn progress(&mut self, id: &SessionName, progress: Progress) -> io::Result<()> {
        let id = Some(id.clone());
        self.call(&Request::Progress { id, progress }).map(|_| ())
    }

    /// Waits for an event of luod. [`None`] if there is none in time.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if the connection is closed.
    pub fn next(&mut self, timeout: Option<Duration>) -> io::Result<Option<Notice>> {
        loop {
            let Some((Message { body, .. }, fds)) = self.channel.receive(timeout)? else {
                return Ok(None);
            };
            if let Some(notice) = answer::notice((body, fds))? {
                return Ok(Some(notice));
            }
        }
    }

    /// Returns whether [`Self::next`] has a queued event, which polling the descriptor does not
    /// show.
    pub fn has_early(&self) -> bool {
        self.channel.has_early()
    }
}

impl AsFd for Client {
    /// For polling; readable when luod has sent an event.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
