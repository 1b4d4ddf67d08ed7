// SPDX-License-Identifier: GPL-2.0

//! What came from the previous kernel.

use super::{give, micros, view::Bridge, Answer, ConnId, Machine, Refusal};
use crate::{
    config::Config,
    registry::{self, Lost, Registry},
    world::World,
};
use liveupdate::{errno, IncomingSession, Token};
use luod_protocol::{
    Direction, ErrorCode, Event, Mark, MarkName, Outcome, Report, SessionName, SessionReport,
    SessionState, Stamp,
};
use rustix::io::Errno;
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

/// For how long luod tries to open the device when it starts.
const START_TRIES: u32 = 200;

/// How long it waits in between.
const START_WAIT: Duration = Duration::from_millis(50);

/// A token that nobody is likely to use.
const NO_TOKEN: Token = u64::MAX;

/// What luod has of a session.
#[derive(Debug)]
enum Held {
    /// The session.
    Here(IncomingSession),
    /// Somebody else has it open.
    Elsewhere,
    /// It cannot be had.
    Failed,
    /// It is finished, or gone.
    Finished,
}

/// A session that the previous kernel handed over.
#[derive(Debug)]
pub(super) struct Incoming {
    held: Held,
    /// The client that has claimed it.
    pub(super) conn: Option<ConnId>,
    pub(super) client: Option<String>,
    pub(super) since: Stamp,
    pub(super) error: Option<String>,
    ready: Option<Stamp>,
    preserve_us: Option<u64>,
    claimed: Option<Stamp>,
    restore_us: Option<u64>,
    blackout_us: Option<u64>,
}

impl Incoming {
    /// Whether there is nothing left to do about it.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.held, Held::Finished)
    }

    pub(super) fn state(&self) -> SessionState {
        match (&self.held, self.conn) {
            (Held::Finished, _) => SessionState::Finished,
            (_, Some(_)) => SessionState::Claimed,
            (Held::Here(_), None) => SessionState::Unclaimed,
            (Held::Elsewhere, None) => SessionState::Elsewhere,
            (Held::Failed, None) => SessionState::Failed,
        }
    }
}

/// What is known of the update that led to this kernel.
#[derive(Debug)]
pub(super) struct Arrival {
    update: u64,
    from: String,
    bridge: Bridge,
    marks: Vec<Mark>,
    /// What did not come along.
    lost: Vec<Lost>,
}

/// Tells what a failure to retrieve a session means.
fn held(result: io::Result<IncomingSession>) -> (Held, Option<String>) {
    match result {
        Ok(session) => (Held::Here(session), None),
        Err(error) => match errno(&error).map(Errno::from_raw_os_error) {
            Some(Errno::BUSY) => (Held::Elsewhere, None),
            // luod may have been started once more since it was finished.
            Some(Errno::NOENT) => (
                Held::Finished,
                Some("the kernel has no such session: it is finished, or was lost".into()),
            ),
            _ => (Held::Failed, Some(error.to_string())),
        },
    }
}

impl<W: World> Machine<W> {
    /// Starts, and finds what the previous kernel handed over.
    ///
    /// `store` is what the service manager kept for us.
    pub fn start(world: W, config: Config, store: Vec<(String, OwnedFd)>) -> Self {
        let mut machine = Self::new(world, config);
        let started = machine.world.now();
        machine.recall();
        let mut store: BTreeMap<String, IncomingSession> = store
            .into_iter()
            .map(|(name, fd)| (name, IncomingSession::from(fd)))
            .collect();
        match machine.find_registry(&mut store) {
            Ok(Some(registry)) => machine.arrive(registry, &mut store, started),
            Ok(None) => {}
            Err(error) => {
                tracing::error!("the sessions of the last update cannot be found: {error}");
                machine.problem = Some(format!(
                    "the sessions of the last update cannot be found: {error}"
                ));
            }
        }
        machine.sort_out(store);
        machine.finish_if_done();
        machine
    }

    /// Gets the session with the registry, and the registry out of it.
    fn find_registry(
        &mut self,
        store: &mut BTreeMap<String, IncomingSession>,
    ) -> io::Result<Option<Registry>> {
        let stored = store.remove(registry::SESSION);
        let is_stored = stored.is_some();
        let session = match stored {
            Some(session) => session,
            None => match self.retrieve(registry::SESSION) {
                Ok(session) => session,
                Err(error) if errno(&error) == Some(Errno::NOENT.raw_os_error()) => {
                    return Ok(None)
                }
                Err(error) => return Err(error),
            },
        };
        match Registry::retrieve(&session) {
            Ok(registry) => {
                if !is_stored {
                    self.world.keep(registry::SESSION, session.as_fd());
                }
                self.internal = Some(session);
                Ok(Some(registry))
            }
            // An outgoing session: luod died in the middle of an update, which is over by that.
            Err(error) if errno(&error) == Some(Errno::INVAL.raw_os_error()) => {
                self.world.forget(registry::SESSION);
                tracing::warn!("an update was under way when luod was stopped: it is aborted");
                Ok(None)
            }
            Err(error) => {
                // Keep it open: on kernels that finish what is closed, this is all there is.
                self.internal = Some(session);
                Err(error)
            }
        }
    }

    /// Retrieves a session, and waits if somebody else has the device open.
    fn retrieve(&mut self, name: &str) -> io::Result<IncomingSession> {
        let mut tries = START_TRIES;
        loop {
            match self.world.open() {
                Ok(device) => return device.retrieve_session(name),
                Err(error) if errno(&error) == Some(Errno::NOENT.raw_os_error()) => {
                    self.problem = Some(
                        "there is no /dev/liveupdate; start the kernel with liveupdate=on".into(),
                    );
                    return Err(error);
                }
                Err(error) => {
                    let busy = errno(&error) == Some(Errno::BUSY.raw_os_error());
                    if !busy || tries == 0 {
                        return Err(error);
                    }
                }
            }
            tries -= 1;
            self.world.sleep(START_WAIT);
        }
    }

    /// An update has led to this kernel.
    fn arrive(
        &mut self,
        registry: Registry,
        store: &mut BTreeMap<String, IncomingSession>,
        started: Stamp,
    ) {
        self.number = self.number.max(registry.update);
        // What is known of this update is better than what was remembered of it.
        self.last = self.last.take_if(|last| last.update > registry.update);
        let now = self.world.now();
        for entry in registry.sessions {
            let stored = store.remove(entry.name.as_str());
            let is_stored = stored.is_some();
            let (held, error) = match stored {
                Some(session) => (Held::Here(session), None),
                None => held(self.retrieve(entry.name.as_str())),
            };
            if let (Held::Here(session), false) = (&held, is_stored) {
                self.world.keep(entry.name.as_str(), session.as_fd());
            }
            if let Some(error) = &error {
                tracing::warn!(session = %entry.name, "{error}");
            }
            let incoming = Incoming {
                held,
                conn: None,
                client: entry.client,
                since: now,
                error,
                ready: Some(entry.ready),
                preserve_us: Some(entry.preserve_us),
                claimed: None,
                restore_us: None,
                blackout_us: None,
            };
            self.incoming.insert(entry.name, incoming);
        }
        for name in registry.dropped {
            let finished = self.retrieve(name.as_str()).map(IncomingSession::finish);
            if finished.is_ok() {
                tracing::warn!(session = %name, "discarded: it was left out of a forced update");
            }
        }
        for lost in &registry.lost {
            tracing::error!(session = %lost.name, lost.client, "was not preserved: {}", lost.error);
        }
        let mut marks = registry.marks;
        let khz = registry.tsc_khz;
        let uptime = self.world.uptime_us();
        let ticks = khz.map(|khz| (u128::from(uptime) * u128::from(khz) / 1000) as u64);
        let boot = Stamp {
            realtime_us: now.realtime_us.saturating_sub(uptime),
            monotonic_us: 0,
            tsc: now
                .tsc
                .zip(ticks)
                .map(|(tsc, ticks)| tsc.saturating_sub(ticks)),
        };
        let serving = self.world.now();
        for (name, stamp) in [
            (MarkName::Boot, boot),
            (MarkName::Luod, started),
            (MarkName::Serving, serving),
        ] {
            marks.push(Mark {
                name,
                stamp,
                offset_us: None,
            });
        }
        tracing::info!(
            update = registry.update,
            sessions = self.incoming.len(),
            from = registry.kernel,
            "updated"
        );
        self.arrival = Some(Arrival {
            update: registry.update,
            from: registry.kernel,
            bridge: Bridge { tsc_khz: khz },
            marks,
            lost: registry.lost,
        });
    }

    /// Looks at what is left in the store: sessions of an update that luod did not live to see the
    /// end of, or of a luod whose registry is lost.
    fn sort_out(&mut self, store: BTreeMap<String, IncomingSession>) {
        let now = self.world.now();
        for (name, session) in store {
            let asked = session.retrieve(NO_TOKEN);
            let incoming = match &asked {
                Ok(_) => true,
                Err(error) => errno(error) == Some(Errno::NOENT.raw_os_error()),
            };
            let known = SessionName::new(name.as_str()).ok();
            match known.filter(|_| incoming) {
                Some(known) => {
                    let error = Some("it is not in the registry".to_owned());
                    let incoming = Incoming {
                        held: Held::Here(session),
                        conn: None,
                        client: None,
                        since: now,
                        error,
                        ready: None,
                        preserve_us: None,
                        claimed: None,
                        restore_us: None,
                        blackout_us: None,
                    };
                    self.incoming.insert(known, incoming);
                }
                None => self.world.forget(&name),
            }
        }
    }

    pub(super) fn claim(&mut self, conn: ConnId, id: SessionName) -> Result<Answer, Refusal> {
        let Some(peer) = self.peers.get(&conn) else {
            return Ok(Answer::Sent);
        };
        let (credentials, client) = (peer.credentials, peer.client.clone());
        if !self.config.may_use(credentials, &id) {
            return Err(self.not_allowed(conn, &id));
        }
        self.incoming_session(&id)?;
        let now = self.world.now();
        self.try_again(&id)?;
        let Some(incoming) = self.incoming.get_mut(&id) else {
            return Ok(Answer::Sent);
        };
        if incoming.conn.is_some_and(|other| other != conn) {
            return Err(Refusal::new(
                ErrorCode::InUse,
                format!("another client has claimed the session {id}"),
            ));
        }
        let fd = match &incoming.held {
            Held::Here(session) => give(session),
            Held::Elsewhere | Held::Failed | Held::Finished => {
                return Err(Refusal::new(
                    ErrorCode::InUse,
                    format!("another process has the session {id} open"),
                ))
            }
        };
        let fd = fd.map_err(|error| Refusal::new(ErrorCode::Kernel, error.to_string()))?;
        incoming.conn = Some(conn);
        incoming.client = client.or_else(|| incoming.client.take());
        incoming.since = now;
        incoming.claimed.get_or_insert(now);
        tracing::info!(session = %id, pid = credentials.pid, uid = credentials.uid, "claimed");
        let all_claimed = self.incoming.values().all(|s| s.claimed.is_some());
        if all_claimed {
            self.arrival_mark(MarkName::Claimed);
        }
        self.announce_change(&id, Direction::Incoming);
        let update = self.arrival.as_ref().map_or(0, |arrival| arrival.update);
        Ok(Answer::Event(Event::Session { id, update }, Some(fd)))
    }

    /// Finds a session that is not finished.
    fn incoming_session(&mut self, id: &SessionName) -> Result<&mut Incoming, Refusal> {
        let session = self.incoming.get_mut(id);
        session.filter(|session| !session.is_done()).ok_or_else(|| {
            Refusal::new(
                ErrorCode::NoSession,
                format!("there is no session {id} of a previous kernel, or it is finished"),
            )
        })
    }

    /// Retrieves a session that somebody else had, or that failed, if that is possible now.
    fn try_again(&mut self, id: &SessionName) -> Result<(), Refusal> {
        if !matches!(
            self.incoming.get(id).map(|session| &session.held),
            Some(Held::Elsewhere | Held::Failed)
        ) {
            return Ok(());
        }
        let device = self.world.open().map_err(|error| {
            let busy = errno(&error) == Some(Errno::BUSY.raw_os_error());
            let code = if busy {
                ErrorCode::DeviceBusy
            } else {
                ErrorCode::NoDevice
            };
            Refusal::new(code, format!("{error}; try it again"))
        })?;
        let (held, error) = held(device.retrieve_session(id));
        drop(device);
        if let Held::Here(session) = &held {
            self.world.keep(id.as_str(), session.as_fd());
        }
        if let Some(incoming) = self.incoming.get_mut(id) {
            incoming.held = held;
            incoming.error = error;
        }
        if self.incoming.get(id).is_some_and(Incoming::is_done) {
            self.finish_if_done();
        }
        self.incoming_session(id).map(|_| ())
    }

    pub(super) fn finished(&mut self, conn: ConnId, id: &SessionName) -> Result<Answer, Refusal> {
        let incoming = self.incoming_session(id)?;
        if incoming.conn != Some(conn) {
            return Err(Refusal::new(
                ErrorCode::WrongState,
                format!("this connection has not claimed the session {id}"),
            ));
        }
        self.finish(id)?;
        Ok(Answer::Done)
    }

    pub(super) fn operator_finishes(&mut self, id: &SessionName) -> Result<Answer, Refusal> {
        let state = self.incoming_session(id)?.state();
        if state != SessionState::Claimed {
            return Err(Refusal::new(
                ErrorCode::WrongState,
                format!("nobody has claimed the session {id}; to lose what is in it, discard it"),
            ));
        }
        self.finish(id)?;
        Ok(Answer::Done)
    }

    pub(super) fn operator_discards(&mut self, id: &SessionName) -> Result<Answer, Refusal> {
        self.incoming_session(id)?;
        self.try_again(id)?;
        let incoming = self.incoming_session(id)?;
        match incoming.state() {
            SessionState::Unclaimed => self.finish(id)?,
            SessionState::Failed => {
                // Nothing can be done about it but to forget it.
                incoming.held = Held::Finished;
                self.ended(id);
            }
            _ => {
                return Err(Refusal::new(
                    ErrorCode::InUse,
                    format!("somebody has the session {id}; finish it, or stop who has it"),
                ))
            }
        }
        Ok(Answer::Done)
    }

    /// Finishes a session, if its client has not done that.
    fn finish(&mut self, id: &SessionName) -> Result<(), Refusal> {
        let incoming = self.incoming_session(id)?;
        if let Held::Here(session) = std::mem::replace(&mut incoming.held, Held::Finished) {
            // It does no harm if the client has done the same.
            if let Err(error) = session.finish() {
                let refusal = Refusal::new(ErrorCode::Kernel, error.to_string());
                incoming.held = Held::Here(error.into_session());
                return Err(refusal);
            }
        }
        self.ended(id);
        Ok(())
    }

    /// A session has come to its end.
    fn ended(&mut self, id: &SessionName) {
        let now = self.world.now();
        let bridge = self.arrival.as_ref().map(|arrival| arrival.bridge);
        if let Some(incoming) = self.incoming.get_mut(id) {
            incoming.since = now;
            if incoming.conn.take().is_some() {
                incoming.restore_us = incoming.claimed.map(|claimed| micros(claimed, now));
                incoming.blackout_us = bridge
                    .zip(incoming.ready)
                    .and_then(|(bridge, ready)| bridge.micros(ready, now));
            }
        }
        tracing::info!(session = %id, "finished");
        self.world.forget(id.as_str());
        self.announce_change(id, Direction::Incoming);
        self.finish_if_done();
    }

    /// Finishes our own session when all others are.
    fn finish_if_done(&mut self) {
        if !self.incoming.values().all(Incoming::is_done) {
            return;
        }
        let Some(session) = self.internal.take_if(|_| self.arrival.is_some()) else {
            return;
        };
        self.world.forget(registry::SESSION);
        if let Err(error) = session.finish() {
            tracing::warn!("{error}");
        }
        self.arrival_mark(MarkName::Finished);
        if let Some(report) = self.arrival_report() {
            self.announce(&Event::Result(report));
        }
        self.remember();
        self.announce_phase();
    }

    fn arrival_mark(&mut self, name: MarkName) {
        let stamp = self.world.now();
        if let Some(arrival) = &mut self.arrival {
            if arrival.marks.iter().all(|mark| mark.name != name) {
                arrival.marks.push(Mark {
                    name,
                    stamp,
                    offset_us: None,
                });
            }
        }
    }

    /// A connection is gone: what it claimed can be claimed again.
    pub(super) fn claimant_left(&mut self, conn: ConnId) {
        let now = self.world.now();
        let mut left = Vec::new();
        for (name, incoming) in &mut self.incoming {
            if incoming.conn == Some(conn) {
                tracing::warn!(session = %name, "the client left before the session was finished");
                incoming.conn = None;
                incoming.since = now;
                left.push(name.clone());
            }
        }
        for name in left {
            self.announce_change(&name, Direction::Incoming);
        }
    }

    /// Finishes what nobody has finished, since the next update cannot carry it.
    pub(super) fn discard_unfinished(&mut self) {
        let names: Vec<SessionName> = self.incoming.keys().cloned().collect();
        for name in names {
            if let Some(incoming) = self.incoming.get_mut(&name).filter(|s| !s.is_done()) {
                tracing::warn!(session = %name, "discarded by a forced update");
                let held = std::mem::replace(&mut incoming.held, Held::Finished);
                if let Held::Here(session) = held {
                    if let Err(error) = session.finish() {
                        tracing::warn!(session = %name, "{error}");
                    }
                }
                self.ended(&name);
            }
        }
    }

    /// What is known of the update that led to this kernel.
    pub(super) fn arrival_report(&self) -> Option<Report> {
        let arrival = self.arrival.as_ref()?;
        let find = |name| {
            let mut marks = arrival.marks.iter();
            marks.find(|mark| mark.name == name).map(|mark| mark.stamp)
        };
        let between = |from, to| arrival.bridge.micros(find(from)?, find(to)?);
        let jump = find(MarkName::Jump).zip(find(MarkName::Serving));
        let sessions = self.incoming.iter();
        let lost = arrival.lost.iter().map(|lost| SessionReport {
            session: lost.name.clone(),
            client: lost.client.clone(),
            state: SessionState::Dropped,
            preserve_us: None,
            restore_us: None,
            blackout_us: None,
            error: Some(lost.error.clone()),
        });
        Some(Report {
            update: arrival.update,
            outcome: Outcome::Updated,
            reason: None,
            from: Some(arrival.from.clone()),
            to: Some(self.world.release()),
            marks: super::view::with_offsets(arrival.marks.clone(), Some(arrival.bridge)),
            sessions: sessions
                .map(|(name, session)| SessionReport {
                    session: name.clone(),
                    client: session.client.clone(),
                    state: session.state(),
                    preserve_us: session.preserve_us,
                    restore_us: session.restore_us,
                    blackout_us: session.blackout_us,
                    error: session.error.clone(),
                })
                .chain(lost)
                .collect(),
            jump_us: between(MarkName::Jump, MarkName::Serving),
            blackout_us: between(MarkName::Ready, MarkName::Finished),
            precision_us: jump.map(|(from, to)| arrival.bridge.precision_us(from, to)),
        })
    }
}
