// SPDX-License-Identifier: GPL-2.0

//! Who starts the next kernel: luod, or a service manager that was asked by somebody else.

use super::{Step, Update};
use crate::{
    audit,
    machine::{Answer, ConnId, Machine, Refusal},
    world::World,
};
use luod_protocol::{ErrorCode, Event, Phase};

impl<W: World> Machine<W> {
    /// Somebody wants everything to be preserved, if there is reason to.
    pub(in crate::machine) fn handover(&mut self, conn: ConnId) -> Result<Answer, Refusal> {
        let (phase, update) = (self.phase(), self.number);
        if phase == Phase::Jump {
            // It is.
            return Ok(Answer::Event(Event::Phase { phase, update }, None));
        }
        match self.world.kexec_under_way() {
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
        let Some(Update {
            step: Step::Jump { until: None },
            handover,
            ..
        }) = self.update
        else {
            return;
        };
        let update = self.number;
        if handover {
            tracing::info!(
                message_id = audit::JUMP,
                update,
                "the service manager starts the next kernel"
            );
            if let Err(error) = self.world.settle() {
                tracing::error!(update, "sessions may be lost: {error}");
            }
        } else {
            tracing::info!(
                message_id = audit::JUMP,
                update,
                "the next kernel is started"
            );
            if let Err(error) = self.world.kexec() {
                return self.abort(&format!("cannot start the next kernel: {error}"));
            }
        }
        self.wait_for_jump();
    }

    /// Gives somebody else time to start the next kernel.
    fn wait_for_jump(&mut self) {
        let timeout = self.config.jump_timeout.as_micros() as u64;
        let until = self.world.now().monotonic_us.saturating_add(timeout);
        if let Some(update) = &mut self.update {
            update.step = Step::Jump { until: Some(until) };
        }
    }

    /// The next kernel should have been started by now.
    pub(super) fn jump_is_late(&mut self) {
        // Services can take long to stop. If that cannot be found out, and the service manager was
        // on its way, it is not known to be over.
        let handover = self.update.as_ref().is_some_and(Update::is_handover);
        if self.world.kexec_under_way().unwrap_or(handover) {
            return self.wait_for_jump();
        }
        self.abort("nobody has started the next kernel in time");
    }

    /// luod is about to exit. An update is aborted, unless the service manager does the rest.
    pub fn stop(&mut self) {
        let jumps = matches!(
            self.update,
            Some(Update {
                step: Step::Jump { until: Some(_) },
                ..
            })
        );
        if self.update.is_none() || jumps {
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
    }
}

impl Update {
    /// Whether it is too late to take it back.
    pub(in crate::machine) fn is_handover(&self) -> bool {
        self.handover
    }
}
