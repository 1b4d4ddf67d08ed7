// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Clients of luod that implement the protocol.

use super::{
    answer::RETRY, Client, ErrorCode, Notice, Participant, Refused, SessionName, SOCKET_PATH,
};
use crate::{errno, IncomingSession, OutgoingSession};
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long [`Member::join`] waits for a luod that refuses temporarily or is restarted.
const PATIENCE: Duration = Duration::from_secs(60);

const EBUSY: i32 = 16;

/// A session that is being preserved.
#[derive(Debug)]
pub(super) struct Held {
    session: OutgoingSession,
    /// Whether the session may be part of the update.
    ready: bool,
    frozen: bool,
}

/// A client of luod, which calls a [`Participant`].
#[derive(Debug)]
pub struct Member<P> {
    path: PathBuf,
    name: String,
    ids: Vec<SessionName>,
    participant: P,
    /// [`None`] if the connection is closed.
    pub(super) client: Option<Client>,
    pub(super) held: BTreeMap<SessionName, Held>,
    /// Sessions that were refused before luod has sent them. It may have done so by then.
    refused: BTreeSet<SessionName>,
    restored: Vec<SessionName>,
    /// Restored sessions that the kernel could not finish yet.
    unfinished: Vec<(SessionName, IncomingSession)>,
    /// Finished sessions that were not reported to luod yet.
    untold: Vec<SessionName>,
    subscribed: bool,
    timeout: Option<Duration>,
    next_try: Instant,
}

impl<P: Participant> Member<P> {
    /// Connects to luod, restores the sessions of the previous kernel, and subscribes for the next
    /// update.
    ///
    /// Retries for up to a minute if luod refuses temporarily or is restarted: see
    /// [`Self::join_within`].
    ///
    /// # Errors
    ///
    /// If luod is not running or refuses a request, or if [`Participant::restore`] fails. All
    /// sessions are then unchanged. After they are finished, there are no errors.
    pub fn join(name: &str, ids: &[&str], participant: P) -> io::Result<Self> {
        Self::join_at(SOCKET_PATH, name, ids, participant)
    }

    /// The same, with another socket.
    ///
    /// # Errors
    ///
    /// See [`Self::join`].
    pub fn join_at(
        path: impl AsRef<Path>,
        name: &str,
        ids: &[&str],
        participant: P,
    ) -> io::Result<Self> {
        Self::join_within(path, name, ids, participant, PATIENCE)
    }

    /// The same, with retries for up to `patience` after temporary refusals.
    ///
    /// # Errors
    ///
    /// See [`Self::join`]; [`io::ErrorKind::TimedOut`] if all refusals within that time were
    /// temporary. The sessions may exist.
    pub fn join_within(
        path: impl AsRef<Path>,
        name: &str,
        ids: &[&str],
        participant: P,
        patience: Duration,
    ) -> io::Result<Self> {
        let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let ids = ids.iter().map(|id| SessionName::new(*id).map_err(bad));
        let mut member = Self {
            path: path.as_ref().to_owned(),
            name: name.to_owned(),
            ids: ids.collect::<io::Result<_>>()?,
            participant,
            client: None,
            held: BTreeMap::new(),
            refused: BTreeSet::new(),
            restored: Vec::new(),
            unfinished: Vec::new(),
            untold: Vec::new(),
            subscribed: false,
            timeout: None,
            next_try: Instant::now(),
        };
        member.client = Some(Client::connect_to(&member.path, name)?);
        member.restore(patience)?;
        member.tell();
        match member.subscribe() {
            // A failure to subscribe must not lose the restored data.
            Err(_) if !member.restored.is_empty() => {}
            result => result?,
        }
        Ok(member)
    }

    /// The sessions that were restored when the program joined.
    pub fn restored(&self) -> &[SessionName] {
        &self.restored
    }

    /// The participant.
    pub fn participant(&self) -> &P {
        &self.participant
    }

    /// The participant.
    pub fn participant_mut(&mut self) -> &mut P {
        &mut self.participant
    }

    /// Returns whether luod is connected, and no update is running.
    pub fn is_idle(&self) -> bool {
        self.client.is_some() && self.subscribed && self.held.is_empty()
    }

    /// Restores all sessions, and then finishes them.
    fn restore(&mut self, patience: Duration) -> io::Result<()> {
        let end = Instant::now() + patience;
        let mut sessions = Vec::new();
        for id in self.ids.clone() {
            let Some(session) = self.claim(&id, patience, end)? else {
                continue;
            };
            self.participant
                .restore(&id, &session)
                .map_err(io::Error::other)?;
            sessions.push((id, session));
        }
        for (id, session) in sessions {
            let mut result = session.finish();
            // Until one of them is finished, the sessions can be restored again.
            while self.restored.is_empty() && Instant::now() < end {
                match result {
                    Err(error) if errno_of(&error) == Some(EBUSY) => {
                        sleep(RETRY);
                        result = error.into_session().finish();
                    }
                    _ => break,
                }
            }
            match result {
                Ok(()) => self.untold.push(id.clone()),
                Err(error) if self.restored.is_empty() => return Err(error.into()),
                Err(error) => self.unfinished.push((id.clone(), error.into_session())),
            }
            self.restored.push(id);
        }
        Ok(())
    }

    /// Claims a session. Waits for a luod that is restarted.
    fn claim(
        &mut self,
        id: &SessionName,
        patience: Duration,
        end: Instant,
    ) -> io::Result<Option<IncomingSession>> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let claimed = match &mut self.client {
                Some(client) => client.claim_until(id, end),
                None => match Client::connect_to(&self.path, &self.name) {
                    Ok(client) => {
                        self.client = Some(client);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            let error = match claimed {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            match Refused::of(&error) {
                Some(refused) if refused.is_temporary() => {
                    return Err(refused.at_last(id, patience))
                }
                Some(refused) if refused.code != ErrorCode::TooMany => return Err(error),
                _ => self.client = None,
            }
            if Instant::now() >= end {
                let text = format!("luod did not answer whether there is a session {id}: {error}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            sleep(RETRY.min(left));
        }
    }

    /// Finishes remaining sessions and reports them to luod, as far as possible.
    fn tell(&mut self) {
        for (id, session) in std::mem::take(&mut self.unfinished) {
            match session.finish() {
                Ok(()) => self.untold.push(id),
                Err(error) => self.unfinished.push((id, error.into_session())),
            }
        }
        let Some(client) = &mut self.client else {
            return;
        };
        let mut left = Vec::new();
        let mut gone = false;
        for id in std::mem::take(&mut self.untold) {
            match client.finished(&id) {
                Ok(()) => {}
                Err(error) => match Refused::of(&error) {
                    Some(refused) if refused.is_temporary() => left.push(id),
                    // luod refuses the report, and asks the kernel itself.
                    Some(_) => {}
                    None => {
                        gone = true;
                        left.push(id);
                        break;
                    }
                },
            }
        }
        self.untold = left;
        if gone {
            self.client = None;
        }
    }

    /// Returns whether there are unreported sessions.
    fn is_pending(&self) -> bool {
        !self.subscribed || !self.untold.is_empty() || !self.unfinished.is_empty()
    }

    fn subscribe(&mut self) -> io::Result<()> {
        self.subscribed = false;
        let Some(client) = &mut self.client else {
            return Ok(());
        };
        for id in &self.ids {
            if let Err(error) = client.subscribe(id, self.timeout) {
                if Refused::of(&error).is_none() {
                    self.client = None;
                }
                return Err(error);
            }
        }
        self.subscribed = true;
        Ok(())
    }

    /// Requests another timeout than the default.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.timeout = Some(timeout);
        self.subscribe()
    }

    /// Handles events of luod until an error.
    ///
    /// # Errors
    ///
    /// If luod refuses the subscription after it was restarted.
    pub fn run(&mut self) -> io::Result<()> {
        loop {
            self.step(None)?;
        }
    }

    /// Waits for an event of luod, up to `timeout`, and handles it.
    ///
    /// If the connection is closed, this connects again. A running update is cancelled, unless the
    /// session may be part of it: then luod is asked first.
    ///
    /// # Errors
    ///
    /// See [`Self::run`].
    pub fn step(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.client.is_none() {
            return self.connect_again(timeout);
        }
        let mut timeout = timeout;
        if self.is_pending() {
            self.settle()?;
            timeout = Some(timeout.map_or(RETRY, |timeout| timeout.min(RETRY)));
        }
        let Some(client) = &mut self.client else {
            return Ok(());
        };
        let gone = match client.next(timeout) {
            Ok(None) => return Ok(()),
            Ok(Some(notice)) => self.act(notice),
            Err(error) => Err(error),
        };
        match gone {
            Ok(()) => Ok(()),
            // A refusal is not an error: the request most likely crossed with an abort, which is
            // the next event.
            Err(error) if Refused::of(&error).is_some() => Ok(()),
            Err(_) => {
                self.client = None;
                self.subscribed = false;
                self.refused.clear();
                self.cancel_all(|held| !held.ready, "the connection to luod is closed");
                self.next_try = Instant::now();
                Ok(())
            }
        }
    }

    /// Sends unsent reports to luod, if it is time.
    fn settle(&mut self) -> io::Result<()> {
        if Instant::now() < self.next_try {
            return Ok(());
        }
        self.next_try = Instant::now() + RETRY;
        self.tell();
        if self.subscribed {
            return Ok(());
        }
        match self.subscribe() {
            Err(error) => match Refused::of(&error).map(|refused| refused.code) {
                // A running update, or the last instance of the program, will end.
                Some(ErrorCode::UpdateRunning | ErrorCode::InUse | ErrorCode::TryAgain) => Ok(()),
                Some(_) => Err(error),
                // The connection is closed again.
                None => Ok(()),
            },
            Ok(()) => Ok(()),
        }
    }

    fn connect_again(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let left = self.next_try.saturating_duration_since(Instant::now());
        sleep(timeout.map_or(left, |timeout| timeout.min(left)));
        if Instant::now() < self.next_try {
            return Ok(());
        }
        self.next_try = Instant::now() + RETRY;
        match Client::connect_to(&self.path, &self.name) {
            Ok(client) => self.client = Some(client),
            Err(error) => {
                let nobody = matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                );
                if nobody {
                    // Without luod, a session that is not frozen is not part of an update.
                    self.cancel_all(|held| !held.frozen, "the connection to luod is closed");
                }
                return Ok(());
            }
        }
        if !self.take_back() {
            // The next kernel is being started. If this fails, luod reports it.
            self.client = None;
            return Ok(());
        }
        self.next_try = Instant::now();
        self.settle()
    }

    /// Refuses the update after the connection was lost. Returns false if it is too late.
    fn take_back(&mut self) -> bool {
        let ids: Vec<_> = self.held.keys().cloned().collect();
        for id in ids {
            let Some(client) = &mut self.client else {
                return false;
            };
            match client.refuse(&id, "the connection was lost") {
                Ok(()) => {}
                Err(error) => match Refused::of(&error).map(|refused| refused.code) {
                    // luod was restarted, or has ended the update: the session is not part of it.
                    Some(ErrorCode::NoSession) => {}
                    Some(_) | None => return false,
                },
            }
            self.cancel(&id, "the connection to luod was lost");
        }
        true
    }

    fn cancel_all(&mut self, which: impl Fn(&Held) -> bool, reason: &str) {
        let ids = self.held.iter().filter(|(_, held)| which(held));
        let ids: Vec<_> = ids.map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.cancel(&id, reason);
        }
    }

    fn cancel(&mut self, id: &SessionName, reason: &str) {
        // First, unpreserve its files.
        if self.held.remove(id).is_some() {
            self.participant.cancelled(id, reason);
        }
    }

    fn act(&mut self, notice: Notice) -> io::Result<()> {
        let Some(client) = &mut self.client else {
            return Ok(());
        };
        match notice {
            Notice::Prepare {
                id,
                update,
                deadline,
                ..
            } => {
                self.refused.remove(&id);
                if let Err(error) = self.participant.prepare(&id, deadline) {
                    self.refused.insert(id.clone());
                    return client.refuse_update(&id, update, &error.to_string());
                }
            }
            Notice::Preserve { id, .. } if self.refused.contains(&id) => {}
            Notice::Preserve {
                id,
                update,
                session,
                ..
            } => {
                let preserved = self.participant.preserve(&id, &session);
                let held = Held {
                    session,
                    ready: false,
                    frozen: false,
                };
                self.held.insert(id.clone(), held);
                if let Err(error) = preserved {
                    return self.give_up(&id, update, &error.to_string());
                }
                if self.participant.pauses() {
                    match client.preserved(&id) {
                        Ok(true) => return Ok(()),
                        // An older luod.
                        Ok(false) => {}
                        Err(error) if Refused::of(&error).is_some() => {
                            self.cancel(&id, &error.to_string());
                            return Ok(());
                        }
                        Err(error) => return Err(error),
                    }
                    return self.pause(&id, update);
                }
                return self.ready(&id);
            }
            Notice::Pause { id, update, .. } => return self.pause(&id, update),
            Notice::Cancelled { id, reason } => {
                self.refused.remove(&id);
                self.cancel(&id, &reason);
            }
            Notice::Frozen { id } => {
                if let Some(held) = self.held.get_mut(&id) {
                    held.frozen = true;
                    self.participant.frozen(&id);
                }
            }
        }
        Ok(())
    }

    /// Stops the work of the program, if the session is still part of the update.
    fn pause(&mut self, id: &SessionName, update: u64) -> io::Result<()> {
        let Some(held) = self.held.get(id) else {
            return Ok(());
        };
        match self.participant.pause(id, &held.session) {
            Ok(()) => self.ready(id),
            Err(error) => self.give_up(id, update, &error.to_string()),
        }
    }

    /// Reports that all files of a session are preserved.
    fn ready(&mut self, id: &SessionName) -> io::Result<()> {
        let (Some(held), Some(client)) = (self.held.get_mut(id), &mut self.client) else {
            return Ok(());
        };
        held.ready = true;
        match client.ready_with(id, held.session.bytes()) {
            Ok(()) => Ok(()),
            // The session is part of the update, or will be. luod reports it if it is not.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
            Err(error) if Refused::of(&error).is_some() => {
                self.cancel(id, &error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Refuses the update, since the files of a session cannot be preserved.
    fn give_up(&mut self, id: &SessionName, update: u64, reason: &str) -> io::Result<()> {
        let told = match &mut self.client {
            Some(client) => client.refuse_update(id, update, reason),
            None => Ok(()),
        };
        self.cancel(id, reason);
        told
    }

    /// A descriptor to poll, if luod is connected and has got all reports; call [`Self::step`] when
    /// it is readable. If this is [`None`], call [`Self::step`] about every second.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        let client = self.client.as_ref().filter(|_| !self.is_pending());
        client.map(AsFd::as_fd)
    }

    /// Returns whether [`Self::step`] has work that polling does not show.
    pub fn has_early(&self) -> bool {
        self.client.as_ref().is_some_and(Client::has_early)
    }
}

fn errno_of(error: &crate::FinishError) -> Option<i32> {
    let source = Error::source(error)?.downcast_ref::<io::Error>()?;
    errno(source)
}
