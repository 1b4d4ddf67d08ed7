// SPDX-License-Identifier: GPL-2.0

//! The end of an update that does not start the next kernel, and reports of updates.

use super::Update;
use crate::{
    audit,
    hooks::Stage,
    machine::{view::with_offsets, ConnId, Machine, Part},
    world::World,
};
use luod_protocol::{
    Direction, Event, Mark, MarkName, Outcome, Report, SessionReport, SessionState,
};

impl Update {
    /// Adds the lost sessions that no client has subscribed again to the sessions of a report.
    fn report_lost(&self, reports: &mut Vec<SessionReport>) {
        for lost in &self.lost {
            if reports.iter().any(|report| report.session == lost.name) {
                continue;
            }
            let mut report = SessionReport::new(lost.name.clone(), SessionState::Dropped);
            report.client = lost.client.clone();
            report.error = Some(lost.error.clone());
            reports.push(report);
        }
    }
}

impl<W: World> Machine<W> {
    /// The connection that has requested the update is closed. The update continues.
    pub(in crate::machine) fn requester_left(&mut self, conn: ConnId) {
        if let Some(update) = &mut self.update {
            update.requester = update.requester.filter(|requester| *requester != conn);
        }
    }

    /// Ends the update, and closes all sessions.
    pub(in crate::machine) fn abort(&mut self, reason: &str) {
        if self.update.as_ref().is_some_and(|update| update.handover) {
            tracing::error!(
                message_id = audit::ABORTED,
                update = self.number,
                "nothing is preserved: {reason}"
            );
        } else {
            tracing::warn!(
                message_id = audit::ABORTED,
                update = self.number,
                "update {} is aborted: {reason}",
                self.number
            );
        }
        self.end(Outcome::Aborted, reason);
    }

    pub(super) fn end(&mut self, outcome: Outcome, reason: &str) {
        if self.update.is_none() {
            return;
        }
        self.failures.clear();
        self.late.clear();
        let number = self.number;
        let now = self.world.now();
        let mut reports = Vec::new();
        let mut cancelled = Vec::new();
        let mut closed = Vec::new();
        for (name, subscription) in &mut self.subscriptions {
            let part = std::mem::replace(&mut subscription.part, Part::None);
            let (state, preserve_us) = match &part {
                Part::None => continue,
                Part::Requested { .. } => (SessionState::Requested, None),
                Part::Preserving { .. } => (SessionState::Preserving, None),
                Part::Ready { preserve_us, .. } => (SessionState::Ready, Some(*preserve_us)),
                Part::Dropped => (SessionState::Dropped, None),
            };
            subscription.since = now;
            let mut report = SessionReport::new(name.clone(), state);
            report.client = subscription.client.clone();
            report.preserve_us = preserve_us;
            report.error = subscription.error.clone();
            reports.push(report);
            let told = matches!(part, Part::Dropped);
            if !matches!(part, Part::Requested { .. }) {
                self.cancelled.insert(name.clone());
            }
            cancelled.push((name.clone(), subscription.conn, told));
            // Files are unpreserved when the client has closed the session as well.
            closed.push(part);
        }
        self.world.close(Box::new(closed));
        for (name, conn, told) in cancelled {
            self.forget_session(&name);
            match conn {
                Some(conn) if !told => {
                    let event = Event::Cancelled {
                        id: name.clone(),
                        update: number,
                        reason: reason.to_owned(),
                    };
                    self.send(conn, None, event, None);
                    self.announce_change(&name, Direction::Outgoing);
                }
                Some(_) => {}
                None => self.unsubscribed(&name),
            }
        }
        let internal = self.update.as_mut().map(|update| update.internal.take());
        self.world.close(Box::new(internal));
        self.forget_registry();
        let report = self.update.as_ref().map(|update| {
            let marks = update.marks.iter();
            let marks = marks.filter(|mark| mark.name != MarkName::Jump);
            let marks: Vec<Mark> = marks.copied().collect();
            let mut report = Report::new(number, outcome);
            report.reason = Some(reason.to_owned());
            report.from = Some(self.world.release());
            report.marks = with_offsets(marks, None);
            update.report_lost(&mut reports);
            report.sessions = reports;
            report
        });
        if let Some(report) = report {
            self.past = self.history();
            self.past.put((&report).into());
            self.last = Some(report.clone());
            if self.has_pre_hooks() {
                self.owe_hooks(Stage::Abort, report.clone());
            }
            self.announce(&Event::Result(report));
            self.remember();
        }
        self.update = None;
        self.start_hooks();
        self.announce_phase();
    }

    /// The report of the running update.
    pub(in crate::machine) fn running_report(&self) -> Option<Report> {
        let update = self.update.as_ref()?;
        let sessions = self.list().into_iter();
        let sessions = sessions.filter(|info| info.direction == Direction::Outgoing);
        let sessions = sessions.map(|info| {
            let mut report = SessionReport::new(info.session, info.state);
            report.client = info.client;
            report.error = info.error;
            report
        });
        let mut report = Report::new(self.number, Outcome::Running);
        report.from = Some(self.world.release());
        report.marks = with_offsets(update.marks.clone(), None);
        report.sessions = sessions.collect();
        update.report_lost(&mut report.sessions);
        Some(report)
    }
}
