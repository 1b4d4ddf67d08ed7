// SPDX-License-Identifier: GPL-2.0

//! Hooks around an update, and what inhibits one.

use super::{Answer, ConnId, Machine, Refusal};
use crate::{
    hooks::{Input, Stage},
    world::{QuestionId, World},
};
use luod_protocol::{ErrorCode, Inhibitor, Report, SessionName, SessionState};

impl<W: World> Machine<W> {
    fn hook_input(&self, stage: Stage, update: u64) -> Input {
        let kernel = self.world.release();
        Input::new(stage, update, kernel, self.config.hook_timeout)
    }

    /// Starts the hooks before the running update.
    pub(super) fn start_pre_hooks(&mut self, how: Input) -> QuestionId {
        let sessions = self.list();
        self.world.run_hooks(Input { sessions, ..how })
    }

    /// The input of these hooks, without the sessions.
    pub(super) fn pre_hooks(&self) -> Input {
        self.hook_input(Stage::Pre, self.number)
    }

    /// Starts the hooks after the end of an update, whose failures are only logged.
    pub(super) fn start_hooks(&mut self, stage: Stage, report: Report) {
        let mut input = self.hook_input(stage, report.update);
        input.dry_run = report.outcome == luod_protocol::Outcome::DryRun;
        if stage == Stage::Post {
            input.missing = self.lost_although_required(&report);
        }
        input.report = Some(report);
        self.world.run_hooks(input);
    }

    /// Returns the required sessions that no client has finished after an update.
    fn lost_although_required(&self, report: &Report) -> Vec<SessionName> {
        let is_kept = |name: &SessionName| {
            let mut sessions = report.sessions.iter();
            sessions.any(|s| s.session == *name && s.state == SessionState::Finished)
        };
        let required = self.config.required.iter();
        required.filter(|name| !is_kept(name)).cloned().collect()
    }

    /// Handles a request that keeps updates from starting as long as its connection is open.
    pub(super) fn inhibit(&mut self, conn: ConnId, why: &str) -> Result<Answer, Refusal> {
        if self.update.is_some() {
            return Err(Refusal::new(
                ErrorCode::UpdateRunning,
                "an update is running, which can no longer be inhibited; \
                 wait for its end, or abort it",
            ));
        }
        let Some(peer) = self.peers.get(&conn) else {
            return Ok(Answer::Sent);
        };
        let who = &peer.who.credentials;
        let mut inhibitor = Inhibitor::new(super::clients::printable(why), who.pid, who.uid);
        inhibitor.client = peer.client.clone();
        tracing::info!(
            uid = inhibitor.uid,
            pid = inhibitor.pid,
            "updates are inhibited by the process {}: {}",
            inhibitor.pid,
            inhibitor.why
        );
        self.inhibitors.insert(conn, inhibitor);
        Ok(Answer::Done)
    }

    /// Returns why no update may start, if a program inhibits it.
    pub(super) fn nobody_inhibits(&self) -> Result<(), Refusal> {
        let Some(inhibitor) = self.inhibitors.values().next() else {
            return Ok(());
        };
        Err(Refusal::new(
            ErrorCode::Inhibited,
            format!(
                "the process {} inhibits updates: {}; wait for its end, or use --force",
                inhibitor.pid, inhibitor.why
            ),
        ))
    }
}
