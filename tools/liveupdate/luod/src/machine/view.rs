// SPDX-License-Identifier: GPL-2.0

//! Status reports of luod.

use super::{Due, Machine, Part, Subscription};
use crate::{registry::Memory, world::World};
use luod_protocol::{
    Direction, History, Mark, SessionInfo, SessionName, SessionState, Stamp, Status,
};

/// How long changes of subscriptions are collected until they are saved, in microseconds.
const REMEMBER_US: u64 = 100_000;

/// Computes the time between stamps of different kernels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bridge {
    /// The frequency of the time-stamp counter, in kHz.
    pub(super) tsc_khz: Option<u64>,
}

impl Bridge {
    /// Microseconds from a stamp of the old kernel to one of the new kernel.
    pub(super) fn micros(self, from: Stamp, to: Stamp) -> Option<u64> {
        self.by_tsc(from, to)
            .or_else(|| to.realtime_us.checked_sub(from.realtime_us))
    }

    fn by_tsc(self, from: Stamp, to: Stamp) -> Option<u64> {
        let ticks = to.tsc?.checked_sub(from.tsc?)?;
        let khz = self.tsc_khz.filter(|khz| *khz > 0)?;
        u64::try_from(u128::from(ticks) * 1000 / u128::from(khz)).ok()
    }

    /// The precision of this time, in microseconds.
    pub(super) fn precision_us(self, from: Stamp, to: Stamp) -> u64 {
        match self.by_tsc(from, to) {
            Some(_) => 1_000,
            None => 1_000_000,
        }
    }
}

/// Computes the offsets of the marks from the first one.
pub(super) fn with_offsets(mut marks: Vec<Mark>, bridge: Option<Bridge>) -> Vec<Mark> {
    let Some(first) = marks.first().map(|mark| mark.stamp) else {
        return marks;
    };
    let mut after_jump = false;
    for mark in &mut marks {
        // Unknown marks keep their position.
        after_jump |= mark.name.is_after_jump();
        mark.offset_us = if after_jump {
            bridge.and_then(|bridge| bridge.micros(first, mark.stamp))
        } else {
            Some(super::micros(first, mark.stamp))
        };
    }
    marks
}

impl Subscription {
    fn state(&self) -> SessionState {
        match self.part {
            Part::None => SessionState::Subscribed,
            Part::Requested { .. } => SessionState::Requested,
            Part::Preserving { .. } => SessionState::Preserving,
            Part::Ready { .. } => SessionState::Ready,
            Part::Dropped => SessionState::Dropped,
        }
    }
}

impl<W: World> Machine<W> {
    /// Saves the subscriptions, if they have changed: immediately the first time, and then at
    /// limited rate, since all of them are written each time.
    pub(super) fn remember_subscribers(&mut self) {
        if !self.subscribers_changed {
            return;
        }
        let now = self.world.now().monotonic_us;
        let again = self.remembered.map(|last| last.saturating_add(REMEMBER_US));
        self.remember_at = again.filter(|again| now < *again);
        if self.remember_at.is_none() {
            self.remember();
        }
    }

    /// Saves the last update for a luod that is started in the same kernel.
    pub(super) fn remember(&mut self) {
        let memory = Memory {
            boot_id: self.world.boot_id(),
            update: self.number,
            report: self.last.clone().or_else(|| self.arrival_report()),
            subscribers: self.subscribers(),
            history: self.history(),
            hooks: self.due.iter().map(|due| due.hooks.clone()).collect(),
        };
        if let Ok(text) = serde_json::to_string(&memory) {
            self.world.remember(&text);
        }
        self.subscribers_changed = false;
        self.remembered = Some(self.world.now().monotonic_us);
        self.remember_at = None;
    }

    /// Restores the state that another luod has saved in this kernel.
    pub(super) fn recall(&mut self) {
        let memory = self.world.recall();
        let memory = memory.and_then(|text| serde_json::from_str::<Memory>(&text).ok());
        let here = self.world.boot_id();
        if let Some(memory) = memory.filter(|memory| memory.boot_id == here) {
            self.number = memory.update;
            self.last = memory.report;
            self.past = memory.history;
            self.due = memory.hooks.into_iter().map(Due::from).collect();
            let subscribers = memory.subscribers.into_iter();
            self.absent = subscribers.map(|s| (s.name.clone(), s)).collect();
        }
    }

    /// The last updates that have ended, including the one that started this kernel.
    pub(super) fn history(&self) -> History {
        let mut history = self.past.clone();
        if let Some(report) = self.arrival_report() {
            history.put((&report).into());
        }
        history
    }

    /// The status of luod.
    pub fn status(&self) -> Status {
        let pending = self.incoming.values().filter(|session| !session.is_done());
        let unclaimed = pending.clone().filter(|session| session.conn.is_none());
        let ready = self.subscriptions.values();
        let ready = ready.filter(|s| matches!(s.part, Part::Ready { .. }));
        let luod = env!("CARGO_PKG_VERSION").to_owned();
        let mut status = Status::new(self.phase(), self.world.release(), luod);
        status.update = self.number;
        status.dry_run = self.update.as_ref().is_some_and(|update| update.dry_run);
        status.connections = self.peers.len() as u64;
        status.subscribed = self.subscriptions.len() as u64;
        status.ready = ready.count() as u64;
        status.incoming = pending.count() as u64;
        status.unclaimed = unclaimed.count() as u64;
        status.image_loaded = self.world.image_loaded();
        status.inhibitors = self.inhibitors.values().cloned().collect();
        status.problem = self
            .unknown_problem()
            .or_else(|| self.unclaimed_problem())
            .or_else(|| self.problem.clone());
        status
    }

    /// All sessions.
    pub(super) fn list(&self) -> Vec<SessionInfo> {
        let incoming = self.incoming.keys();
        let incoming = incoming.filter_map(|name| self.incoming_info(name));
        let outgoing = self.subscriptions.keys();
        let outgoing = outgoing.filter_map(|name| self.outgoing_info(name));
        incoming.chain(outgoing).collect()
    }

    pub(super) fn outgoing_info(&self, name: &SessionName) -> Option<SessionInfo> {
        let subscription = self.subscriptions.get(name)?;
        let now = self.world.now();
        let deadline = subscription.part.deadline();
        let mut info = SessionInfo::new(name.clone(), Direction::Outgoing, subscription.state());
        info.client = subscription.client.clone();
        info.pid = Some(subscription.credentials.pid);
        info.uid = Some(subscription.credentials.uid);
        info.since_ms = super::micros(subscription.since, now) / 1000;
        info.left_ms = deadline.map(|end| end.saturating_sub(now.monotonic_us) / 1000);
        info.progress = subscription.progress.clone();
        info.bytes = match subscription.part {
            Part::Ready { bytes, .. } => bytes,
            _ => None,
        };
        info.error = subscription.error.clone();
        Some(info)
    }

    pub(super) fn incoming_info(&self, name: &SessionName) -> Option<SessionInfo> {
        let session = self.incoming.get(name)?;
        let credentials = session
            .conn
            .and_then(|conn| self.peers.get(&conn))
            .map(|peer| peer.who.credentials);
        let mut info = SessionInfo::new(name.clone(), Direction::Incoming, session.state());
        info.client = session.client.clone();
        info.pid = credentials.map(|who| who.pid);
        info.uid = credentials.map(|who| who.uid);
        info.since_ms = super::micros(session.since, self.world.now()) / 1000;
        info.bytes = session.bytes;
        info.error = session.error.clone();
        Some(info)
    }
}
