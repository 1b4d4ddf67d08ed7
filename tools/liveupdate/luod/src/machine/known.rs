// SPDX-License-Identifier: GPL-2.0

//! Checks for missing clients. luod waits only for subscribed clients; a client may not have
//! subscribed because luod or the client was just started.

use super::{Machine, Refusal};
use crate::{registry::Subscriber, world::World};
use luod_protocol::{ErrorCode, SessionName};

/// Names for messages.
fn names<'a>(names: impl Iterator<Item = &'a SessionName>) -> String {
    let names: Vec<&str> = names.map(SessionName::as_str).collect();
    names.join(", ")
}

impl<W: World> Machine<W> {
    /// Refuses an update if a client is missing.
    pub(super) fn everybody_is_there(&mut self, expect: Option<u64>) -> Result<(), Refusal> {
        let missing = self.config.required.iter();
        let missing = names(missing.filter(|name| !self.subscriptions.contains_key(*name)));
        if !missing.is_empty() {
            return Err(Refusal::new(
                ErrorCode::WrongState,
                format!(
                    "sessions that the configuration of luod requires are not subscribed: \
                     {missing}; start their clients, or use --force"
                ),
            ));
        }
        // Clients whose process has ended do not subscribe again.
        let world = &self.world;
        let before = self.absent.len();
        self.absent
            .retain(|_, subscriber| world.is_alive(subscriber.pid));
        self.subscribers_changed |= self.absent.len() != before;
        if !self.absent.is_empty() {
            return Err(Refusal::new(
                ErrorCode::WrongState,
                format!(
                    "clients that had subscribed before luod was restarted have not done so \
                     again: {}; wait for them, or use --force",
                    names(self.absent.keys())
                ),
            ));
        }
        let there = self.subscriptions.len() as u64;
        match expect {
            Some(expect) if there < expect => Err(Refusal::new(
                ErrorCode::WrongState,
                format!(
                    "{there} sessions are subscribed, and {expect} are expected; \
                     wait for their clients, or use --force"
                ),
            )),
            // There may never have been a client, so that luod misses none.
            None if there == 0 => Err(Refusal::new(
                ErrorCode::WrongState,
                "no session is subscribed, so that nothing would be preserved; start the clients, \
                 or use --expect 0",
            )),
            _ => Ok(()),
        }
    }

    /// The subscribed clients, and those that should subscribe again.
    pub(super) fn subscribers(&self) -> Vec<Subscriber> {
        let there = self.subscriptions.iter().map(|(name, s)| Subscriber {
            name: name.clone(),
            pid: s.credentials.pid,
            client: s.client.clone(),
        });
        there.chain(self.absent.values().cloned()).collect()
    }
}
