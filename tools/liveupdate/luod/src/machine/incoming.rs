// SPDX-License-Identifier: GPL-2.0

//! Sessions of the previous kernel.

use super::{
    give,
    lookup::{is, is_finished, Backoff},
    Answer, Caller, ConnId, Machine, Refusal,
};
use crate::{audit, config::Credentials, world::World};
use liveupdate::{errno, Device, IncomingSession};
use luod_protocol::{
    Direction, ErrorCode, Event, Mark, MarkName, Outcome, Report, SessionName, SessionReport,
    SessionState, Stamp,
};
use rustix::io::Errno;
use std::{collections::BTreeSet, io, os::fd::AsFd};

/// The longest time until luod asks the kernel again whether a session is finished, in
/// microseconds.
const LONGEST_WAIT_US: u64 = 60_000_000;

/// The descriptor of a session, or why luod has none.
#[derive(Debug)]
pub(super) enum Held {
    /// The session.
    Here(IncomingSession),
    /// Another process has it open.
    Elsewhere,
    /// It cannot be retrieved.
    Failed,
    /// It is finished, or lost.
    Finished,
    /// It was discarded: its contents are lost.
    Discarded,
}

/// A session that the previous kernel handed over.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) held: Held,
    /// Whether it is being finished: see `ending`.
    pub(super) ending: bool,
    /// Whether an alarm was logged, since no client has claimed it.
    pub(super) overdue: bool,
    /// Whether it is in the registry.
    pub(super) registered: bool,
    /// The user whose client preserved it, if the registry names it.
    pub(super) owner: Option<u32>,
    /// The client that has claimed it.
    pub(super) conn: Option<ConnId>,
    pub(super) client: Option<String>,
    pub(super) since: Stamp,
    pub(super) error: Option<String>,
    pub(super) ready: Option<Stamp>,
    pub(super) preserve_us: Option<u64>,
    pub(super) bytes: Option<u64>,
    pub(super) claimed: Option<Stamp>,
    pub(super) restore_us: Option<u64>,
    pub(super) blackout_us: Option<u64>,
}

impl Incoming {
    pub(super) fn new(held: Held, since: Stamp, error: Option<String>) -> Self {
        Self {
            held,
            ending: false,
            overdue: false,
            registered: false,
            owner: None,
            conn: None,
            client: None,
            since,
            error,
            ready: None,
            preserve_us: None,
            bytes: None,
            claimed: None,
            restore_us: None,
            blackout_us: None,
        }
    }

    /// Returns whether the session has ended.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.held, Held::Finished | Held::Discarded)
    }

    /// Returns whether the session has a known owner.
    fn is_of(&self, who: Credentials) -> bool {
        self.owner.is_none_or(|owner| owner == who.uid)
    }

    pub(super) fn state(&self) -> SessionState {
        match (&self.held, self.conn) {
            (Held::Finished, _) => SessionState::Finished,
            (Held::Discarded, _) => SessionState::Discarded,
            (_, Some(_)) => SessionState::Claimed,
            (Held::Here(_), None) => SessionState::Unclaimed,
            (Held::Elsewhere, None) => SessionState::Elsewhere,
            (Held::Failed, None) => SessionState::Failed,
        }
    }
}

/// Sessions that may be finished without luod having been told: their holder has disconnected, or
/// is not a client.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    pub(super) names: BTreeSet<SessionName>,
    /// When the kernel is asked again.
    retry: Option<Backoff>,
}

impl Doubts {
    /// When the kernel is asked again.
    pub(super) fn next_tick(&self) -> Option<u64> {
        self.retry.map(|retry| retry.at)
    }
}

/// Interprets a failure to retrieve a session.
pub(super) fn held(result: io::Result<IncomingSession>) -> (Held, Option<String>) {
    match result {
        Ok(session) => (Held::Here(session), None),
        Err(error) => match errno(&error).map(Errno::from_raw_os_error) {
            Some(Errno::BUSY) => (Held::Elsewhere, None),
            // luod may have been restarted since it was finished.
            Some(Errno::NOENT) => (
                Held::Finished,
                Some("the kernel has no such session: it is finished, or was lost".into()),
            ),
            _ => (Held::Failed, Some(error.to_string())),
        },
    }
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its client has retrieved all files.
    Finished,
    /// Its contents are lost.
    Discarded,
}

/// The refusal of a request for a session that is being finished.
pub(super) fn is_ending(id: &SessionName) -> Refusal {
    Refusal::new(
        ErrorCode::InUse,
        format!("the session {id} is being finished; wait until this is done"),
    )
}

impl<W: World> Machine<W> {
    /// Adds a session, or replaces its entry.
    pub(super) fn add_incoming(&mut self, name: SessionName, session: Incoming) {
        if session.is_done() {
            self.unfinished.remove(&name);
        } else {
            self.unfinished.insert(name.clone());
        }
        self.incoming.insert(name, session);
    }

    pub(super) fn claim(&mut self, conn: ConnId, id: SessionName) -> Result<Answer, Refusal> {
        let Some(peer) = self.peers.get(&conn) else {
            return Ok(Answer::Sent);
        };
        let (credentials, client) = (peer.who.credentials, peer.client.clone());
        if !self.config.may_use(&peer.who, &id) {
            return Err(self.not_allowed(conn, &id));
        }
        let operator = self.config.is_operator(&peer.who);
        let incoming = self.incoming_session(&id)?;
        if !incoming.is_of(credentials) && !operator {
            return Err(Refusal::new(
                ErrorCode::NotAllowed,
                format!("the session {id} is of another user, whose client preserved it"),
            ));
        }
        if !incoming.registered && !operator {
            // The registry may name its owner.
            self.known()?;
        }
        let now = self.world.now();
        if self.doubts.names.contains(&id) {
            self.settle_doubt(&id)?;
        }
        self.try_again(&id)?;
        let Some(incoming) = self.incoming.get_mut(&id) else {
            return Ok(Answer::Sent);
        };
        if incoming.ending {
            return Err(is_ending(&id));
        }
        if incoming.conn.is_some_and(|other| other != conn) {
            return Err(Refusal::new(
                ErrorCode::InUse,
                format!("another client has claimed the session {id}"),
            ));
        }
        let fd = match &incoming.held {
            Held::Here(session) => give(session),
            Held::Failed => {
                let why = incoming.error.clone().unwrap_or_default();
                return Err(Refusal::new(ErrorCode::Kernel, why));
            }
            Held::Elsewhere | Held::Finished | Held::Discarded => {
                return Err(Refusal::new(
                    ErrorCode::InUse,
                    format!("another process has the session {id} open"),
                ))
            }
        };
        let fd = fd.map_err(|error| Refusal::new(ErrorCode::Kernel, error.to_string()))?;
        incoming.conn = Some(conn);
        incoming.overdue = false;
        incoming.client = client.or_else(|| incoming.client.take());
        incoming.since = now;
        incoming.claimed.get_or_insert(now);
        tracing::info!(
            message_id = audit::CLAIMED,
            session = %id,
            update = self.number,
            uid = credentials.uid,
            pid = credentials.pid,
            "the session {id} is claimed{}",
            audit::by(Some(credentials))
        );
        if let Some(peer) = self.peers.get_mut(&conn) {
            peer.claimed.insert(id.clone());
        }
        if self.unclaimed.all(&self.incoming, |s| s.claimed.is_some()) {
            self.arrival_mark(MarkName::Claimed);
        }
        self.announce_change(&id, Direction::Incoming);
        let update = self.arrival.as_ref().map_or(0, |arrival| arrival.update);
        Ok(Answer::Event(Event::Session { id, update }, Some(fd)))
    }

    /// Finds a session that is not finished.
    pub(super) fn incoming_session(&mut self, id: &SessionName) -> Result<&mut Incoming, Refusal> {
        if !self.incoming.contains_key(id) {
            self.known()?;
        }
        let session = self.incoming.get_mut(id);
        session.filter(|session| !session.is_done()).ok_or_else(|| {
            Refusal::new(
                ErrorCode::NoSession,
                format!("there is no session {id} of a previous kernel, or it is finished"),
            )
        })
    }

    /// Retrieves a session that another process had open, or that failed, if that is possible now.
    pub(super) fn try_again(&mut self, id: &SessionName) -> Result<(), Refusal> {
        if !matches!(
            self.incoming.get(id).map(|session| &session.held),
            Some(Held::Elsewhere | Held::Failed)
        ) {
            return Ok(());
        }
        let device = self.open_for(id)?;
        self.take(&device, id);
        drop(device);
        self.finish_if_done();
        self.incoming_session(id).map(|_| ())
    }

    /// Opens the device to ask for a session.
    fn open_for(&mut self, id: &SessionName) -> Result<Device, Refusal> {
        self.world.open().map_err(|error| {
            let code = if is(&error, Errno::BUSY) {
                ErrorCode::DeviceBusy
            } else {
                ErrorCode::NoDevice
            };
            Refusal::new(
                code,
                format!("cannot ask for the session {id}: {error}; try again"),
            )
        })
    }

    /// Retrieves a session that luod does not have open.
    pub(super) fn take(&mut self, device: &Device, id: &SessionName) {
        let (held, error) = held(device.retrieve_session(id));
        if let Held::Here(session) = &held {
            self.world.keep(id.as_str(), session.as_fd());
        }
        if !matches!(held, Held::Elsewhere) {
            self.doubts.names.remove(id);
        }
        if matches!(held, Held::Finished) {
            // Its holder has finished it.
            return self.ended(id, End::Finished, None);
        }
        if let Some(incoming) = self.incoming.get_mut(id) {
            incoming.held = held;
            incoming.error = error;
        }
    }

    /// Registers a session for periodic checks whether it is finished.
    pub(super) fn doubt(&mut self, id: &SessionName) {
        let now = self.world.now();
        self.doubts.names.insert(id.clone());
        self.doubts.retry = Some(Backoff::start(now));
    }

    /// Asks the kernel whether a session is finished. After an answer, the session is not checked
    /// again.
    fn ask_kernel(&mut self, device: &Device, id: &SessionName) {
        if self.incoming.get(id).is_some_and(|session| session.ending) {
            // The result of finishing it is reported later.
            return;
        }
        match self.incoming.get(id).map(|session| &session.held) {
            Some(Held::Here(_)) => {
                self.doubts.names.remove(id);
                if is_finished(device, id) == Some(true) {
                    self.ended(id, End::Finished, None);
                }
            }
            Some(Held::Elsewhere) => self.take(device, id),
            _ => {
                self.doubts.names.remove(id);
            }
        }
    }

    /// Asks the kernel before a session is given to another client.
    fn settle_doubt(&mut self, id: &SessionName) -> Result<(), Refusal> {
        match self.open_for(id) {
            Ok(device) => self.ask_kernel(&device, id),
            Err(refusal) if refusal.code == ErrorCode::DeviceBusy => return Err(refusal),
            // The kernel cannot tell. luod gives away its session.
            Err(_) => {
                self.doubts.names.remove(id);
            }
        }
        self.incoming_session(id).map(|_| ())
    }

    /// Asks the kernel about all sessions that may be finished, if it is time.
    pub(super) fn settle_doubts(&mut self) {
        let now = self.world.now();
        let Some(retry) = self.doubts.retry.filter(|r| r.at <= now.monotonic_us) else {
            return;
        };
        if let Ok(device) = self.world.open() {
            for name in self.doubts.names.clone() {
                self.ask_kernel(&device, &name);
            }
        }
        let left = !self.doubts.names.is_empty();
        self.doubts.retry = left.then(|| retry.again(now, LONGEST_WAIT_US));
    }

    pub(super) fn finished(
        &mut self,
        caller: &Caller,
        id: &SessionName,
    ) -> Result<Answer, Refusal> {
        let (conn, who) = (caller.conn, caller.who);
        let peer = self.peers.get(&conn);
        let may = peer.is_some_and(|peer| self.config.may_use(&peer.who, id));
        let incoming = self.incoming_session(id)?;
        if incoming.conn == Some(conn) {
            return self.finish(id, End::Finished, Some(caller));
        }
        // A client repeats the request if luod did not answer, or was restarted: then the kernel is
        // asked.
        if incoming.conn.is_none() && incoming.is_of(who) && may {
            let device = self.open_for(id)?;
            self.ask_kernel(&device, id);
            if self.incoming.get(id).is_some_and(Incoming::is_done) {
                return Ok(Answer::Done);
            }
        }
        Err(Refusal::new(
            ErrorCode::WrongState,
            format!("this connection has not claimed the session {id}, which is not finished"),
        ))
    }

    pub(super) fn arrival_mark(&mut self, name: MarkName) {
        let stamp = self.world.now();
        if let Some(arrival) = &mut self.arrival {
            if arrival.marks.iter().all(|mark| mark.name != name) {
                arrival.marks.push(Mark::new(name, stamp));
            }
        }
    }

    /// Handles a closed connection: its claimed sessions can be claimed again, unless they are
    /// finished.
    pub(super) fn claimant_left(&mut self, conn: ConnId, claimed: BTreeSet<SessionName>) {
        let now = self.world.now();
        let mut left = Vec::new();
        for name in claimed {
            let incoming = self.incoming.get_mut(&name);
            if let Some(incoming) = incoming.filter(|s| s.conn == Some(conn)) {
                incoming.conn = None;
                incoming.since = now;
                left.push(name);
            }
        }
        if left.is_empty() {
            return;
        }
        self.watch_unclaimed();
        let device = self.world.open().ok();
        for name in left {
            if self
                .incoming
                .get(&name)
                .is_some_and(|session| session.ending)
            {
                continue;
            }
            match &device {
                Some(device) => self.ask_kernel(device, &name),
                None => self.doubt(&name),
            }
            if self.incoming.get(&name).is_some_and(|s| !s.is_done()) {
                tracing::warn!(
                    session = %name,
                    "the client of the session {name} disconnected before reporting the session as finished"
                );
                self.announce_change(&name, Direction::Incoming);
            }
        }
    }

    /// The update that started this kernel.
    pub(super) fn arrival_report(&self) -> Option<Report> {
        let arrival = self.arrival.as_ref()?;
        let find = |name| {
            let mut marks = arrival.marks.iter();
            marks.find(|mark| mark.name == name).map(|mark| mark.stamp)
        };
        let between = |from, to| arrival.bridge.micros(find(from)?, find(to)?);
        let jump = find(MarkName::Jump).zip(find(MarkName::Serving));
        let sessions = self.incoming.iter();
        let sessions = sessions.map(|(name, session)| {
            let mut report = SessionReport::new(name.clone(), session.state());
            report.client = session.client.clone();
            report.preserve_us = session.preserve_us;
            report.restore_us = session.restore_us;
            report.blackout_us = session.blackout_us;
            report.error = session.error.clone();
            report
        });
        let lost = arrival.lost.iter().map(|lost| {
            let mut report = SessionReport::new(lost.name.clone(), SessionState::Dropped);
            report.client = lost.client.clone();
            report.error = Some(lost.error.clone());
            report
        });
        let mut report = Report::new(arrival.update, Outcome::Updated);
        report.from = Some(arrival.from.clone());
        report.to = Some(self.world.release());
        report.marks = super::view::with_offsets(arrival.marks.clone(), Some(arrival.bridge));
        report.sessions = sessions.chain(lost).collect();
        report.jump_us = between(MarkName::Jump, MarkName::Serving);
        report.blackout_us = between(MarkName::Ready, MarkName::Finished);
        report.precision_us = jump.map(|(from, to)| arrival.bridge.precision_us(from, to));
        Some(report)
    }
}
