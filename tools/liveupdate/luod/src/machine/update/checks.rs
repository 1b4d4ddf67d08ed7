// SPDX-License-Identifier: GPL-2.0

//! Checks before clients are asked, and before the jump.

use super::{Step, Update};
use crate::{
    machine::{Machine, Part, Subscription},
    world::{Question, World},
};
use luo_check::Verdict;
use luod_protocol::MarkName;
use std::io;

/// The time between two checks whether the sync of file systems is complete, in microseconds.
const SYNC_TICK_US: u64 = 20_000;

impl Update {
    /// The sessions that the service manager keeps have changed since it was asked.
    pub(super) fn check_again(&mut self) {
        if matches!(self.step, Step::Checking(_)) {
            self.step = Step::Preserving { retry: None };
        }
    }
}

impl<W: World> Machine<W> {
    /// Continues if the sync of file systems is complete, or takes too long.
    pub(super) fn wait_for_sync(&mut self) {
        let now = self.world.now().monotonic_us;
        let Some(update) = &mut self.update else {
            return;
        };
        let Step::Syncing { until, retry } = &mut update.step else {
            return;
        };
        match self.world.is_synced() {
            Ok(true) => {}
            Ok(false) if now < *until => {
                *retry = now.saturating_add(SYNC_TICK_US);
                return;
            }
            Ok(false) if !update.force => {
                return self.abort(
                    "the file systems could not be synced in time; \
                     see what is wrong with the disks, or use --force",
                );
            }
            Ok(false) => {
                tracing::error!("the update continues, although file systems are not synced")
            }
            Err(error) => tracing::warn!("file systems are not synced: {error}"),
        }
        self.ask_all();
    }

    /// If all clients are ready, checks whether the jump would lose data.
    pub(super) fn check_if_ready(&mut self) {
        let Some(update) = &mut self.update else {
            return;
        };
        let is_ready = |s: &Subscription| matches!(s.part, Part::Ready { .. } | Part::Dropped);
        let started = update.internal.is_some() || update.without_registry;
        if !started || !update.late.all(&self.subscriptions, is_ready) {
            return;
        }
        update.marks.retain(|mark| mark.name != MarkName::Ready);
        let (force, handover) = (update.force, update.handover);
        self.mark(MarkName::Ready);
        let loaded = self.world.image_loaded() != Some(false);
        // The formats to be handed over are only known now.
        let objection = self.world.objection(self.config.minimum_verdict);
        let objection = objection.filter(|_| loaded);
        if let Some(why) = objection {
            if !force {
                let certain = self.config.minimum_verdict == Verdict::Unknown;
                let would = if certain { "would" } else { "may" };
                return self.abort(&format!("the loaded kernel {would} lose data: {why}"));
            }
            tracing::error!(
                update = self.number,
                "the update continues, although data may be lost: {why}"
            );
        }
        let id = self.world.ask(Question::IsKept { handover });
        if let Some(update) = &mut self.update {
            update.step = Step::Checking(id);
        }
    }

    /// Handles the answer of the service manager whether it keeps all sessions.
    pub(super) fn checked(&mut self, answer: io::Result<bool>) {
        if let Err(error) = answer {
            if !self.update.as_ref().is_some_and(|update| update.force) {
                return self.abort(&error.to_string());
            }
            tracing::error!(update = self.number, "sessions may be lost: {error}");
        }
        self.freeze_and_jump();
    }
}
