// SPDX-License-Identifier: GPL-2.0

//! Hooks around an update, and what inhibits one.

use super::{Answer, ConnId, Machine, Refusal};
use crate::{
    audit,
    hooks::{Input, Stage},
    registry::DueHooks,
    world::{QuestionId, World},
};
use luod_protocol::{ErrorCode, Inhibitor, Outcome, Report, SessionName, SessionState};

/// Hooks that must run after an update.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) hooks: DueHooks,
    /// Their question, when they were started.
    pub(super) asked: Option<QuestionId>,
}

impl From<DueHooks> for Due {
    fn from(hooks: DueHooks) -> Self {
        Self { hooks, asked: None }
    }
}

impl Due {
    fn is(&self, stage: Stage, update: u64) -> bool {
        self.hooks.stage == stage && self.hooks.report.update == update
    }
}

impl<W: World> Machine<W> {
    fn hook_input(&self, stage: Stage, update: u64) -> Input {
        let kernel = self.world.release();
        Input::new(stage, update, kernel, self.config.hook_timeout)
    }

    /// Starts the hooks before the running update.
    pub(super) fn start_pre_hooks(&mut self, how: Input) -> QuestionId {
        let sessions = self.list();
        let mut report = Report::new(self.number, Outcome::Aborted);
        report.reason = Some("luod was killed".to_owned());
        report.from = Some(self.world.release());
        self.owe_hooks(Stage::Abort, report);
        self.remember();
        self.world.run_hooks(Input { sessions, ..how })
    }

    /// The input of these hooks, without the sessions.
    pub(super) fn pre_hooks(&self) -> Input {
        self.hook_input(Stage::Pre, self.number)
    }

    /// Returns whether hooks before the running update were started.
    pub(super) fn has_pre_hooks(&self) -> bool {
        let mut due = self.due.iter();
        due.any(|due| due.is(Stage::Abort, self.number))
    }

    /// Hooks must run after an update, or with another result than was assumed. The caller saves
    /// that.
    pub(super) fn owe_hooks(&mut self, stage: Stage, report: Report) {
        let mut due = self.due.iter_mut();
        match due.find(|due| due.is(stage, report.update)) {
            Some(due) => due.hooks.report = report,
            None => self.due.push(Due::from(DueHooks { stage, report })),
        }
    }

    /// Starts the hooks after updates, unless an update is running: they would undo what the hooks
    /// before it have done. Their failures are only logged.
    pub(super) fn start_hooks(&mut self) {
        if self.update.is_some() {
            return;
        }
        let mut due = std::mem::take(&mut self.due);
        for due in due.iter_mut().filter(|due| due.asked.is_none()) {
            let DueHooks { stage, report } = &due.hooks;
            let mut input = self.hook_input(*stage, report.update);
            input.dry_run = report.outcome == Outcome::DryRun;
            if *stage == Stage::Post {
                input.missing = self.lost_although_required(report);
            }
            input.report = Some(report.clone());
            due.asked = Some(self.world.run_hooks(input));
        }
        self.due = due;
    }

    /// Handles the end of hooks after an update. Returns false if the answer is another one.
    pub(super) fn hooks_have_ended(&mut self, answered: QuestionId) -> bool {
        let before = self.due.len();
        self.due.retain(|due| due.asked != Some(answered));
        let ended = self.due.len() != before;
        if ended {
            self.remember();
        }
        ended
    }

    /// Ends an update in which luod was killed, if its hooks had been started: they are undone.
    pub(super) fn end_lost_update(&mut self) {
        let due = self
            .due
            .iter()
            .find(|due| due.is(Stage::Abort, self.number));
        let Some(report) = due.map(|due| due.hooks.report.clone()) else {
            return;
        };
        if self
            .last
            .as_ref()
            .is_some_and(|last| last.update >= report.update)
        {
            return;
        }
        tracing::warn!(
            message_id = audit::ABORTED,
            update = report.update,
            "update {} is aborted, since luod was killed",
            report.update
        );
        self.past.put((&report).into());
        self.last = Some(report);
        self.remember();
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
