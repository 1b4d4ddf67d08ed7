// SPDX-License-Identifier: GPL-2.0

//! Who starts the next kernel: luod, or a service manager that was asked by somebody else.

use super::{Jump, Step, Update};
use crate::{
    audit::{self, Asked},
    machine::{Answer, ConnId, Machine, Refusal},
    world::{Question, World},
};
use luod_protocol::{ErrorCode, Event, Phase, Request};
use std::io;

impl<W: World> Machine<W> {
    /// Somebody wants everything to be preserved, if there is reason to: the service manager knows.
    pub(in crate::machine) fn handover(&mut self, conn: ConnId, seq: Option<u64>) -> Answer {
        let (phase, update) = (self.phase(), self.number);
        if phase == Phase::Jump {
            // It is.
            return Answer::Event(Event::Phase { phase, update }, None);
        }
        self.handovers.push((conn, seq));
        if self.handover_asked.is_none() {
            self.handover_asked = Some(self.world.ask(Question::KexecUnderWay));
        }
        Answer::Sent
    }

    /// The service manager has said whether it is on its way.
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
                let what = "whether another kernel is about to be started cannot be found out";
                let why = format!("{what}: {error}");
                tracing::error!("nothing is preserved: {why}");
                return Err(Refusal::new(ErrorCode::WrongState, why));
            }
        }
        match &mut self.update {
            // There is no time for a second one.
            Some(update) => {
                update.dry_run = false;
                update.force = true;
                update.handover = true;
                // It has the time that one has that begins now.
                update.failing_since = None;
                update.check_again();
                self.ask_all();
            }
            None if self.world.image_loaded() == Some(false) => {
                return Err(Refusal::new(
                    ErrorCode::NotLoaded,
                    "no kernel is loaded: the machine is going to be reset, \
                     which nothing in memory survives",
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

    /// Starts the next kernel, after everybody was told.
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

    /// The service manager has been asked to start the next kernel, or has read everything.
    pub(super) fn jumps(&mut self, answer: io::Result<bool>) {
        if let Err(error) = answer {
            if !self.update.as_ref().is_some_and(Update::is_handover) {
                return self.abort(&format!("cannot start the next kernel: {error}"));
            }
            tracing::error!(update = self.number, "sessions may be lost: {error}");
        }
        self.wait_for_jump();
    }

    /// Gives somebody else time to start the next kernel.
    fn wait_for_jump(&mut self) {
        let timeout = self.config.jump_timeout.as_micros() as u64;
        let until = self.world.now().monotonic_us.saturating_add(timeout);
        if let Some(update) = &mut self.update {
            update.step = Step::Jump(Jump::Waits { until });
        }
    }

    /// The next kernel should have been started by now.
    pub(super) fn jump_is_late(&mut self) {
        let id = self.world.ask(Question::KexecUnderWay);
        if let Some(update) = &mut self.update {
            update.step = Step::Jump(Jump::IsLate(id));
        }
    }

    /// The service manager has said whether it is still on its way.
    pub(super) fn is_late(&mut self, answer: io::Result<bool>) {
        // Services can take long to stop. If that cannot be found out, and the service manager was
        // on its way, it is not known to be over.
        let handover = self.update.as_ref().is_some_and(Update::is_handover);
        if answer.unwrap_or(handover) {
            return self.wait_for_jump();
        }
        self.abort("nobody has started the next kernel in time");
    }

    /// luod is about to exit. An update is aborted, unless the service manager does the rest.
    pub fn stop(&mut self) {
        let step = self.update.as_ref().map(|update| &update.step);
        let jumps = match step {
            Some(Step::Jump(how)) => !matches!(how, Jump::Announced),
            _ => false,
        };
        if step.is_none() || jumps {
            return;
        }
        if !self.update.as_ref().is_some_and(Update::is_handover) {
            return self.abort("luod is being stopped");
        }
        // The next kernel is started in any case: what is ready goes.
        let late = self.subscriptions.iter();
        let late = late.filter(|(_, s)| s.part.deadline().is_some());
        let late: Vec<_> = late.map(|(name, _)| name.clone()).collect();
        let why = "luod was stopped before the client was ready";
        let late = late.into_iter().map(|name| (name, why.to_owned()));
        self.failures.extend(late);
        self.go_on();
        // There is no time to hear whether systemd keeps everything, which would only be logged.
        let step = self.update.as_ref().map(|update| &update.step);
        if matches!(step, Some(Step::Checking(_))) {
            self.freeze_and_jump();
        }
        // What is being discarded is freed by the kernel in any case.
        let step = self.update.as_ref().map(|update| &update.step);
        if matches!(step, Some(Step::Frozen)) {
            self.announce_jump();
        }
    }
}

impl Update {
    /// Whether it is too late to take it back.
    pub(in crate::machine) fn is_handover(&self) -> bool {
        self.handover
    }
}
