// SPDX-License-Identifier: GPL-2.0

//! The restrictions of the configuration: when updates may start, quotas, and the alarm about
//! unclaimed sessions.

use super::{Machine, Refusal};
use crate::{audit, config::Identity, world::World};
use luod_protocol::{ErrorCode, SessionName};

impl<W: World> Machine<W> {
    /// Refuses an update that the restrictions do not permit now.
    pub(super) fn is_permitted(&self, dry_run: bool) -> Result<(), Refusal> {
        let refuse = |why: String| Err(Refusal::new(ErrorCode::Policy, why));
        if !self.config.is_in_window(self.world.now().realtime_us) {
            return refuse(
                "the configuration of luod permits updates only in maintenance windows (windows, \
                 in UTC); wait for one, or use --force"
                    .to_owned(),
            );
        }
        if dry_run {
            return Ok(());
        }
        let minimum = self.config.minimum_verdict;
        match self.world.objection(minimum) {
            None => Ok(()),
            // The verdict "no" is only certain when all clients are ready.
            Some(_) if self.world.objection(luo_check::Verdict::Unknown).is_some() => Ok(()),
            Some(why) => refuse(format!(
                "the configuration of luod requires the verdict {minimum} on the loaded kernel \
                 (minimum-verdict): {why}; load another kernel, or use --force"
            )),
        }
    }

    /// Refuses a session that a user may not have in addition to the others.
    pub(super) fn is_in_quota(&self, who: &Identity, id: &SessionName) -> Result<(), Refusal> {
        let Some(most) = self.config.max_sessions_of(who, id) else {
            return Ok(());
        };
        let uid = who.credentials.uid;
        let of_user = self.subscriptions.values();
        let of_user = of_user.filter(|subscription| subscription.credentials.uid == uid);
        if of_user.take(most).count() < most {
            return Ok(());
        }
        Err(Refusal::new(
            ErrorCode::TooMany,
            format!(
                "the user {uid} has {most} sessions, which is the limit in the configuration of luod \
                 (max-sessions); unsubscribe one first"
            ),
        ))
    }

    /// Sets the time of the next check for sessions that are unclaimed for too long: at the latest
    /// when a session that has just become unclaimed would be.
    pub(super) fn watch_unclaimed(&mut self) {
        let timeout = self
            .config
            .claim_timeout
            .map(|time| time.as_micros() as u64);
        let Some(timeout) = timeout.filter(|_| !self.unfinished.is_empty()) else {
            return;
        };
        let at = self.world.now().monotonic_us.saturating_add(timeout);
        self.alarm_at = self.alarm_at.into_iter().chain([at]).min();
    }

    /// Logs an alarm for each session that is unclaimed for too long.
    pub(super) fn alarm(&mut self) {
        let now = self.world.now().monotonic_us;
        if self.alarm_at.is_none_or(|at| now < at) {
            return;
        }
        self.alarm_at = None;
        let Some(timeout) = self.config.claim_timeout else {
            return;
        };
        for name in &self.unfinished {
            let Some(session) = self.incoming.get_mut(name) else {
                continue;
            };
            if session.conn.is_some() || session.is_done() || session.overdue {
                continue;
            }
            let until = session.since.monotonic_us;
            let until = until.saturating_add(timeout.as_micros() as u64);
            if now < until {
                self.alarm_at = self.alarm_at.into_iter().chain([until]).min();
                continue;
            }
            session.overdue = true;
            tracing::error!(
                message_id = audit::UNCLAIMED,
                session = %name,
                update = self.number,
                "no client has claimed the session {name} for {} s; start its client, or discard it",
                timeout.as_secs()
            );
        }
    }

    /// A text about such sessions, for operators.
    pub(super) fn unclaimed_problem(&self) -> Option<String> {
        let overdue = |name: &&SessionName| {
            let session = self.incoming.get(*name);
            session.is_some_and(|session| session.overdue && session.conn.is_none())
        };
        let names = self.unfinished.iter().filter(overdue);
        let names: Vec<&str> = names.take(10).map(SessionName::as_str).collect();
        (!names.is_empty()).then(|| {
            format!(
                "no client has claimed these sessions in time: {}; start their clients, or discard \
                 them",
                names.join(", ")
            )
        })
    }
}
