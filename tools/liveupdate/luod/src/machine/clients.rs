// SPDX-License-Identifier: GPL-2.0

//! Requests of clients before and during an update.

use super::{micros, Answer, ConnId, Machine, Part, Pause, Refusal, Subscription};
use crate::{audit, world::World};
use liveupdate::Device;
use luod_protocol::{
    Direction, ErrorCode, Event, Phase, Progress, SessionName, SessionState, VERSION,
};
use std::collections::BTreeSet;

/// The maximum length of texts of clients, in characters.
const TEXT_MAX: usize = 200;

/// The maximum length of the name of a client, in characters.
const NAME_MAX: usize = 64;

/// Text of a client, made safe for a terminal.
pub(super) fn printable(text: &str) -> String {
    crate::text::printable(text, TEXT_MAX)
}

fn crossed() -> Refusal {
    Refusal::new(
        ErrorCode::WrongState,
        "this request is not possible in this phase; it may have crossed with CANCELLED",
    )
}

impl<W: World> Machine<W> {
    pub(super) fn hello(
        &mut self,
        conn: ConnId,
        first: bool,
        version: u32,
        client: Option<String>,
    ) -> Result<Answer, Refusal> {
        if !first || version == 0 {
            let what = if first {
                "HELLO has the version 0, the first one is 1"
            } else {
                "HELLO must be the first request"
            };
            return Err(Refusal::new(ErrorCode::BadHello, what));
        }
        let phase = self.phase();
        let Some(peer) = self.peers.get_mut(&conn) else {
            return Ok(Answer::Sent);
        };
        peer.hello = true;
        peer.client = client.map(|name| crate::text::printable(&name, NAME_MAX));
        let event = Event::Hello {
            version: version.min(VERSION),
            luod: env!("CARGO_PKG_VERSION").to_owned(),
            phase: phase.in_version(version),
        };
        Ok(Answer::Event(event, None))
    }

    pub(super) fn subscribe(
        &mut self,
        conn: ConnId,
        id: SessionName,
        timeout_ms: Option<u64>,
    ) -> Result<Answer, Refusal> {
        let Some(peer) = self.peers.get(&conn) else {
            return Ok(Answer::Sent);
        };
        if !self.config.may_use(&peer.who, &id) {
            return Err(self.not_allowed(conn, &id));
        }
        if let Some(existing) = self.subscriptions.get_mut(&id) {
            if existing.conn != Some(conn) {
                return Err(Refusal::new(
                    ErrorCode::InUse,
                    format!("another client has subscribed the session {id}"),
                ));
            }
            existing.timeout_ms = timeout_ms;
            return Ok(Answer::Done);
        }
        if peer.subscribed.len() >= self.config.max_sessions_per_connection
            || self.subscriptions.len() >= self.config.max_sessions
        {
            return Err(Refusal::new(
                ErrorCode::TooMany,
                "there are too many sessions; the configuration of luod has the limits",
            ));
        }
        self.is_in_quota(&peer.who, &id)?;
        if matches!(self.phase(), Phase::Frozen | Phase::Jump) {
            return Err(Refusal::new(
                ErrorCode::UpdateRunning,
                "it is too late to subscribe for this update; subscribe again after it",
            ));
        }
        let subscription = Subscription {
            conn: Some(conn),
            client: peer.client.clone(),
            credentials: peer.who.credentials,
            timeout_ms,
            part: Part::None,
            since: self.world.now(),
            progress: None,
            error: None,
        };
        tracing::info!(
            session = %id,
            pid = peer.who.credentials.pid,
            uid = peer.who.credentials.uid,
            "the session {id} is subscribed{}",
            audit::by(Some(peer.who.credentials))
        );
        let pid = subscription.credentials.pid;
        let sessions = peer.subscribed.iter().chain([&id]);
        if let Some(limit) = self.config.memlock(&peer.who, sessions) {
            if let Err(error) = self.world.limit_memlock(&peer.who, limit) {
                tracing::warn!(
                    session = %id,
                    pid,
                    "cannot set the limit for locked memory of the process {pid}: {error}"
                );
            }
        }
        self.subscriptions.insert(id.clone(), subscription);
        if let Some(peer) = self.peers.get_mut(&conn) {
            peer.subscribed.insert(id.clone());
        }
        self.absent.remove(&id);
        self.subscribers_changed = true;
        self.announce_change(&id, Direction::Outgoing);
        if self.update.is_some() {
            // Otherwise its files would be lost in an update that has begun without it.
            self.late.push(id);
        }
        Ok(Answer::Done)
    }

    pub(super) fn not_allowed(&self, conn: ConnId, id: &SessionName) -> Refusal {
        let uid = self
            .peers
            .get(&conn)
            .map_or(0, |peer| peer.who.credentials.uid);
        Refusal::new(
            ErrorCode::NotAllowed,
            format!(
                "the configuration of luod does not permit the user {uid} to use the session {id}"
            ),
        )
    }

    pub(super) fn unsubscribe(
        &mut self,
        conn: ConnId,
        id: &SessionName,
    ) -> Result<Answer, Refusal> {
        let subscription = self.own(conn, id)?;
        if !matches!(subscription.part, Part::None | Part::Dropped) {
            return Err(Refusal::new(
                ErrorCode::UpdateRunning,
                "an update is running: send REFUSE, then UNSUBSCRIBE",
            ));
        }
        self.unsubscribed(id);
        Ok(Answer::Done)
    }

    /// Removes a subscription.
    pub(super) fn unsubscribed(&mut self, id: &SessionName) {
        if let Some(subscription) = self.subscriptions.remove(id) {
            self.subscribers_changed = true;
            let peer = subscription.conn.and_then(|conn| self.peers.get_mut(&conn));
            if let Some(peer) = peer {
                peer.subscribed.remove(id);
            }
            tracing::info!(session = %id, pid = subscription.credentials.pid, "the session {id} is unsubscribed");
            self.announce(&Event::Gone {
                session: id.clone(),
                state: SessionState::Subscribed,
            });
        }
    }

    /// Finds a subscription of this connection, or of a closed one of the same user: a client
    /// that was ready can reconnect to refuse.
    fn own(&mut self, conn: ConnId, id: &SessionName) -> Result<&mut Subscription, Refusal> {
        let who = self.who(conn);
        let missing = Refusal::new(
            ErrorCode::NoSession,
            format!("this connection has not subscribed the session {id}"),
        );
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return Err(missing);
        };
        let same_user = subscription.credentials.uid == who.uid;
        let ready = matches!(subscription.part, Part::Ready { .. });
        match subscription.conn {
            Some(owner) if owner == conn => Ok(subscription),
            None if same_user => Ok(subscription),
            // The other connection may be closed without luod having detected it: the error must
            // not mean that the session is not part of the update.
            Some(_) if same_user && ready => Err(Refusal::new(
                ErrorCode::InUse,
                format!("another connection has subscribed the session {id}"),
            )),
            _ => Err(missing),
        }
    }

    /// The subscribed sessions of a connection.
    fn own_names(&self, conn: ConnId) -> impl Iterator<Item = &SessionName> {
        let peer = self.peers.get(&conn);
        peer.into_iter().flat_map(|peer| &peer.subscribed)
    }

    /// The sessions of a request: the named one, or all sessions of the client in the update.
    fn concerned(
        &mut self,
        conn: ConnId,
        id: Option<SessionName>,
        takes_part: fn(&Part) -> bool,
    ) -> Result<Vec<SessionName>, Refusal> {
        if let Some(id) = id {
            if !takes_part(&self.own(conn, &id)?.part) {
                return Err(crossed());
            }
            return Ok(vec![id]);
        }
        let takes_part = |name: &&SessionName| {
            let subscription = self.subscriptions.get(*name);
            subscription.is_some_and(|s| takes_part(&s.part))
        };
        let own: Vec<_> = self.own_names(conn).filter(takes_part).cloned().collect();
        if own.is_empty() {
            return Err(crossed());
        }
        Ok(own)
    }

    /// Handles PRESERVED: the client still works, and stops when luod tells it to, see
    /// [`Self::pause_all`].
    pub(super) fn preserved(&mut self, conn: ConnId, id: &SessionName) -> Result<Answer, Refusal> {
        match &mut self.own(conn, id)?.part {
            Part::Preserving {
                pause: pause @ Pause::No,
                ..
            } => {
                *pause = Pause::Waits;
                tracing::info!(session = %id, "the session {id} waits for all others");
                Ok(Answer::Done)
            }
            _ => Err(crossed()),
        }
    }

    pub(super) fn ready(
        &mut self,
        conn: ConnId,
        id: Option<SessionName>,
        bytes: Option<u64>,
    ) -> Result<Answer, Refusal> {
        let all = id.is_none();
        let names = self.concerned(conn, id, |part| matches!(part, Part::Preserving { .. }))?;
        let waits = |name: &SessionName| {
            let subscription = self.subscriptions.get(name);
            subscription.is_some_and(|s| matches!(s.part, Part::Requested { .. }))
        };
        if all && self.own_names(conn).any(waits) {
            return Err(Refusal::new(
                ErrorCode::WrongState,
                "not all sessions of this connection were sent yet; name the one that is ready",
            ));
        }
        let now = self.world.now();
        for name in names {
            let Some(subscription) = self.subscriptions.get_mut(&name) else {
                continue;
            };
            let part = std::mem::replace(&mut subscription.part, Part::None);
            if let Part::Preserving { asked, session, .. } = part {
                let preserve_us = micros(asked, now);
                tracing::info!(session = %name, preserve_us, "the session {name} is ready");
                subscription.since = now;
                subscription.part = Part::Ready {
                    session,
                    ready: now,
                    preserve_us,
                    bytes,
                };
                self.announce_change(&name, Direction::Outgoing);
            }
        }
        Ok(Answer::Done)
    }

    pub(super) fn client_refuses(
        &mut self,
        conn: ConnId,
        id: Option<SessionName>,
        update: Option<u64>,
        reason: &str,
    ) -> Result<Answer, Refusal> {
        let takes_part = |part: &Part| !matches!(part, Part::None | Part::Dropped);
        let names = self.concerned(conn, id, takes_part)?;
        if update.is_some_and(|update| update != self.number) {
            return Err(crossed());
        }
        if matches!(self.phase(), Phase::Frozen | Phase::Jump) {
            return Err(Refusal::new(
                ErrorCode::WrongState,
                "it is too late to refuse: the next kernel is being started",
            ));
        }
        let reason = if reason.is_empty() {
            "the client refuses".to_owned()
        } else {
            format!("the client refuses: {}", printable(reason))
        };
        for name in names {
            self.failures.push((name, reason.clone()));
        }
        Ok(Answer::Done)
    }

    pub(super) fn progress(
        &mut self,
        conn: ConnId,
        id: Option<SessionName>,
        progress: &Progress,
    ) -> Result<Answer, Refusal> {
        let takes_part = |part: &Part| part.deadline().is_some();
        for name in self.concerned(conn, id, takes_part)? {
            if let Some(subscription) = self.subscriptions.get_mut(&name) {
                let mut progress = progress.clone();
                progress.text = progress.text.as_deref().map(printable);
                subscription.progress = Some(progress);
                self.announce_change(&name, Direction::Outgoing);
            }
        }
        Ok(Answer::Done)
    }

    /// Removes the subscriptions of a closed connection.
    pub(super) fn subscriber_left(&mut self, subscribed: BTreeSet<SessionName>) {
        let mut gone = Vec::new();
        for name in subscribed {
            let Some(subscription) = self.subscriptions.get_mut(&name) else {
                continue;
            };
            subscription.conn = None;
            match subscription.part {
                // The client is ready, and luod keeps the session open.
                Part::Ready { .. } => {}
                Part::None | Part::Dropped => gone.push(name),
                Part::Requested { .. } | Part::Preserving { .. } => {
                    let why = "the client has closed the connection".to_owned();
                    self.failures.push((name, why));
                }
            }
        }
        for name in gone {
            self.unsubscribed(&name);
        }
        self.go_on();
    }

    /// Removes the sessions of aborted updates that their clients have closed.
    pub(super) fn forget_cancelled(&mut self, device: &Device) {
        // The creation of a new session of that name shows it.
        let subscriptions = &self.subscriptions;
        self.cancelled.retain(|name| {
            subscriptions.contains_key(name) || device.create_session(name).is_err()
        });
    }
}
