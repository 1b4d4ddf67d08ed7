// SPDX-License-Identifier: GPL-2.0

//! Who should take part in an update. That all who have subscribed are ready says nothing of those
//! who have not, be it that luod was started a moment ago, or that no client ever was.

use super::{Machine, Refusal};
use crate::{registry::Subscriber, world::World};
use luod_protocol::{ErrorCode, SessionName};

/// Names for people to read.
fn names<'a>(names: impl Iterator<Item = &'a SessionName>) -> String {
    let names: Vec<&str> = names.map(SessionName::as_str).collect();
    names.join(", ")
}

impl<W: World> Machine<W> {
    /// Refuses an update in which somebody is missing.
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
        // Those whose process has ended do not come any more.
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
            // Nobody may ever have been there, and luod has nobody to miss.
            None if there == 0 => Err(Refusal::new(
                ErrorCode::WrongState,
                "no session is subscribed, so that nothing would be preserved; start the clients, \
                 or use --expect 0",
            )),
            _ => Ok(()),
        }
    }

    /// Who has subscribed, and who should again.
    pub(super) fn subscribers(&self) -> Vec<Subscriber> {
        let there = self.subscriptions.iter().map(|(name, s)| Subscriber {
            name: name.clone(),
            pid: s.credentials.pid,
            client: s.client.clone(),
        });
        there.chain(self.absent.values().cloned()).collect()
    }
}
