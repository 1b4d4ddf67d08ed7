// SPDX-License-Identifier: GPL-2.0

//! The end of sessions of the previous kernel.
//!
//! Finishing a session frees the files that were not retrieved, which can take long: luod does not
//! wait for it.

use super::{
    give,
    incoming::{is_ending, End, Held, Incoming},
    micros, Answer, Caller, Machine, Part, Refusal,
};
use crate::{
    audit,
    config::Credentials,
    hooks::Stage,
    registry,
    world::{QuestionId, World},
};
use liveupdate::{Device, IncomingSession};
use luod_protocol::{Direction, ErrorCode, Event, MarkName, SessionName, SessionState};
use std::{io, os::fd::AsFd};

/// A session that is being finished.
#[derive(Debug)]
pub(super) enum Ending {
    /// A session; the requester waits for an answer.
    Session {
        id: SessionName,
        end: End,
        caller: Option<Caller>,
    },
    /// A session without which a forced update has continued.
    Dropped { id: SessionName, update: u64 },
    /// The session with the registry.
    Registry,
    /// The session with a registry that luod could not read.
    Unreadable { caller: Option<Caller> },
}

impl<W: World> Machine<W> {
    pub(super) fn operator_finishes(
        &mut self,
        caller: &Caller,
        id: &SessionName,
    ) -> Result<Answer, Refusal> {
        let state = self.incoming_session(id)?.state();
        if state != SessionState::Claimed {
            return Err(Refusal::new(
                ErrorCode::WrongState,
                format!("no client has claimed the session {id}; discard it if its contents are not needed"),
            ));
        }
        self.finish(id, End::Finished, Some(caller))
    }

    pub(super) fn operator_discards(
        &mut self,
        caller: &Caller,
        id: &SessionName,
    ) -> Result<Answer, Refusal> {
        self.incoming_session(id)?;
        self.try_again(id)?;
        let incoming = self.incoming_session(id)?;
        match incoming.state() {
            SessionState::Unclaimed | SessionState::Failed => {
                self.finish(id, End::Discarded, Some(caller))
            }
            _ => Err(Refusal::new(
                ErrorCode::InUse,
                format!("another process has the session {id} open; finish it there, or stop that process"),
            )),
        }
    }

    /// Finishes a session, if its client has not finished it.
    pub(super) fn finish(
        &mut self,
        id: &SessionName,
        end: End,
        caller: Option<&Caller>,
    ) -> Result<Answer, Refusal> {
        let incoming = self.incoming_session(id)?;
        if incoming.ending {
            return Err(is_ending(id));
        }
        let Held::Here(session) = &incoming.held else {
            // It can only be removed from the list.
            self.ended(id, end, caller.map(|caller| caller.who));
            return Ok(Answer::Done);
        };
        // This has no effect if the client has finished it.
        let session = give(session);
        let session = session.map_err(|e| Refusal::new(ErrorCode::Kernel, e.to_string()))?;
        incoming.ending = true;
        let question = self.world.finish(IncomingSession::from(session));
        let ending = Ending::Session {
            id: id.clone(),
            end,
            caller: caller.cloned(),
        };
        self.endings.insert(question, ending);
        Ok(Answer::Sent)
    }

    /// Handles the result of finishing a session.
    pub(super) fn end_is_known(&mut self, question: QuestionId, answer: &io::Result<bool>) {
        let Some(ending) = self.endings.remove(&question) else {
            return;
        };
        let refusal = |error: &io::Error| Refusal::new(ErrorCode::Kernel, error.to_string());
        match ending {
            Ending::Session { id, end, caller } => {
                if let Some(incoming) = self.incoming.get_mut(&id) {
                    incoming.ending = false;
                }
                match (answer, &caller) {
                    (Err(_), Some(_)) => {}
                    (Err(error), None) => {
                        tracing::warn!(session = %id, "{error}");
                        self.ended(&id, end, None);
                    }
                    (Ok(_), caller) => self.ended(&id, end, caller.as_ref().map(|c| c.who)),
                }
                if let Some(caller) = caller {
                    let answer = answer.as_ref().map_err(refusal);
                    self.reply(&caller, answer.map(|_| Answer::Done));
                }
            }
            Ending::Dropped { id, update } => match answer {
                Ok(_) => tracing::warn!(
                    message_id = audit::DISCARDED,
                    session = %id,
                    update,
                    "the session {id} is discarded: a forced update has continued without it"
                ),
                Err(error) => tracing::warn!(session = %id, "{error}"),
            },
            Ending::Registry => {
                if let Err(error) = answer {
                    tracing::warn!("{error}");
                }
            }
            Ending::Unreadable { caller } => {
                let ended = answer.as_ref().map(|_| ()).map_err(refusal);
                self.registry_given_up(caller.as_ref(), ended);
            }
        }
    }

    /// Ends a session on the request of `who`.
    pub(super) fn ended(&mut self, id: &SessionName, end: End, who: Option<Credentials>) {
        let now = self.world.now();
        let bridge = self.arrival.as_ref().map(|arrival| arrival.bridge);
        let discarded = end == End::Discarded;
        let (uid, pid) = who.map(|who| (who.uid, who.pid)).unzip();
        self.doubts.names.remove(id);
        self.unfinished.remove(id);
        if let Some(incoming) = self.incoming.get_mut(id) {
            if let Some(peer) = incoming.conn.and_then(|conn| self.peers.get_mut(&conn)) {
                peer.claimed.remove(id);
            }
            incoming.since = now;
            incoming.held = match end {
                End::Finished => Held::Finished,
                End::Discarded => Held::Discarded,
            };
            incoming.conn = None;
            if discarded {
                let by = match who {
                    Some(_) => audit::by(who),
                    None => " by a forced update".to_owned(),
                };
                incoming.error = Some(format!("discarded{by}"));
            } else if let Some(claimed) = incoming.claimed {
                incoming.restore_us = Some(micros(claimed, now));
                incoming.blackout_us = bridge
                    .zip(incoming.ready)
                    .and_then(|(bridge, ready)| bridge.micros(ready, now));
            } else if who.is_none() {
                let why = "the kernel no longer has this session: it is finished, or was lost";
                incoming.error = Some(why.to_owned());
            }
        }
        let update = self.number;
        let by = audit::by(who);
        if discarded {
            tracing::warn!(
                message_id = audit::DISCARDED,
                session = %id,
                update,
                uid,
                pid,
                "the session {id} is discarded{by}: its contents are lost"
            );
        } else {
            tracing::info!(
                message_id = audit::FINISHED,
                session = %id,
                update,
                uid,
                pid,
                "the session {id} is finished{by}"
            );
        }
        self.forget_session(id);
        self.announce_change(id, Direction::Incoming);
        self.finish_if_done();
    }

    /// Finishes the session of the registry when all others are finished.
    pub(super) fn finish_if_done(&mut self) {
        if !self.unfinished.is_empty() {
            return;
        }
        let Some(session) = self.internal.take_if(|_| self.arrival.is_some()) else {
            return;
        };
        self.arrival_mark(MarkName::Finished);
        if let Some(report) = self.arrival_report() {
            self.announce(&Event::Result(report.clone()));
            self.owe_hooks(Stage::Post, report);
        }
        // The next luod can no longer read the registry.
        self.remember();
        self.forget_registry();
        let question = self.world.finish(session);
        self.endings.insert(question, Ending::Registry);
        self.start_hooks();
        self.announce_phase();
    }

    /// Finishes all unfinished sessions, since the next update cannot hand them over.
    pub(super) fn discard_unfinished(&mut self) {
        self.give_up_unknown();
        for name in self.unfinished.clone() {
            match self.finish(&name, End::Discarded, None) {
                Ok(_) => {}
                // It is already being finished.
                Err(refusal) if refusal.code == ErrorCode::InUse => {}
                Err(refusal) => {
                    tracing::warn!(session = %name, "{}", refusal.message);
                    self.ended(&name, End::Discarded, None);
                }
            }
        }
    }

    /// Takes an unknown session of the previous kernel, or one that another process had open, that
    /// prevents the creation of a new one with its name. Returns false if there is none.
    pub(super) fn adopt(&mut self, device: &Device, id: &SessionName) -> bool {
        match self.incoming.get(id) {
            Some(incoming) if !incoming.is_done() => {
                if matches!(incoming.held, Held::Here(_)) {
                    return false;
                }
                self.take(device, id);
            }
            _ => {
                let Ok(session) = device.retrieve_session(id) else {
                    return false;
                };
                tracing::warn!(session = %id, "the session {id} of the previous kernel is not in the registry");
                self.world.keep(id.as_str(), session.as_fd());
                let why = Some("it is not in the registry".to_owned());
                let incoming = Incoming::new(Held::Here(session), self.world.now(), why);
                self.add_incoming(id.clone(), incoming);
                self.announce_change(id, Direction::Incoming);
            }
        }
        let incoming = self.incoming.get(id);
        incoming.is_some_and(|incoming| matches!(incoming.held, Held::Here(_)))
    }

    /// Makes the service manager drop a session that has ended. It removes by name, which a
    /// session of the previous kernel and one for the next kernel can share.
    pub(super) fn forget_session(&mut self, id: &SessionName) {
        self.world.forget(id.as_str());
        let incoming = self.incoming.get(id).map(|incoming| &incoming.held);
        if let Some(Held::Here(session)) = incoming {
            self.world.keep(id.as_str(), session.as_fd());
        }
        let outgoing = self.subscriptions.get(id).map(|s| &s.part);
        if let Some(Part::Preserving { session, .. } | Part::Ready { session, .. }) = outgoing {
            self.world.keep(id.as_str(), session.as_fd());
        }
    }

    /// The same for the registry.
    pub(super) fn forget_registry(&mut self) {
        self.world.forget(registry::SESSION);
        if let Some(session) = &self.internal {
            self.world.keep(registry::SESSION, session.as_fd());
        }
        let outgoing = self.update.as_ref();
        if let Some(session) = outgoing.and_then(|update| update.internal.as_ref()) {
            self.world.keep(registry::SESSION, session.as_fd());
        }
    }
}
