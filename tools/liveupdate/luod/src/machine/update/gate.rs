// SPDX-License-Identifier: GPL-2.0

//! Checks before clients are asked: inhibitors of the shutdown, and hooks.

use super::{Step, Update, SYNC_MAX_US};
use crate::{
    hooks::Input,
    machine::Machine,
    world::{Question, QuestionId, World},
};
use std::io;

/// A check for which an update waits before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// The service manager is asked for inhibitors.
    Inhibitors(QuestionId),
    /// Hooks are running.
    Hooks(QuestionId),
}

impl Update {
    /// Returns whether clients are not asked yet.
    pub(super) fn is_early(&self) -> bool {
        matches!(self.step, Step::Gate(_) | Step::Syncing { .. })
    }
}

impl<W: World> Machine<W> {
    /// Begins with the first check. Inhibitors cannot stop a shutdown that has begun.
    pub(super) fn enter_gate(&mut self) {
        if self.update.as_ref().is_some_and(|update| update.force) {
            return self.run_pre_hooks();
        }
        let id = self.world.ask(Question::Inhibited);
        if let Some(update) = &mut self.update {
            update.step = Step::Gate(Gate::Inhibitors(id));
        }
    }

    /// Handles the answer to a check.
    pub(super) fn gate_answered(&mut self, gate: Gate, answer: io::Result<bool>) {
        let force = self.update.as_ref().is_some_and(|update| update.force);
        if let Err(error) = answer {
            if !force {
                return self.abort(&error.to_string());
            }
            tracing::error!(
                update = self.number,
                "the update continues, although {error}"
            );
        }
        match gate {
            Gate::Inhibitors(_) => self.run_pre_hooks(),
            Gate::Hooks(_) => self.sync_and_ask(),
        }
    }

    fn run_pre_hooks(&mut self) {
        let input = self.pre_hooks();
        let Some(update) = &self.update else {
            return;
        };
        let input = Input {
            dry_run: update.dry_run,
            force: update.force,
            handover: update.handover,
            ..input
        };
        let id = self.start_pre_hooks(input);
        if let Some(update) = &mut self.update {
            update.step = Step::Gate(Gate::Hooks(id));
        }
    }

    /// Syncs file systems, unless another program does, and asks the clients.
    fn sync_and_ask(&mut self) {
        let now = self.world.now().monotonic_us;
        let Some(update) = &mut self.update else {
            return;
        };
        update.step = Step::Syncing {
            until: now.saturating_add(SYNC_MAX_US),
            retry: now,
        };
        let waits = !update.dry_run && !update.handover;
        let waits = waits
            && self.world.start_sync().unwrap_or_else(|error| {
                tracing::warn!("file systems are not synced: {error}");
                false
            });
        if !waits {
            self.ask_all();
        }
    }
}
