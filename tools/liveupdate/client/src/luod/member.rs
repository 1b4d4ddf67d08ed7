// SPDX-License-Identifier: GPL-2.0

//! A program that takes part in live updates.

use super::{Client, ErrorCode, Notice, Refused, SessionName, SOCKET_PATH};
use crate::{IncomingSession, OutgoingSession};
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

/// How long to wait until something that was busy is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// How often that is done.
const RETRIES: u32 = 25;

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

    /// Takes out of a session what was preserved by the last instance of the program. The session
    /// is finished if this returns without an error.
    ///
    /// # Errors
    ///
    /// The session is kept, and can be claimed again.
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
struct Held {
    _session: OutgoingSession,
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
    client: Option<Client>,
    held: BTreeMap<SessionName, Held>,
    restored: Vec<SessionName>,
    timeout: Option<Duration>,
    next_try: Instant,
}

impl<P: Participant> Member<P> {
    /// Connects to luod, restores what the previous kernel handed over, and subscribes for the
    /// next update.
    ///
    /// # Errors
    ///
    /// If luod is not running or refuses something, or if [`Participant::restore`] fails.
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
            timeout: None,
            next_try: Instant::now(),
        };
        let mut client = Client::connect_to(&member.path, name)?;
        for id in member.ids.clone() {
            member.restore(&mut client, &id)?;
        }
        member.subscribe(client)?;
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
        self.client.is_some() && self.held.is_empty()
    }

    fn restore(&mut self, client: &mut Client, id: &SessionName) -> io::Result<()> {
        let mut retries = RETRIES;
        let session = loop {
            match client.claim(id) {
                Ok(session) => break session,
                Err(error) => {
                    let code = Refused::of(&error).map(|refused| refused.code);
                    let later = matches!(code, Some(ErrorCode::DeviceBusy | ErrorCode::InUse));
                    if !later || retries == 0 {
                        return Err(error);
                    }
                }
            }
            retries -= 1;
            sleep(RETRY);
        };
        let Some(session) = session else {
            return Ok(());
        };
        self.participant
            .restore(id, &session)
            .map_err(io::Error::other)?;
        session.finish()?;
        client.finished(id)?;
        self.restored.push(id.clone());
        Ok(())
    }

    fn subscribe(&mut self, mut client: Client) -> io::Result<()> {
        for id in &self.ids {
            client.subscribe(id, self.timeout)?;
        }
        self.client = Some(client);
        Ok(())
    }

    /// Asks luod for more time than it gives by default.
    ///
    /// # Errors
    ///
    /// If luod is gone.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.timeout = Some(timeout);
        match self.client.take() {
            Some(client) => self.subscribe(client),
            None => Ok(()),
        }
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
    /// If luod is gone, this cancels an update that was under way, and connects again.
    ///
    /// # Errors
    ///
    /// See [`Self::run`].
    pub fn step(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let Some(client) = &mut self.client else {
            return self.connect_again(timeout);
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
                // What is frozen may be on its way to the next kernel without luod.
                let lost = self.held.iter().filter(|(_, held)| !held.frozen);
                let lost: Vec<_> = lost.map(|(id, _)| id.clone()).collect();
                for id in lost {
                    self.cancel(&id, "luod is gone");
                }
                Ok(())
            }
        }
    }

    fn connect_again(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let left = self.next_try.saturating_duration_since(Instant::now());
        sleep(timeout.map_or(left, |timeout| timeout.min(left)));
        if Instant::now() < self.next_try {
            return Ok(());
        }
        self.next_try = Instant::now() + RETRY;
        let Ok(client) = Client::connect_to(&self.path, &self.name) else {
            return Ok(());
        };
        // We are still here, hence there was no update.
        let ids: Vec<_> = self.held.keys().cloned().collect();
        for id in ids {
            self.cancel(&id, "luod was restarted");
        }
        match self.subscribe(client) {
            Err(error) if Refused::of(&error).is_some() => Err(error),
            // It is gone again.
            _ => Ok(()),
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
                    frozen: false,
                };
                self.held.insert(id.clone(), held);
                match preserved {
                    Ok(()) => client.ready(&id)?,
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

    /// Something to poll for, if luod is there; then call [`Self::step`]. Call it, too, if this is
    /// [`None`], about every second.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.client.as_ref().map(AsFd::as_fd)
    }

    /// Whether [`Self::step`] has something to do that polling would not show.
    pub fn has_early(&self) -> bool {
        self.client.as_ref().is_some_and(Client::has_early)
    }
}
