// SPDX-License-Identifier: GPL-2.0

//! Tells clients that still work to stop, when all others are ready.

use crate::{
    machine::{Machine, Part, Pause, Subscription},
    world::World,
};
use luod_protocol::Event;

impl<W: World> Machine<W> {
    /// If all clients are ready or only have to stop their work, sends PAUSE to those that wait for
    /// it. Each of them gets its full time limit again.
    pub(super) fn pause_all(&mut self) {
        let Some(update) = &mut self.update else {
            return;
        };
        let stops_soon = |subscription: &Subscription| match subscription.part {
            Part::Ready { .. } | Part::Dropped => true,
            Part::Preserving { pause, .. } => pause != Pause::No,
            Part::None | Part::Requested { .. } => false,
        };
        if !update.busy.all(&self.subscriptions, stops_soon) {
            return;
        }
        let now = self.world.now().monotonic_us;
        let mut events = Vec::new();
        for (name, subscription) in &mut self.subscriptions {
            let Part::Preserving {
                asked,
                deadline,
                pause: pause @ Pause::Waits,
                ..
            } = &mut subscription.part
            else {
                continue;
            };
            let timeout = deadline.saturating_sub(asked.monotonic_us);
            *pause = Pause::Told;
            *deadline = now.saturating_add(timeout);
            update.deadline = update.deadline.into_iter().chain([*deadline]).min();
            let event = Event::Pause {
                id: name.clone(),
                update: self.number,
                deadline_ms: timeout / 1000,
            };
            events.extend(subscription.conn.map(|conn| (conn, event)));
        }
        for (conn, event) in events {
            self.send(conn, None, event, None);
        }
    }
}
