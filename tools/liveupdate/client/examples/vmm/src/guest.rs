// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The guest in a live update.

use crate::{
    boot,
    machine::Machine,
    ram::Kind,
    state::{self, State},
    Options,
};
use liveupdate::{
    luod::{Participant, Result, SessionName},
    IncomingSession, OutgoingSession,
};
use std::{fs::File, os::fd::OwnedFd, time::Duration, time::Instant};

/// The tokens of the files in the session.
const RAM: u64 = 1;
const STATE: u64 = 2;
/// If the RAM is a guest_memfd: the VM that it belongs to.
const VM: u64 = 3;

/// A guest.
pub struct Guest {
    options: Options,
    /// [`None`] until it is started or restored.
    machine: Option<Machine>,
    paused: bool,
}

impl Guest {
    /// A guest that is not started yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            machine: None,
            paused: false,
        }
    }

    /// Starts the guest anew.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(&mut self) -> Result {
        let options = &self.options;
        let (Some(kernel), Some(initrd)) = (&options.kernel, &options.initrd) else {
            return Err(
                "there is no guest to restore: start one with --kernel and --initrd".into(),
            );
        };
        let memory = (options.memory << 20, options.ram);
        let machine = Machine::new(memory, options.cpus, |ram, first, khz| {
            if options.populate {
                ram.populate()?;
            }
            // There is neither ACPI nor PCI, and a busy host delays the timer.
            let cmdline = format!(
                "acpi=off pci=off no_timer_check reboot=t tsc_early_khz={khz} {}",
                options.cmdline
            );
            boot::load(ram, options.cpus, kernel, initrd, &cmdline)?;
            boot::set_registers(first)
        })?;
        machine.resume()?;
        self.machine = Some(machine);
        Ok(())
    }

    /// Why the guest has ended, if it has.
    pub fn end(&self) -> Option<String> {
        self.machine.as_ref()?.end()
    }

    fn machine(&self) -> Result<&Machine> {
        Ok(self.machine.as_ref().ok_or("there is no guest")?)
    }

    /// Pauses the guest; returns its state in a file.
    fn save(&mut self) -> Result<File> {
        let started = Instant::now();
        self.paused = true;
        let file = self.machine()?.pause()?.write()?;
        self.say(&format!(
            "paused; {} bytes of state within {} us",
            file.metadata()?.len(),
            started.elapsed().as_micros()
        ));
        Ok(file)
    }

    /// Lets a guest run that was [saved](Self::save).
    fn load(&mut self, ram: File, vm: Option<OwnedFd>, state: &State, file: &File) -> Result {
        let started = Instant::now();
        let machine = Machine::restore(ram, vm, state)?;
        // Until now, the guest can be restored again. An error from here on loses it, but it never
        // runs twice.
        state::mark_used(file)?;
        let gap = machine.since_us(state.paused_at);
        machine.resume()?;
        self.machine = Some(machine);
        self.paused = false;
        self.say(&format!(
            "continues; restored within {} us, gap {gap} us",
            started.elapsed().as_micros()
        ));
        Ok(())
    }

    /// Saves and restores the guest within this kernel: a rehearsal of an update.
    ///
    /// # Errors
    ///
    /// If it cannot be saved or restored.
    pub fn rehearse(&mut self) -> Result {
        if self.paused {
            return Ok(());
        }
        let file = self.save()?;
        let ram = self.machine()?.ram().file.try_clone()?;
        self.machine = None;
        self.load(ram, None, &State::read(&file)?, &file)
    }

    fn say(&self, what: &str) {
        println!("{}: {what}", self.options.name);
    }
}

impl Participant for Guest {
    fn prepare(&mut self, _id: &SessionName, _deadline: Duration) -> Result {
        match self.machine()?.end() {
            Some(end) => Err(format!("the guest has ended: {end}").into()),
            None => Ok(()),
        }
    }

    /// The RAM is preserved while the guest runs: the kernel collects what changes until the jump.
    fn preserve(&mut self, _id: &SessionName, session: &OutgoingSession) -> Result {
        let machine = self.machine()?;
        if machine.ram().kind == Kind::GuestMemfd {
            session.preserve(machine.vm(), VM)?;
        }
        session.preserve(&machine.ram().file, RAM)?;
        Ok(())
    }

    fn pauses(&self) -> bool {
        true
    }

    /// The guest is paused when all other programs are ready, for the rest of the update.
    fn pause(&mut self, _id: &SessionName, session: &OutgoingSession) -> Result {
        let state = self.save()?;
        session.preserve(&state, STATE)?;
        Ok(())
    }

    fn cancelled(&mut self, _id: &SessionName, reason: &str) {
        if !std::mem::take(&mut self.paused) {
            return;
        }
        match self.machine().and_then(Machine::resume) {
            Ok(()) => self.say(&format!("continues: {reason}")),
            Err(error) => eprintln!("{}: does not continue: {error}", self.options.name),
        }
    }

    /// The session is finished when this returns: the guest has run by then.
    fn restore(&mut self, _id: &SessionName, session: &IncomingSession) -> Result {
        let file = session.retrieve(STATE)?.into();
        let state = State::read(&file)?;
        let vm = match state.ram {
            Kind::GuestMemfd => Some(session.retrieve(VM)?),
            _ => None,
        };
        self.load(session.retrieve(RAM)?.into(), vm, &state, &file)
    }
}
