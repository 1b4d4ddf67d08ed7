// SPDX-License-Identifier: GPL-2.0

//! An update, until the next kernel starts.

mod checks;
mod end;
mod gate;
mod handover;
mod pause;
mod sessions;

use super::{Answer, ConnId, Machine, Output, Part, Refusal, Witness};
use crate::{
    audit,
    registry::{self, Entry, Lost, Registry},
    world::{QuestionId, World},
};
use gate::Gate;
use liveupdate::OutgoingSession;
use luod_protocol::{Direction, ErrorCode, Event, Mark, MarkName, Outcome, Phase, SessionName};
use std::{collections::BTreeSet, io, time::Duration};

/// The time limit for a sync of all file systems, in microseconds.
const SYNC_MAX_US: u64 = 60_000_000;

/// The step of an update.
#[derive(Debug)]
enum Step {
    /// The update waits for inhibitors and hooks.
    Gate(Gate),
    /// File systems are synced, before clients are asked.
    Syncing { until: u64, retry: u64 },
    /// Clients preserve their files. `retry` is the time at which the creation of sessions is
    /// tried again.
    Preserving { retry: Option<u64> },
    /// All clients are ready, and the service manager is asked whether it keeps all sessions.
    Checking(QuestionId),
    /// All files are preserved, and unfinished sessions of the previous update are being
    /// discarded.
    Frozen,
    /// The next kernel is started.
    Jump(Jump),
}

/// How the next kernel is started.
#[derive(Debug)]
enum Jump {
    /// All clients are being informed.
    Announced,
    /// The service manager is asked to start it, or to read all notifications before that.
    Asked(QuestionId),
    /// Another program starts it, up to a time.
    Waits { until: u64 },
    /// That time has passed; the service manager is asked whether it is still starting the next
    /// kernel.
    IsLate(QuestionId),
}

/// A running update.
#[derive(Debug, Default)]
pub(super) struct Update {
    pub(super) requester: Option<ConnId>,
    pub(super) dry_run: bool,
    force: bool,
    /// Whether the service manager starts the next kernel, so that the update cannot be
    /// aborted.
    handover: bool,
    timeout_ms: Option<u64>,
    step: Step,
    marks: Vec<Mark>,
    /// The session for the registry.
    pub(super) internal: Option<OutgoingSession>,
    /// Since when the creation of sessions fails.
    failing_since: Option<u64>,
    /// Whether the update continues without a registry; the next luod can run without it.
    without_registry: bool,
    /// Sessions without which the update continues.
    lost: Vec<Lost>,
    /// Clients that were asked, and have no session yet.
    missing: BTreeSet<SessionName>,
    /// A client that is not ready.
    late: Witness,
    /// A client that is not ready, and does not wait for the others either.
    busy: Witness,
    /// The earliest deadline of all clients.
    deadline: Option<u64>,
}

impl Default for Step {
    fn default() -> Self {
        Self::Preserving { retry: None }
    }
}

impl Update {
    pub(super) fn phase(&self) -> Phase {
        match self.step {
            Step::Gate(_) | Step::Syncing { .. } | Step::Preserving { .. } | Step::Checking(_) => {
                Phase::Preserving
            }
            Step::Frozen => Phase::Frozen,
            Step::Jump(_) => Phase::Jump,
        }
    }

    /// Returns whether the update waits for an answer of the service manager.
    pub(super) fn asks(&self) -> bool {
        matches!(
            self.step,
            Step::Gate(_) | Step::Checking(_) | Step::Jump(Jump::Asked(_) | Jump::IsLate(_))
        )
    }

    pub(super) fn next_tick(&self) -> Option<u64> {
        let step = match self.step {
            Step::Syncing { retry, .. } => Some(retry),
            Step::Preserving { retry } => retry,
            Step::Jump(Jump::Waits { until }) => Some(until),
            Step::Gate(_) | Step::Checking(_) | Step::Frozen | Step::Jump(_) => None,
        };
        step.into_iter().chain(self.deadline).min()
    }
}

impl<W: World> Machine<W> {
    pub(super) fn start_update(
        &mut self,
        conn: ConnId,
        timeout_ms: Option<u64>,
        dry_run: bool,
        force: bool,
        expect: Option<u64>,
    ) -> Result<Answer, Refusal> {
        if self.update.is_some() {
            return Err(Refusal::new(
                ErrorCode::UpdateRunning,
                "an update is running; abort it, or wait for its end",
            ));
        }
        self.known()?;
        let unfinished = self.unfinished.iter().map(SessionName::as_str);
        let unfinished: Vec<&str> = unfinished.collect();
        if !unfinished.is_empty() && !force {
            return Err(Refusal::new(
                ErrorCode::Unfinished,
                format!(
                    "sessions of the last update are not finished: {}; \
                     let their clients finish them, or discard them",
                    unfinished.join(", ")
                ),
            ));
        }
        if !dry_run && self.world.image_loaded() == Some(false) {
            return Err(Refusal::new(
                ErrorCode::NotLoaded,
                "no kernel is loaded; load one with luoctl load",
            ));
        }
        if !force {
            self.is_permitted(dry_run)?;
            self.nobody_inhibits()?;
            self.everybody_is_there(expect)?;
        }
        self.begin(Update {
            requester: Some(conn),
            dry_run,
            force,
            timeout_ms,
            ..Update::default()
        });
        Ok(Answer::Done)
    }

    fn begin(&mut self, update: Update) {
        self.number += 1;
        tracing::info!(
            update = self.number,
            sessions = self.subscriptions.len(),
            dry_run = update.dry_run,
            force = update.force,
            handover = update.handover,
            "update {} of {} sessions begins",
            self.number,
            self.subscriptions.len()
        );
        self.update = Some(update);
        self.mark(MarkName::Requested);
        self.phase_changed = true;
        self.enter_gate();
    }

    /// Asks all clients, unless they were already asked.
    fn ask_all(&mut self) {
        let now = self.world.now().monotonic_us;
        let Some(update) = &mut self.update else {
            return;
        };
        if matches!(update.step, Step::Syncing { .. }) {
            update.step = Step::Preserving { retry: Some(now) };
            self.late = self.subscriptions.keys().cloned().collect();
        }
    }

    fn mark(&mut self, name: MarkName) {
        let stamp = self.world.now();
        if let Some(update) = &mut self.update {
            update.marks.push(Mark::new(name, stamp));
        }
    }

    /// Advances the update as far as possible.
    pub(super) fn go_on(&mut self) {
        self.step();
        while let Some((id, answer)) = self.world.answer() {
            self.answered(id, answer);
            self.step();
        }
    }

    /// Handles the answer of the service manager. It is ignored if the update has ended.
    fn answered(&mut self, id: QuestionId, answer: io::Result<bool>) {
        if self.handover_asked == Some(id) {
            return self.handover_is_known(&answer);
        }
        match self.update.as_ref().map(|update| &update.step) {
            Some(Step::Gate(gate @ (Gate::Inhibitors(asked) | Gate::Hooks(asked))))
                if *asked == id =>
            {
                self.gate_answered(*gate, answer);
            }
            Some(Step::Checking(asked)) if *asked == id => self.checked(answer),
            Some(Step::Jump(Jump::Asked(asked))) if *asked == id => self.jumps(answer),
            Some(Step::Jump(Jump::IsLate(asked))) if *asked == id => self.is_late(answer),
            _ => {
                if !self.hooks_have_ended(id) {
                    self.end_is_known(id, &answer);
                }
            }
        }
    }

    fn step(&mut self) {
        if std::mem::take(&mut self.phase_changed) {
            self.announce_phase();
        }
        self.wait_for_sync();
        if !self.update.as_ref().is_some_and(Update::is_early) {
            for name in std::mem::take(&mut self.late) {
                self.ask(&name);
            }
        }
        for (name, why) in std::mem::take(&mut self.failures) {
            self.failed(&name, &why);
        }
        let now = self.world.now().monotonic_us;
        match self.update.as_ref().map(|update| &update.step) {
            Some(Step::Preserving { retry }) => {
                if retry.is_some_and(|retry| retry <= now) {
                    self.make_sessions();
                }
                self.pause_all();
                self.check_if_ready();
            }
            Some(Step::Frozen) if self.endings.is_empty() => self.announce_jump(),
            Some(Step::Jump(Jump::Waits { until })) if *until <= now => self.jump_is_late(),
            _ => {}
        }
    }

    /// Asks a client to preserve its files.
    fn ask(&mut self, name: &SessionName) {
        let now = self.world.now();
        let Some(update) = &mut self.update else {
            return;
        };
        let Some(subscription) = self.subscriptions.get_mut(name) else {
            return;
        };
        let timeout = subscription.timeout_ms.or(update.timeout_ms);
        // A timeout of 0 is ignored; a client refuses with REFUSE.
        let timeout = timeout.filter(|ms| *ms > 0);
        let timeout = timeout.map_or(self.config.timeout, Duration::from_millis);
        let timeout = timeout.min(self.config.max_timeout);
        subscription.since = now;
        subscription.progress = None;
        subscription.error = None;
        let deadline = now.monotonic_us.saturating_add(timeout.as_micros() as u64);
        subscription.part = Part::Requested {
            asked: now,
            deadline,
        };
        update.missing.insert(name.clone());
        update.deadline = update.deadline.into_iter().chain([deadline]).min();
        update.step = Step::Preserving {
            retry: Some(now.monotonic_us),
        };
        let event = Event::PreservationRequest {
            id: name.clone(),
            update: self.number,
            deadline_ms: timeout.as_millis() as u64,
            dry_run: update.dry_run,
        };
        if let Some(conn) = subscription.conn {
            self.send(conn, None, event, None);
        }
        self.announce_change(name, Direction::Outgoing);
    }

    /// Ends the update, or continues without late clients.
    pub(super) fn deadlines(&mut self) {
        let now = self.world.now().monotonic_us;
        let Some(update) = &mut self.update else {
            return;
        };
        if update.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        update.deadline = None;
        for (name, subscription) in &self.subscriptions {
            let Some(end) = subscription.part.deadline() else {
                continue;
            };
            if now < end {
                update.deadline = update.deadline.into_iter().chain([end]).min();
            } else {
                let why = match subscription.part {
                    Part::Requested { .. } => {
                        "the session could not be created in time: \
                        /dev/liveupdate is busy, or the client has the last session open still"
                    }
                    _ => "the client was not ready in time",
                };
                self.failures.push((name.clone(), why.to_owned()));
            }
        }
    }

    /// Handles the failure of a session: the update ends, or continues without it.
    fn failed(&mut self, name: &SessionName, why: &str) {
        let Some(update) = &self.update else {
            return;
        };
        let force = update.force;
        let Some(subscription) = self.subscriptions.get_mut(name) else {
            return;
        };
        if matches!(subscription.part, Part::None | Part::Dropped) {
            return;
        }
        subscription.error = Some(why.to_owned());
        if !force {
            return self.abort(&format!("session {name}: {why}"));
        }
        let client = subscription.client.clone();
        tracing::error!(
            message_id = audit::DROPPED,
            session = %name,
            update = self.number,
            uid = subscription.credentials.uid,
            pid = subscription.credentials.pid,
            client,
            "the update continues without the session {name}: {why}"
        );
        let conn = subscription.conn;
        let closed = std::mem::replace(&mut subscription.part, Part::Dropped);
        self.world.close(Box::new(closed));
        subscription.since = self.world.now();
        self.forget_session(name);
        self.cancelled.insert(name.clone());
        if let Some(update) = &mut self.update {
            // It may have been lost before, and subscribed again.
            update.lost.retain(|lost| lost.name != *name);
            update.lost.push(Lost {
                name: name.clone(),
                client,
                error: why.to_owned(),
            });
            // The last answer does not apply to the remaining sessions.
            update.check_again();
        }
        if let Some(conn) = conn {
            let event = Event::Cancelled {
                id: name.clone(),
                update: self.number,
                reason: why.to_owned(),
            };
            self.send(conn, None, event, None);
        }
        self.announce_change(name, Direction::Outgoing);
        if conn.is_none() {
            // A client that is restarted can subscribe it again, and is asked once more.
            self.unsubscribed(name);
        }
    }

    /// Writes the registry, and starts the next kernel when all sessions are discarded.
    fn freeze_and_jump(&mut self) {
        let handover = self.update.as_ref().is_some_and(|update| update.handover);
        if let Err(error) = self.freeze() {
            if !handover {
                return self.abort(&format!("cannot preserve the registry: {error}"));
            }
            tracing::error!(
                update = self.number,
                "the update continues without a registry of the sessions: {error}"
            );
        }
        let Some(update) = &mut self.update else {
            return;
        };
        update.step = Step::Frozen;
        if update.dry_run {
            return self.end(
                Outcome::DryRun,
                "this was a dry run: the update would have succeeded",
            );
        }
        self.announce_phase();
        if self.world.image_loaded() == Some(false) {
            return self.abort("no kernel is loaded any more; load one with luoctl load");
        }
        self.discard_unfinished();
        if self.endings.is_empty() {
            self.announce_jump();
        }
    }

    /// Informs all clients, and starts the next kernel.
    fn announce_jump(&mut self) {
        let ready = self.subscriptions.iter();
        let ready: Vec<_> = ready
            .filter(|(_, s)| matches!(s.part, Part::Ready { .. }))
            .filter_map(|(name, s)| Some((name.clone(), s.conn?)))
            .collect();
        for (id, conn) in ready {
            let update = self.number;
            self.send(conn, None, Event::Frozen { id, update }, None);
        }
        if let Some(update) = &mut self.update {
            update.step = Step::Jump(Jump::Announced);
        }
        self.announce_phase();
        self.outputs.push_back(Output::Jump);
    }

    /// Writes the registry. It already contains the mark of the jump, which follows
    /// immediately.
    fn freeze(&mut self) -> io::Result<()> {
        self.mark(MarkName::Frozen);
        self.mark(MarkName::Jump);
        let sessions = self.subscriptions.iter();
        let sessions = sessions.filter_map(|(name, subscription)| match &subscription.part {
            Part::Ready {
                ready,
                preserve_us,
                bytes,
                ..
            } => Some(Entry {
                name: name.clone(),
                client: subscription.client.clone(),
                uid: Some(subscription.credentials.uid),
                ready: *ready,
                preserve_us: *preserve_us,
                bytes: *bytes,
            }),
            _ => None,
        });
        let sessions = sessions.collect();
        let dropped = self.cancelled.iter().cloned().collect();
        let unfinished = self.unfinished.iter();
        let unfinished = unfinished.filter_map(|name| Some((name, self.incoming.get(name)?)));
        let unfinished = unfinished.map(|(name, session)| Lost {
            name: name.clone(),
            client: session.client.clone(),
            error: "it was not finished after the update before".to_owned(),
        });
        let Some(update) = &self.update else {
            return Ok(());
        };
        let is_lost = |lost: &&Lost| {
            let subscription = self.subscriptions.get(&lost.name);
            !subscription.is_some_and(|s| matches!(s.part, Part::Ready { .. }))
        };
        let lost = update.lost.iter().filter(is_lost).cloned();
        let lost = lost.chain(unfinished).collect();
        let registry = Registry {
            version: registry::VERSION,
            min_reader: Some(registry::VERSION),
            boot_id: self.world.boot_id(),
            kernel: self.world.release(),
            update: self.number,
            tsc_khz: self.world.tsc_khz(),
            marks: update.marks.clone(),
            sessions,
            dropped,
            lost,
            history: self.history(),
        };
        match &update.internal {
            Some(session) => registry.preserve(session),
            None => Ok(()),
        }
    }
}
