// SPDX-License-Identifier: GPL-2.0

//! The steps of a live update for a guest.

use super::{Guest, Running};
use crate::{
    allocation, check, moved, next_kernel, processors::Processors, qmp::Error, run_dir::State,
    spec, spec::Spec, state,
};
use liveupdate::luod::{Participant, Result, SessionName};
use liveupdate::{IncomingSession, OutgoingSession};
use luo_check::System;
use std::{
    fs::File,
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant},
};

/// The time limit for saving or loading the state of devices and processors.
const MOVE: Duration = Duration::from_secs(60);

/// The time limit for the first steps of the virtual processors. KVM may have to wait for memory.
const FIRST_STEPS: Duration = Duration::from_secs(30);

/// A guest whose state was loaded.
#[derive(Debug)]
pub struct Loaded {
    incoming: File,
    paused_us: u64,
    started: Instant,
    retrieved: Duration,
    launched: Duration,
}

impl Running {
    /// The virtual processors, before they are resumed.
    fn processors(&mut self) -> Result<Processors> {
        Processors::new(&mut self.qmp, self.process.id())
    }
}

fn uri(fd: RawFd) -> String {
    format!("file:/proc/self/fd/{fd}")
}

impl Guest {
    fn save(&mut self) -> Result {
        let state = self.running.as_ref().map(|running| running.state);
        let uri = uri(state.ok_or("QEMU has ended")?);
        let started = Instant::now();
        let saved = self.qmp()?.is_saved()?;
        self.spec.held = saved || self.qmp()?.status()? == "paused";
        self.spec.paused_us = spec::now_us();
        self.spec.lag_us = self.lag_us.unwrap_or(0);
        self.spec.updates = self.updates;
        self.stopped = None;
        self.record(State::Paused)?;
        self.paused = true;
        if !saved {
            self.state.set_len(0)?;
            self.qmp()?.save(&uri, MOVE)?;
        }
        let took = started.elapsed();
        println!(
            "{}: paused, state of {} bytes saved within {} us",
            self.spec.name,
            self.state.metadata()?.len(),
            took.as_micros()
        );
        Ok(())
    }

    /// Resumes the guest after an update was aborted, unless its operator had paused it. QEMU refuses
    /// to save the state of such a guest again; the state does not change until its operator
    /// resumes the guest: see [`Qmp::is_saved`](crate::qmp::Qmp::is_saved).
    pub(super) fn go_on(&mut self, reason: &str) -> Result {
        // If a disk fails to flush its cache, QEMU does not leave this state, and refuses to resume
        // the guest, until the state was saved completely.
        if self.qmp()?.status()? == "finish-migrate" {
            let state = self.running.as_ref().map(|running| running.state);
            let uri = uri(state.ok_or("QEMU has ended")?);
            self.state.set_len(0)?;
            self.qmp()?.save(&uri, MOVE)?;
        }
        if !self.spec.held {
            self.qmp()?.go_on()?;
        }
        println!("{}: {}: {reason}", self.spec.name, self.continues());
        if !self.spec.held {
            let gap_us = spec::now_us().checked_sub(self.spec.paused_us);
            self.add_gap(self.lag_us.unwrap_or(0), gap_us);
            self.set_clock();
        }
        self.report(State::Running);
        Ok(())
    }

    /// What the guest does after an update.
    fn continues(&self) -> &'static str {
        match self.spec.held {
            true => "stays paused, as it was before the update",
            false => "continues",
        }
    }

    /// Whether the guest has run from the state in `incoming`: a luo-qemu was killed before it
    /// finished the session. A QEMU that has loaded the state, but has not run the guest, is ended.
    fn has_run(&mut self, session: &IncomingSession, incoming: &File) -> Result<bool> {
        let used = state::is_used(incoming)?;
        let restoring = std::mem::take(&mut self.restoring);
        let name = self.spec.name.clone();
        match &mut self.running {
            None if used => println!(
                "{name}: has run on this kernel already, and its QEMU has ended: it is not resumed again"
            ),
            None => return Ok(false),
            Some(running) if used => {
                if restoring {
                    self.updates += 1;
                    let processors = running.processors()?;
                    let qmp = &mut running.qmp;
                    // It may have been killed before it resumed the guest.
                    if qmp.status()? == "paused" && !self.spec.held {
                        qmp.resume()?;
                    }
                    let spec = session.retrieve(spec::SPEC).map(File::from);
                    if let Ok(spec) = spec.and_then(|file| Spec::read(&file)) {
                        // The guest was paused for at most this time.
                        let gap_us = spec::now_us().checked_sub(spec.paused_us);
                        self.add_gap(spec.lag_us, gap_us);
                        if !spec.held {
                            self.set_clock();
                        }
                    }
                    self.await_first_steps(processors)?;
                }
                println!("{name}: runs already: only its session is finished");
                self.report(State::Running);
            }
            Some(_) if restoring => {
                println!("{name}: is resumed again, since it has not run yet");
                self.kill();
                return Ok(false);
            }
            Some(Running { process, .. }) => {
                return Err(format!(
                    "the guest {name} runs, but not from the session vm-{name}: end its QEMU (pid {}), then start the guest again",
                    process.id()
                )
                .into())
            }
        }
        Ok(true)
    }

    /// The first part of a restore: retrieves the memory, starts QEMU, and loads the state. The guest
    /// does not run yet. Public for tests.
    ///
    /// # Errors
    ///
    /// If that fails: the guest can be restored again.
    pub fn load(&mut self, session: &IncomingSession, incoming: File) -> Result<Loaded> {
        let started = Instant::now();
        let mut spec = Spec::read(&session.retrieve(spec::SPEC)?.into())?;
        if spec.name != self.spec.name {
            return Err(format!("the session has the guest {}", spec.name).into());
        }
        moved::replace(&mut spec, &self.moved)?;
        let mut files = Vec::new();
        for (token, backend) in (spec::MEMORY..).zip(&spec.memory) {
            files.push(backend.checked(session.retrieve(token)?.into())?);
        }
        let paused_us = std::mem::take(&mut spec.paused_us);
        self.updates = spec.updates;
        self.spec = spec;
        self.memory = files;
        let retrieved = started.elapsed();

        self.launch(Some(&incoming))?;
        let launched = started.elapsed();
        let uri = uri(incoming.as_raw_fd());
        if let Err(error) = self.qmp()?.load(&uri, MOVE) {
            self.kill();
            return Err(error.into());
        }
        Ok(Loaded {
            incoming,
            paused_us,
            started,
            retrieved,
            launched,
        })
    }

    /// Waits until the virtual processors have run since the guest was resumed. Does not wait if
    /// its operator had paused it, since it was not resumed then.
    fn await_first_steps(&mut self, processors: Processors) -> Result {
        let name = self.spec.name.clone();
        let held = self.spec.held;
        let qmp = self.qmp()?;
        if held {
            let status = qmp.status()?;
            if status != "paused" {
                eprintln!("{name}: is {status} after the update");
            }
            return Ok(());
        }
        let ran = processors.wait(qmp, FIRST_STEPS);
        if let Some(remark) = ran.map_err(|error| format!("its session is kept: {error}"))? {
            eprintln!("{name}: {remark}");
        }
        Ok(())
    }

    /// The second part: marks the state as used, and resumes the guest, unless its operator had
    /// paused it: the operator may resume it from then on. Returns when the virtual processors have
    /// run. Public for tests.
    ///
    /// # Errors
    ///
    /// If the guest does not run. It can be restored again only if QEMU has reported that.
    pub fn run(&mut self, loaded: Loaded) -> Result {
        let running = self.running.as_mut().ok_or("QEMU has ended")?;
        let processors = running.processors()?;
        state::mark_used(&loaded.incoming)?;
        let held = self.spec.held;
        let resumed = match held {
            true => Ok(()),
            false => self.qmp()?.resume(),
        };
        if let Err(error) = resumed {
            if matches!(error, Error::Refused { .. }) {
                self.kill();
                state::mark_unused(&loaded.incoming)?;
            }
            return Err(error.into());
        }
        self.updates += 1;
        self.gap_us = spec::now_us().checked_sub(loaded.paused_us);
        self.add_gap(self.spec.lag_us, self.gap_us);
        println!(
            "{}: {}; retrieved within {} us, QEMU started within {} us, all within {} us; gap {} us",
            self.spec.name,
            self.continues(),
            loaded.retrieved.as_micros(),
            (loaded.launched - loaded.retrieved).as_micros(),
            loaded.started.elapsed().as_micros(),
            self.gap_us.unwrap_or(0),
        );
        if !held {
            self.set_clock();
        }
        self.await_first_steps(processors)?;
        // From now on, the next luo-qemu would only finish the session.
        self.report(State::Running);
        Ok(())
    }
}

impl Participant for Guest {
    fn prepare(&mut self, _id: &SessionName, _deadline: Duration) -> Result {
        if !self.qmp()?.is_saved()? {
            match self.qmp()?.status()?.as_str() {
                "running" | "paused" => {}
                "postmigrate" => {
                    return Err(
                        "the guest is paused since an update that was aborted, and luo-qemu was killed after that: resume the guest"
                            .into(),
                    )
                }
                other => return Err(format!("the guest is {other}").into()),
            }
        }
        let found = check::check(&self.spec.arguments);
        if let Some(why) = found.iter().find(|one| one.forbids(self.spec.forced)) {
            return Err(why.text.clone().into());
        }
        if let Some(why) = next_kernel::obstacle(&System::default(), &self.spec.arguments) {
            return Err(why.into());
        }
        match self.qmp()?.obstacles()?.as_slice() {
            [] => Ok(()),
            reasons => Err(format!(
                "QEMU cannot save the state of the guest: {}",
                reasons.join("; ")
            )
            .into()),
        }
    }

    /// The memory is preserved while the guest runs: changes until the jump are handed over as well.
    fn preserve(&mut self, _id: &SessionName, session: &OutgoingSession) -> Result {
        let started = Instant::now();
        for (file, backend) in self.memory.iter().zip(&self.spec.memory) {
            allocation::fill(file, backend)?;
        }
        for (token, file) in (spec::MEMORY..).zip(&self.memory) {
            session.preserve(file, token)?;
        }
        let took = started.elapsed().as_micros();
        println!("{}: memory preserved within {took} us", self.spec.name);
        Ok(())
    }

    fn pauses(&self) -> bool {
        true
    }

    /// Called when all other guests and programs are ready or are paused as well: pauses the guest,
    /// and preserves its other state.
    fn pause(&mut self, _id: &SessionName, session: &OutgoingSession) -> Result {
        self.save()?;
        session.preserve(&self.state, spec::STATE)?;
        self.spec.write(&self.description)?;
        session.preserve(&self.description, spec::SPEC)?;
        Ok(())
    }

    fn cancelled(&mut self, _id: &SessionName, reason: &str) {
        self.frozen = false;
        if !std::mem::take(&mut self.paused) {
            return;
        }
        if let Err(error) = self.go_on(reason) {
            eprintln!("{}: does not continue yet: {error}", self.spec.name);
            self.orphan = true;
        }
    }

    fn frozen(&mut self, _id: &SessionName) {
        self.frozen = true;
    }

    /// The session is finished after this, and the guest cannot be restored again: it returns only
    /// when the guest runs, or has run.
    fn restore(&mut self, _id: &SessionName, session: &IncomingSession) -> Result {
        let incoming = File::from(session.retrieve(spec::STATE)?);
        if self.has_run(session, &incoming)? {
            return Ok(());
        }
        let resuming = self.load(session, incoming)?;
        self.run(resuming)
    }
}
