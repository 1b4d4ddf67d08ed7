// SPDX-License-Identifier: GPL-2.0

//! Commands that luoctl runs.

use crate::cli::{Exit, Failure};
use rustix::process::{kill_process, Pid, Signal};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};
use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::Duration,
};

/// The time between two checks whether a command has ended.
pub const TICK: Duration = Duration::from_millis(50);

/// The signals that end luoctl. While a command runs, they do not.
pub struct Signals {
    /// Whether no command is running.
    idle: Arc<AtomicBool>,
    /// Whether there was a signal while a command was running.
    caught: Arc<AtomicBool>,
    /// Whether one must be passed on to the command. SIGINT is not: the terminal sends it to the
    /// command as well.
    pass_on: Arc<AtomicBool>,
}

impl Signals {
    /// Catches them from now on.
    pub fn catch() -> Result<Self, Failure> {
        let signals = Self {
            idle: Arc::new(AtomicBool::new(true)),
            caught: Arc::default(),
            pass_on: Arc::default(),
        };
        let register = || -> io::Result<()> {
            for signal in [SIGINT, SIGTERM, SIGHUP] {
                flag::register_conditional_default(signal, Arc::clone(&signals.idle))?;
                flag::register(signal, Arc::clone(&signals.caught))?;
            }
            for signal in [SIGTERM, SIGHUP] {
                flag::register(signal, Arc::clone(&signals.pass_on))?;
            }
            Ok(())
        };
        register().map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot catch signals: {error}"))
        })?;
        Ok(signals)
    }

    /// Returns whether there was a signal while a command was running, so that luoctl should end.
    pub fn caught(&self) -> bool {
        self.caught.load(Ordering::SeqCst)
    }
}

/// A running command. Signals that would end luoctl are passed on to it.
pub struct Running<'a> {
    child: Child,
    signals: &'a Signals,
}

impl<'a> Running<'a> {
    /// Starts a command.
    pub fn start(command: &mut Command, signals: &'a Signals) -> Result<Self, Failure> {
        signals.idle.store(false, Ordering::SeqCst);
        let child = command.spawn().map_err(|error| {
            signals.idle.store(true, Ordering::SeqCst);
            let program = command.get_program().to_string_lossy();
            Failure::new(Exit::Failed, format!("cannot run {program}: {error}"))
        })?;
        Ok(Self { child, signals })
    }

    /// Requests the command to end.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok();
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // It may have ended.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Returns the exit code if the command has ended; that of a killed command is 128 and the
    /// number of the signal, as in a shell.
    pub fn ended(&mut self) -> Result<Option<u8>, Failure> {
        if self.signals.pass_on.swap(false, Ordering::SeqCst) {
            self.terminate();
        }
        let status = self.child.try_wait();
        let status = status.map_err(|error| Failure::new(Exit::Failed, error))?;
        let code = |status: ExitStatus| {
            let code = status.code().or(status.signal().map(|number| 128 + number));
            code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
        };
        Ok(status.map(code))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.signals.idle.store(true, Ordering::SeqCst);
    }
}
