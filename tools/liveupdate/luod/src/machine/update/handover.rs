// SPDX-License-Identifier: GPL-2.0

//! The start of the next kernel, by luod or by a service manager on another request.

use super::{Jump, Step, Update};
use crate::{
    audit::{self, Asked},
    machine::{Answer, ConnId, Machine, Refusal},
    world::{Question, World},
};
use luod_protocol::{ErrorCode, Event, Phase, Request};
use std::io;

impl<W: World> Machine<W> {
    /// Handles a request for a handover: asks the service manager whether it starts the next
    /// kernel.
    pub(in crate::machine) fn handover(&mut self, conn: ConnId, seq: Option<u64>) -> Answer {
        let (phase, update) = (self.phase(), self.number);
        if phase == Phase::Jump {
            // The handover has already begun.
            return Answer::Event(Event::Phase { phase, update }, None);
        }
        self.handovers.push((conn, seq));
        if self.handover_asked.is_none() {
            self.handover_asked = Some(self.world.ask(Question::KexecUnderWay));
        }
        Answer::Sent
    }

    /// Handles the answer of the service manager whether it starts the next kernel.
    pub(super) fn handover_is_known(&mut self, answer: &io::Result<bool>) {
        self.handover_asked = None;
        for (conn, seq) in std::mem::take(&mut self.handovers) {
            let request = Request::Handover;
            match self.begin_handover(conn, answer) {
                Ok(answer) => {
                    if let Some(asked) = Asked::of(&request) {
                        asked.log(self.who(conn), self.number);
                    }
                    let cmd = request.command().to_owned();
                    let event = match answer {
                        Answer::Event(event, _) => event,
                        Answer::Done | Answer::Sent => Event::Ok { cmd, id: None },
                    };
                    self.send(conn, seq, event, None);
                }
                Err(refusal) => {
                    self.refuse(conn, seq, Some((request.command(), None)), refusal);
                }
            }
        }
    }

    fn begin_handover(
        &mut self,
        conn: ConnId,
        under_way: &io::Result<bool>,
    ) -> Result<Answer, Refusal> {
        let (phase, update) = (self.phase(), self.number);
        if phase == Phase::Jump {
            return Ok(Answer::Event(Event::Phase { phase, update }, None));
        }
        match under_way {
            Ok(true) => {}
            Ok(false) => {
                return Err(Refusal::new(
                    ErrorCode::NoKexec,
                    "the service manager is not about to start another kernel: \
                     there is nothing to be done",
                ))
            }
            Err(error) => {
                let what = "luod could not check whether another kernel is about to be started";
                let why = format!("{what}: {error}");
                tracing::error!("nothing is preserved: {why}");
                return Err(Refusal::new(ErrorCode::WrongState, why));
            }
        }
        match &mut self.update {
            // There is no time for another update.
            Some(update) => {
                update.dry_run = false;
                update.force = true;
                update.handover = true;
                // Its deadline is that of an update that begins now.
                update.failing_since = None;
                update.check_again();
                self.ask_all();
            }
            None if self.world.image_loaded() == Some(false) => {
                return Err(Refusal::new(
                    ErrorCode::NotLoaded,
                    "no kernel is loaded: the machine will be reset, \
                     and all data in memory is lost",
                ))
            }
            None => self.begin(Update {
                force: true,
                handover: true,
                ..Update::default()
            }),
        }
        if self.peers.contains_key(&conn) {
            self.watchers.insert(conn);
        }
        Ok(Answer::Done)
    }

    /// Starts the next kernel, after all clients were informed.
    pub fn jump(&mut self) {
        let Some(update) = &mut self.update else {
            return;
        };
        if !matches!(update.step, Step::Jump(Jump::Announced)) {
            return;
        }
        let (what, question) = match update.handover {
            true => (
                "the service manager starts the next kernel",
                Question::Settle,
            ),
            false => ("the next kernel is started", Question::Kexec),
        };
        tracing::info!(message_id = audit::JUMP, update = self.number, "{what}");
        update.step = Step::Jump(Jump::Asked(self.world.ask(question)));
        self.go_on();
    }

    /// Handles the answer of the service manager: it was asked to start the next kernel, or has
    /// read all notifications.
    pub(super) fn jumps(&mut self, answer: io::Result<bool>) {
        if let Err(error) = answer {
            if !self.update.as_ref().is_some_and(Update::is_handover) {
                return self.abort(&format!("cannot start the next kernel: {error}"));
            }
            tracing::error!(update = self.number, "sessions may be lost: {error}");
        }
        self.wait_for_jump();
    }

    /// Waits for another program to start the next kernel.
    fn wait_for_jump(&mut self) {
        let timeout = self.config.jump_timeout.as_micros() as u64;
        let until = self.world.now().monotonic_us.saturating_add(timeout);
        if let Some(update) = &mut self.update {
            update.step = Step::Jump(Jump::Waits { until });
        }
    }

    /// The time to start the next kernel has passed.
    pub(super) fn jump_is_late(&mut self) {
        let id = self.world.ask(Question::KexecUnderWay);
        if let Some(update) = &mut self.update {
            update.step = Step::Jump(Jump::IsLate(id));
        }
    }

    /// Handles the answer of the service manager whether it is still starting the next kernel.
    pub(super) fn is_late(&mut self, answer: io::Result<bool>) {
        // Stopping services can take long. Without an answer, the service manager is assumed to be
        // starting the next kernel.
        if answer.unwrap_or(true) {
            return self.wait_for_jump();
        }
        self.abort("the next kernel was not started in time");
    }

    /// luod is about to exit. Aborts the update, unless the service manager starts the next kernel.
    pub fn stop(&mut self) {
        let step = self.update.as_ref().map(|update| &update.step);
        let jumps = match step {
            Some(Step::Jump(how)) => !matches!(how, Jump::Announced),
            _ => false,
        };
        if step.is_none() || jumps {
            return;
        }
        // No client has a session yet if it was not asked.
        let goes_on = |update: &Update| update.is_handover() && !update.is_early();
        if !self.update.as_ref().is_some_and(goes_on) {
            return self.abort("luod is being stopped");
        }
        // The next kernel is started in any case, with all sessions that are ready.
        let late = self.subscriptions.iter();
        let late = late.filter(|(_, s)| s.part.is_late());
        let late: Vec<_> = late.map(|(name, _)| name.clone()).collect();
        let why = "luod was stopped before the client was ready";
        let late = late.into_iter().map(|name| (name, why.to_owned()));
        self.failures.extend(late);
        self.go_on();
        // There is no time to wait for the answer of systemd, which would only be logged, or for the
        // session of the registry.
        let step = self.update.as_ref().map(|update| &update.step);
        if matches!(step, Some(Step::Checking(_) | Step::Preserving { .. })) {
            self.freeze_and_jump();
        }
        // The kernel frees discarded sessions in any case.
        let step = self.update.as_ref().map(|update| &update.step);
        if matches!(step, Some(Step::Frozen)) {
            self.announce_jump();
        }
    }
}

impl Update {
    /// Returns whether the service manager starts the next kernel in any case.
    pub(in crate::machine) fn is_handover(&self) -> bool {
        self.handover
    }

    /// Returns whether the update can no longer be aborted.
    pub(in crate::machine) fn is_too_late(&self) -> bool {
        self.handover || matches!(self.step, Step::Jump(_))
    }
}
