// SPDX-License-Identifier: GPL-2.0

//! Creates sessions and sends them to the clients that were asked.

use super::Step;
use crate::{
    machine::{give, lookup::is, Machine, Part, Pause},
    registry,
    world::World,
};
use liveupdate::{errno, Device, OutgoingSession};
use luod_protocol::{Direction, Event, MarkName, SessionName};
use rustix::io::Errno;
use std::{collections::BTreeSet, io, os::fd::AsFd};

/// The time until a retry after EBUSY, in microseconds.
const RETRY_US: u64 = 50_000;

/// Returns whether a retry may succeed.
fn is_busy(error: &io::Error) -> bool {
    let errno = errno(error).map(Errno::from_raw_os_error);
    // A client that has not handled an abort yet still has the last session of that name open.
    matches!(errno, Some(Errno::BUSY | Errno::EXIST))
}

impl<W: World> Machine<W> {
    /// Creates the missing sessions, and sends them to their clients.
    pub(super) fn make_sessions(&mut self) {
        let now = self.world.now().monotonic_us;
        let mut again = false;
        let device = match self.world.open() {
            Ok(device) => device,
            Err(error) => {
                self.cannot_make(&error);
                return;
            }
        };
        if self.update.as_ref().is_some_and(|u| u.internal.is_none()) {
            match self.create_internal(&device) {
                Ok(session) => {
                    self.world.keep(registry::SESSION, session.as_fd());
                    if let Some(update) = &mut self.update {
                        update.internal = Some(session);
                    }
                    self.mark(MarkName::Started);
                }
                Err(error) => {
                    // The sessions of clients do not need the registry.
                    let handover = self.update.as_ref().is_some_and(|u| u.handover);
                    if !self.cannot_make(&error) || !handover {
                        return;
                    }
                    again = self.update.as_ref().is_some_and(|u| !u.without_registry);
                }
            }
        }
        if let Some(update) = &mut self.update {
            update.failing_since = update.failing_since.filter(|_| again);
        }
        let missing = self.update.as_mut();
        let missing = missing.map(|update| std::mem::take(&mut update.missing));
        let mut failures = Vec::new();
        let mut busy = BTreeSet::new();
        for name in missing.unwrap_or_default() {
            match self.make_session(&device, &name) {
                Ok(()) => {}
                Err(error) if is_busy(&error) => {
                    busy.insert(name);
                }
                Err(error) => failures.push((name, error.to_string())),
            }
        }
        again |= !busy.is_empty();
        if let Some(update) = &mut self.update {
            update.missing = busy;
        }
        self.forget_cancelled(&device);
        drop(device);
        self.retry_at(again.then_some(now + RETRY_US));
        for (name, why) in failures {
            self.failed(&name, &why);
        }
    }

    /// Creates the session for the registry.
    fn create_internal(&mut self, device: &Device) -> io::Result<OutgoingSession> {
        match device.create_session(registry::SESSION) {
            // The one of the previous kernel keeps the name as long as it is not open.
            Err(error) if is(&error, Errno::EXIST) && self.internal.is_none() => {
                self.internal = Some(device.retrieve_session(registry::SESSION)?);
                device.create_session(registry::SESSION)
            }
            created => created,
        }
    }

    /// The device cannot be opened, or the session for the registry cannot be created: retries for
    /// a limited time, which begins now, and then ends the update. During a handover, which cannot
    /// be aborted, retries as long as clients wait, and then continues without the registry.
    /// Returns false if the update has ended.
    fn cannot_make(&mut self, error: &io::Error) -> bool {
        let now = self.world.now().monotonic_us;
        let timeout = self.config.device_timeout.as_micros() as u64;
        let mut waiting = self.subscriptions.values();
        let waits = waiting.any(|s| s.part.deadline().is_some());
        let Some(update) = &mut self.update else {
            return false;
        };
        let since = *update.failing_since.get_or_insert(now);
        let in_time = is_busy(error) && now < since.saturating_add(timeout);
        if in_time || (update.handover && waits) {
            self.retry_at(Some(now + RETRY_US));
        } else if update.handover {
            tracing::error!(
                update = self.number,
                "the update continues without a registry of the sessions: {error}"
            );
            update.without_registry = true;
            self.retry_at(None);
        } else {
            self.abort(&error.to_string());
            return false;
        }
        true
    }

    fn retry_at(&mut self, retry: Option<u64>) {
        if let Some(update) = &mut self.update {
            update.step = Step::Preserving { retry };
        }
    }

    /// Creates a session for a client, unless it is no longer part of the update.
    fn make_session(&mut self, device: &Device, name: &SessionName) -> io::Result<()> {
        let subscription = self.subscriptions.get(name);
        if !subscription.is_some_and(|s| matches!(s.part, Part::Requested { .. })) {
            return Ok(());
        }
        let session = match device.create_session(name) {
            Err(error) if is(&error, Errno::EXIST) && self.adopt(device, name) => {
                if !self.update.as_ref().is_some_and(|update| update.force) {
                    return Err(io::Error::other(
                        "an unfinished session of the previous kernel has this name; let its \
                         client finish it, or discard it",
                    ));
                }
                device.create_session(name)
            }
            created => created,
        };
        let session = session?;
        self.cancelled.remove(name);
        let given = give(&session)?;
        self.world.keep(name.as_str(), session.as_fd());
        let now = self.world.now();
        let Some(subscription) = self.subscriptions.get_mut(name) else {
            return Ok(());
        };
        let Part::Requested { asked, deadline } = subscription.part else {
            return Ok(());
        };
        subscription.since = now;
        subscription.part = Part::Preserving {
            asked,
            deadline,
            session,
            pause: Pause::No,
        };
        let event = Event::StartPreservation {
            id: name.clone(),
            update: self.number,
            deadline_ms: deadline.saturating_sub(now.monotonic_us) / 1000,
        };
        if let Some(conn) = subscription.conn {
            self.send(conn, None, event, Some(given));
        }
        self.announce_change(name, Direction::Outgoing);
        Ok(())
    }
}
