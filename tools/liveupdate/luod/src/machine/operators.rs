// SPDX-License-Identifier: GPL-2.0

//! Requests of operators, except updates.

use super::{Answer, ConnId, Machine, Refusal};
use crate::world::World;
use luod_protocol::{ErrorCode, Event};

impl<W: World> Machine<W> {
    pub(super) fn operator_aborts(&mut self) -> Result<Answer, Refusal> {
        let Some(update) = &self.update else {
            return Err(Refusal::new(
                ErrorCode::NoUpdate,
                "no update is running that could be aborted",
            ));
        };
        if update.is_too_late() {
            return Err(Refusal::new(
                ErrorCode::WrongState,
                "it is too late: the next kernel is being started",
            ));
        }
        self.abort("the operator has aborted it");
        Ok(Answer::Done)
    }

    pub(super) fn operator_report(&mut self) -> Result<Answer, Refusal> {
        let report = self
            .running_report()
            .or_else(|| self.last.clone())
            .or_else(|| self.arrival_report());
        match report {
            Some(report) => Ok(Answer::Event(Event::Report(report), None)),
            None => Err(Refusal::new(
                ErrorCode::NoUpdate,
                "there is no update in the records of luod",
            )),
        }
    }

    pub(super) fn watch(&mut self, conn: ConnId, seq: Option<u64>) -> Result<Answer, Refusal> {
        let status = self.status();
        self.send(conn, seq, Event::Status(status), None);
        let sessions = self.list();
        self.send(conn, None, Event::List { sessions }, None);
        if self.peers.contains_key(&conn) {
            self.watchers.insert(conn);
        }
        Ok(Answer::Sent)
    }
}
