// SPDX-License-Identifier: GPL-2.0

//! A program that takes part in live updates.

use super::{client::RETRY, Client, ErrorCode, Notice, Refused, SessionName, SOCKET_PATH};
use crate::{errno, IncomingSession, OutgoingSession};
use std::{
    collections::BTreeMap,
    error::Error,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// What a [`Participant`] returns: any error will do.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// For how long [`Member::join`] waits for a luod that does not know what there is, or cannot get
/// it, or is restarted.
const PATIENCE: Duration = Duration::from_secs(60);

const EBUSY: i32 = 16;

/// What a program does in a live update.
pub trait Participant {
    /// Preserves everything that belongs to a session. From then on, what was preserved must not
    /// change in a way that the next instance of the program could not cope with, until
    /// [`Self::cancelled`] is called.
    ///
    /// # Errors
    ///
    /// Aborts the update; what the error says is shown to the operator.
    fn preserve(&mut self, id: &SessionName, session: &OutgoingSession) -> Result;

    /// The update was aborted: goes on as if nothing had happened. Also called if
    /// [`Self::preserve`] failed.
    fn cancelled(&mut self, id: &SessionName, reason: &str);

    /// Takes out of a session what was preserved by the last instance of the program.
    ///
    /// The sessions are finished when this has returned without an error for all of them. That is
    /// the point of no return: from then on, no error of luod ends [`Member::join`].
    ///
    /// # Errors
    ///
    /// All sessions are kept, and can be claimed again.
    fn restore(&mut self, id: &SessionName, session: &IncomingSession) -> Result;

    /// An update begins. [`Self::preserve`] is called next, unless this returns an error, which
    /// aborts the update.
    ///
    /// # Errors
    ///
    /// As [`Self::preserve`].
    fn prepare(&mut self, id: &SessionName, deadline: Duration) -> Result {
        let _ = (id, deadline);
        Ok(())
    }

    /// The kernel goes down next. The program may exit.
    fn frozen(&mut self, id: &SessionName) {
        let _ = id;
    }
}

/// A session that is being preserved.
#[derive(Debug)]
pub(super) struct Held {
    _session: OutgoingSession,
    /// Whether luod may count on it.
    ready: bool,
    frozen: bool,
}

/// A program that takes part in live updates.
#[derive(Debug)]
pub struct Member<P> {
    path: PathBuf,
    name: String,
    ids: Vec<SessionName>,
    participant: P,
    /// [`None`] if luod is gone.
    pub(super) client: Option<Client>,
    pub(super) held: BTreeMap<SessionName, Held>,
    restored: Vec<SessionName>,
    /// Restored sessions that the kernel did not want to finish yet.
    unfinished: Vec<(SessionName, IncomingSession)>,
    /// Finished sessions of which luod does not know that.
    untold: Vec<SessionName>,
    subscribed: bool,
    timeout: Option<Duration>,
    next_try: Instant,
}

impl<P: Participant> Member<P> {
    /// Connects to luod, restores what the previous kernel handed over, and subscribes for the
    /// next update.
    ///
    /// Waits for up to a minute if luod does not know yet what there is, or cannot get it, or is
    /// restarted: see [`Self::join_within`].
    ///
    /// # Errors
    ///
    /// If luod is not running or refuses something, or if [`Participant::restore`] fails. All
    /// sessions are left as they were then. Once they are finished, there are no errors.
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

    /// The same, and waits for up to `patience` for what luod cannot tell or do at once.
    ///
    /// # Errors
    ///
    /// See [`Self::join`]; [`io::ErrorKind::TimedOut`] if luod could not tell in time whether there
    /// is something to be restored. That does not mean that there is nothing.
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
            // What was restored is worth more than the next update.
            Err(_) if !member.restored.is_empty() => {}
            result => result?,
        }
        Ok(member)
    }

    /// Which sessions were restored when the program joined.
    pub fn restored(&self) -> &[SessionName] {
        &self.restored
    }

    /// The program's own part.
    pub fn participant(&self) -> &P {
        &self.participant
    }

    /// The program's own part.
    pub fn participant_mut(&mut self) -> &mut P {
        &mut self.participant
    }

    /// Whether luod is there, and no update is under way.
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
            // Until one of them is finished, there is a way back.
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

    /// Claims a session. A luod that is restarted is waited for.
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
                let text = format!("luod did not say whether there is a session {id}: {error}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            sleep(RETRY.min(left));
        }
    }

    /// Finishes what is left to be finished, and tells luod about it, as far as that works.
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
                    // luod does not believe it. It knows what it does.
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

    /// Whether luod is to be told something still.
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

    /// Asks luod for more time than it gives by default.
    ///
    /// # Errors
    ///
    /// If luod is gone.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.timeout = Some(timeout);
        self.subscribe()
    }

    /// Takes part for ever. Returns if that is impossible.
    ///
    /// # Errors
    ///
    /// If luod refuses the subscription after it was restarted.
    pub fn run(&mut self) -> io::Result<()> {
        loop {
            self.step(None)?;
        }
    }

    /// Waits for what luod has to say, up to `timeout`, and does it.
    ///
    /// If luod is gone, this connects again. An update that was under way is cancelled, unless luod
    /// may count on what is preserved: then it is asked first.
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
            // Nothing that luod refuses here is wrong with us; most likely it crossed with an
            // abort, of which we hear next.
            Err(error) if Refused::of(&error).is_some() => Ok(()),
            Err(_) => {
                self.client = None;
                self.subscribed = false;
                self.cancel_all(|held| !held.ready, "luod is gone");
                self.next_try = Instant::now();
                Ok(())
            }
        }
    }

    /// Tells luod what it does not know yet, if it is time.
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
                // An update that is under way, or the last instance of the program, comes to an end.
                Some(ErrorCode::UpdateRunning | ErrorCode::InUse | ErrorCode::TryAgain) => Ok(()),
                Some(_) => Err(error),
                // It is gone again.
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
                    // Without luod, nobody counts on what is not frozen.
                    self.cancel_all(|held| !held.frozen, "luod is gone");
                }
                return Ok(());
            }
        }
        if !self.take_back() {
            // The next kernel is on its way. If it does not come, luod says so.
            self.client = None;
            return Ok(());
        }
        self.next_try = Instant::now();
        self.settle()
    }

    /// Takes back that we are ready, after the connection was lost. False if that is too late.
    fn take_back(&mut self) -> bool {
        let ids: Vec<_> = self.held.keys().cloned().collect();
        for id in ids {
            let Some(client) = &mut self.client else {
                return false;
            };
            match client.refuse(&id, "the connection was lost") {
                Ok(()) => {}
                Err(error) => match Refused::of(&error).map(|refused| refused.code) {
                    // luod was restarted, or has ended the update: it does not count on us.
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
        // First of all, what is in it becomes ours again.
        if self.held.remove(id).is_some() {
            self.participant.cancelled(id, reason);
        }
    }

    fn act(&mut self, notice: Notice) -> io::Result<()> {
        let Some(client) = &mut self.client else {
            return Ok(());
        };
        match notice {
            Notice::Prepare { id, deadline, .. } => {
                if let Err(error) = self.participant.prepare(&id, deadline) {
                    return client.refuse(&id, &error.to_string());
                }
            }
            Notice::Preserve { id, session, .. } => {
                let preserved = self.participant.preserve(&id, &session);
                let held = Held {
                    _session: session,
                    ready: preserved.is_ok(),
                    frozen: false,
                };
                self.held.insert(id.clone(), held);
                match preserved {
                    Ok(()) => match client.ready(&id) {
                        Ok(()) => {}
                        // luod counts on it, or will. It says if not.
                        Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                        Err(error) if Refused::of(&error).is_some() => {
                            self.cancel(&id, &error.to_string());
                        }
                        Err(error) => return Err(error),
                    },
                    Err(error) => {
                        let reason = error.to_string();
                        let told = client.refuse(&id, &reason);
                        self.cancel(&id, &reason);
                        told?;
                    }
                }
            }
            Notice::Cancelled { id, reason } => self.cancel(&id, &reason),
            Notice::Frozen { id } => {
                if let Some(held) = self.held.get_mut(&id) {
                    held.frozen = true;
                    self.participant.frozen(&id);
                }
            }
        }
        Ok(())
    }

    /// Something to poll for, if luod is there and knows all that it has to; then call
    /// [`Self::step`]. Call it, too, if this is [`None`], about every second.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        let client = self.client.as_ref().filter(|_| !self.is_pending());
        client.map(AsFd::as_fd)
    }

    /// Whether [`Self::step`] has something to do that polling would not show.
    pub fn has_early(&self) -> bool {
        self.client.as_ref().is_some_and(Client::has_early)
    }
}

fn errno_of(error: &crate::FinishError) -> Option<i32> {
    let source = Error::source(error)?.downcast_ref::<io::Error>()?;
    errno(source)
}
