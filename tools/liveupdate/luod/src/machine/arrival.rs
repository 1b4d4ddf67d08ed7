// SPDX-License-Identifier: GPL-2.0

//! Reading the sessions that the previous kernel handed over.
//!
//! This can fail temporarily (`/dev/liveupdate` is busy) or permanently (the registry is damaged).
//! In both cases the phase is unknown, which differs from having no sessions: luod reports it,
//! retries periodically, and starts no update.

use super::{
    ending::Ending,
    give,
    incoming::{Held, Incoming},
    lookup::{is, is_finished, Backoff},
    view::Bridge,
    Answer, Caller, Machine, Refusal,
};
use crate::{
    audit,
    config::Config,
    registry::{self, Lost, Registry},
    world::World,
};
use liveupdate::{Device, IncomingSession, Token};
use luod_protocol::{ErrorCode, Mark, MarkName, SessionName, Stamp};
use rustix::io::Errno;
use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, OwnedFd},
};

/// A token that is unlikely to be in use.
const NO_TOKEN: Token = u64::MAX;

/// The longest time between two attempts, in microseconds.
const LONGEST_WAIT_US: u64 = 5_000_000;

/// luod could not read the sessions of the previous kernel.
#[derive(Debug)]
pub(super) struct Unknown {
    why: String,
    pub(super) retry: Backoff,
}

/// The update that started this kernel.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) update: u64,
    pub(super) from: String,
    pub(super) bridge: Bridge,
    pub(super) marks: Vec<Mark>,
    /// Sessions that were not handed over.
    pub(super) lost: Vec<Lost>,
}

impl<W: World> Machine<W> {
    /// Starts, and reads the sessions that the previous kernel handed over.
    ///
    /// `store` has the descriptors that the service manager has kept.
    pub fn start(world: W, config: Config, store: Vec<(String, OwnedFd)>) -> Self {
        let mut machine = Self::new(world, config);
        machine.recall();
        machine.sort_out(store);
        machine.look();
        machine.end_lost_update();
        machine.start_hooks();
        machine
    }

    /// Tries to read the sessions that the previous kernel handed over.
    fn look(&mut self) {
        let found = self.find_registry();
        let found = found.and_then(|(registry, device)| match registry {
            Some(registry) => self.arrive(registry, device),
            None => Ok(()),
        });
        let now = self.world.now();
        let Err(why) = found else {
            if self.unknown.take().is_some() {
                tracing::info!(
                    message_id = audit::KNOWN,
                    "the sessions of the previous kernel have been read now"
                );
                self.phase_changed = true;
            }
            self.mark_unregistered();
            self.watch_unclaimed();
            self.finish_if_done();
            return;
        };
        let retry = match &self.unknown {
            Some(unknown) => unknown.retry.again(now, LONGEST_WAIT_US),
            None => Backoff::start(now),
        };
        if self.unknown.as_ref().is_none_or(|last| last.why != why) {
            tracing::error!(
                message_id = audit::UNKNOWN,
                "the sessions of the last update cannot be found, luod tries again: {why}"
            );
        }
        self.unknown = Some(Unknown { why, retry });
    }

    /// Tries again, if it is time.
    pub(super) fn look_again(&mut self) {
        let now = self.world.now().monotonic_us;
        let mut endings = self.endings.values();
        if endings.any(|ending| matches!(ending, Ending::Unreadable { .. })) {
            return;
        }
        if self.unknown.as_ref().is_some_and(|u| u.retry.at <= now) {
            self.look();
        }
    }

    /// A text about the problem, for operators.
    pub(super) fn unknown_problem(&self) -> Option<String> {
        let unknown = self.unknown.as_ref()?;
        Some(format!(
            "the sessions of the last update cannot be found, luod tries again: {}",
            unknown.why
        ))
    }

    /// Refuses a request that depends on the sessions that cannot be read.
    pub(super) fn known(&self) -> Result<(), Refusal> {
        match &self.unknown {
            None => Ok(()),
            Some(unknown) => Err(Refusal::new(
                ErrorCode::TryAgain,
                format!(
                    "luod could not read the sessions of the previous kernel yet: {}; \
                     ask again",
                    unknown.why
                ),
            )),
        }
    }

    /// Opens the device; [`None`] if there is none.
    fn open_device(&mut self) -> Result<Option<Device>, String> {
        match self.world.open() {
            Ok(device) => Ok(Some(device)),
            Err(error) if is(&error, Errno::NOENT) => {
                self.problem = Some(
                    "there is no /dev/liveupdate; start the kernel with liveupdate=on".to_owned(),
                );
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Returns the session with the registry, and the registry; and the device, if it was opened.
    fn find_registry(&mut self) -> Result<(Option<Registry>, Option<Device>), String> {
        if let Some(session) = &self.internal {
            match Registry::retrieve(session) {
                Ok(registry) => return Ok((Some(registry), None)),
                // luod died either after it had finished the session, or before it had written the
                // registry.
                Err(error) if is(&error, Errno::NOENT) => {
                    let device = self.open_device()?;
                    let asked = device.map(|device| device.retrieve_session(registry::SESSION));
                    if !matches!(asked, Some(Err(gone)) if is(&gone, Errno::NOENT)) {
                        return Err(format!("there is no registry: {error}"));
                    }
                    self.world.forget(registry::SESSION);
                    self.internal = None;
                    return Ok((None, None));
                }
                // The session is kept open: some kernels finish a session when it is closed.
                Err(error) => return Err(error.to_string()),
            }
        }
        let Some(device) = self.open_device()? else {
            return Ok((None, None));
        };
        match device.retrieve_session(registry::SESSION) {
            Ok(session) => {
                self.world.keep(registry::SESSION, session.as_fd());
                let registry = Registry::retrieve(&session);
                self.internal = Some(session);
                match registry {
                    Ok(registry) => Ok((Some(registry), Some(device))),
                    Err(error) => Err(error.to_string()),
                }
            }
            Err(error) if is(&error, Errno::NOENT) => Ok((None, None)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Takes over the sessions of the update that started this kernel.
    fn arrive(&mut self, registry: Registry, device: Option<Device>) -> Result<(), String> {
        let mut missing = registry.sessions.iter();
        let missing = missing.any(|entry| !self.incoming.contains_key(&entry.name));
        let device = match device {
            Some(device) => Some(device),
            // All sessions are retrieved at once or not at all, to wait for the device only once.
            None if missing || !registry.dropped.is_empty() => self.open_device()?,
            None => self.world.open().ok(),
        };
        self.number = self.number.max(registry.update);
        if self.past.is_empty() {
            self.past = registry.history;
        }
        // The registry is more recent than the saved state.
        self.last = self.last.take_if(|last| last.update > registry.update);
        let now = self.world.now();
        for entry in registry.sessions {
            let name = entry.name;
            let mut incoming = match self.incoming.remove(&name) {
                Some(mut incoming) => {
                    // A session that the service manager has kept may be finished.
                    match device
                        .as_ref()
                        .and_then(|device| is_finished(device, &name))
                    {
                        Some(true) => incoming.held = Held::Finished,
                        Some(false) => {}
                        None => self.doubt(&name),
                    }
                    incoming
                }
                None => {
                    let (held, error) = match &device {
                        Some(device) => super::incoming::held(device.retrieve_session(&name)),
                        None => (Held::Failed, Some("there is no /dev/liveupdate".to_owned())),
                    };
                    if let Held::Here(session) = &held {
                        self.world.keep(name.as_str(), session.as_fd());
                    }
                    if let Some(error) = &error {
                        tracing::warn!(session = %name, "the session {name}: {error}");
                    }
                    if matches!(held, Held::Elsewhere) {
                        self.doubt(&name);
                    }
                    Incoming::new(held, now, error)
                }
            };
            incoming.registered = true;
            incoming.owner = entry.uid;
            incoming.client = incoming.client.or(entry.client);
            incoming.ready = Some(entry.ready);
            incoming.preserve_us = Some(entry.preserve_us);
            incoming.bytes = entry.bytes;
            if incoming.is_done() {
                self.world.forget(name.as_str());
            }
            self.add_incoming(name, incoming);
        }
        for name in registry.dropped {
            let session = device.as_ref().map(|device| device.retrieve_session(&name));
            let Some(Ok(session)) = session else {
                continue;
            };
            let question = self.world.finish(session);
            let (id, update) = (name, registry.update);
            self.endings
                .insert(question, Ending::Dropped { id, update });
        }
        drop(device);
        for lost in &registry.lost {
            tracing::error!(
                message_id = audit::DROPPED,
                session = %lost.name,
                update = registry.update,
                client = lost.client,
                "the session {} was not preserved: {}",
                lost.name,
                lost.error
            );
        }
        let mut marks = registry.marks;
        let khz = registry.tsc_khz;
        let uptime = self.world.uptime_us();
        let ticks = khz.map(|khz| (u128::from(uptime) * u128::from(khz) / 1000) as u64);
        let boot = Stamp {
            realtime_us: now.realtime_us.saturating_sub(uptime),
            monotonic_us: 0,
            tsc: now
                .tsc
                .zip(ticks)
                .map(|(tsc, ticks)| tsc.saturating_sub(ticks)),
        };
        let serving = self.world.now();
        for (name, stamp) in [
            (MarkName::Boot, boot),
            (MarkName::Luod, self.started),
            (MarkName::Serving, serving),
        ] {
            marks.push(Mark::new(name, stamp));
        }
        tracing::info!(
            message_id = audit::UPDATED,
            update = registry.update,
            sessions = self.incoming.len(),
            from = registry.kernel,
            "update {} has started this kernel from {}, with {} sessions",
            registry.update,
            registry.kernel,
            self.incoming.len()
        );
        self.arrival = Some(Arrival {
            update: registry.update,
            from: registry.kernel,
            bridge: Bridge { tsc_khz: khz },
            marks,
            lost: registry.lost,
        });
        Ok(())
    }

    /// Examines the descriptors in the store: sessions of the last update, and those of an update
    /// during which luod died, which can have the same names.
    fn sort_out(&mut self, store: Vec<(String, OwnedFd)>) {
        let now = self.world.now();
        let mut others = BTreeSet::new();
        for (name, fd) in store {
            let session = IncomingSession::from(fd);
            // These errors mean an outgoing session, or another file. Any other error does not mean
            // that the session is empty.
            let asked = session.retrieve(NO_TOKEN);
            let other =
                asked.is_err_and(|error| is(&error, Errno::INVAL) || is(&error, Errno::NOTTY));
            let known = SessionName::new(name.as_str()).ok();
            match known.filter(|_| !other) {
                _ if name == registry::SESSION && !other => self.internal = Some(session),
                Some(known) => {
                    let incoming = Incoming::new(Held::Here(session), now, None);
                    self.add_incoming(known, incoming);
                }
                None => {
                    others.insert(name);
                }
            }
        }
        if others.remove(registry::SESSION) {
            tracing::warn!("an update was running when luod was stopped: it is aborted");
            self.forget_registry();
        }
        for name in others {
            match SessionName::new(name.as_str()) {
                Ok(name) => self.forget_session(&name),
                Err(_) => self.world.forget(&name),
            }
        }
    }

    /// Adds a session that is in the store and not in the registry.
    fn mark_unregistered(&mut self) {
        let unregistered = self.incoming.values_mut();
        for incoming in unregistered.filter(|s| !s.registered && s.error.is_none()) {
            incoming.error = Some("it is not in the registry".to_owned());
        }
    }

    /// Finishes the session with the registry that luod could not read. Returns false if it is
    /// being finished.
    fn end_registry(&mut self, caller: Option<&Caller>) -> Result<bool, Refusal> {
        let failed = |error: io::Error| {
            let busy = is(&error, Errno::BUSY);
            let code = if busy {
                ErrorCode::DeviceBusy
            } else {
                ErrorCode::NoDevice
            };
            Refusal::new(code, format!("{error}; try again"))
        };
        if self.internal.is_none() {
            let device = self.world.open().map_err(failed)?;
            match device.retrieve_session(registry::SESSION) {
                Ok(session) => self.internal = Some(session),
                Err(error) if is(&error, Errno::NOENT) => return Ok(true),
                Err(error) => return Err(failed(error)),
            }
        }
        let Some(session) = &self.internal else {
            return Ok(true);
        };
        let session = IncomingSession::from(give(session).map_err(failed)?);
        let question = self.world.finish(session);
        let caller = caller.cloned();
        self.endings.insert(question, Ending::Unreadable { caller });
        Ok(false)
    }

    /// Handles the end of the session with the registry that luod could not read.
    pub(super) fn registry_given_up(
        &mut self,
        caller: Option<&Caller>,
        ended: Result<(), Refusal>,
    ) {
        if ended.is_ok() {
            self.internal = None;
            self.forget_registry();
        }
        match (caller, ended) {
            (Some(caller), Ok(())) => {
                self.forgotten(caller);
                self.reply(caller, Ok(Answer::Done));
            }
            (Some(caller), Err(refusal)) => self.reply(caller, Err(refusal)),
            (None, Ok(())) => {}
            (None, Err(refusal)) => tracing::error!("{}", refusal.message),
        }
    }

    /// Handles the request of an operator to give up the sessions that cannot be read.
    pub(super) fn operator_forgets(&mut self, caller: &Caller) -> Result<Answer, Refusal> {
        if self.unknown.is_none() {
            return Err(Refusal::new(
                ErrorCode::WrongState,
                "luod has read the sessions of the previous kernel: discard single sessions",
            ));
        }
        if !self.end_registry(Some(caller))? {
            return Ok(Answer::Sent);
        }
        self.forgotten(caller);
        Ok(Answer::Done)
    }

    /// Gives up the sessions that luod could not read.
    fn forgotten(&mut self, caller: &Caller) {
        let Some(problem) = self.unknown_problem() else {
            return;
        };
        self.unknown = None;
        self.problem = Some(format!("the last update was given up: {problem}"));
        self.mark_unregistered();
        self.phase_changed = true;
        let who = caller.who;
        tracing::warn!(
            message_id = audit::FORGOTTEN,
            uid = who.uid,
            pid = who.pid,
            "the sessions of the previous kernel are given up{}: {problem}",
            audit::by(Some(who))
        );
    }

    /// A handover begins while the sessions of the previous kernel cannot be read.
    pub(super) fn give_up_unknown(&mut self) {
        let Some(unknown) = self.unknown.take() else {
            return;
        };
        tracing::error!(
            message_id = audit::FORGOTTEN,
            update = self.number,
            "the sessions of the previous kernel are given up by this update: {}",
            unknown.why
        );
        if let Err(refusal) = self.end_registry(None) {
            tracing::error!("{}", refusal.message);
        }
    }
}
