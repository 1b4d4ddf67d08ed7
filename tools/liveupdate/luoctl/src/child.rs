// SPDX-License-Identifier: GPL-2.0

//! Commands that luoctl runs.

use crate::cli::{Exit, Failure};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};
use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Command},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::Duration,
};

/// How often it is checked whether a command has ended.
pub const TICK: Duration = Duration::from_millis(50);

/// A running command. Signals that would end luoctl are passed on to it.
pub struct Running {
    child: Child,
    /// The terminal has sent it to the command as well.
    terminate: Arc<AtomicBool>,
}

impl Running {
    /// Starts a command.
    pub fn start(command: &mut Command) -> Result<Self, Failure> {
        let cannot = |error| Failure::new(Exit::Failed, format!("cannot catch signals: {error}"));
        let terminate = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGHUP] {
            flag::register(signal, Arc::clone(&terminate)).map_err(cannot)?;
        }
        flag::register(SIGINT, Arc::default()).map_err(cannot)?;
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().to_string_lossy();
            Failure::new(Exit::Failed, format!("cannot run {program}: {error}"))
        })?;
        Ok(Self { child, terminate })
    }

    /// Returns the exit code if the command has ended; that of a killed command is 128 and the
    /// number of the signal, as in a shell.
    pub fn ended(&mut self) -> Result<Option<u8>, Failure> {
        if self.terminate.swap(false, Ordering::Relaxed) {
            let pid = i32::try_from(self.child.id()).ok();
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                // It may have ended.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let status = self.child.try_wait();
        let status = status.map_err(|error| Failure::new(Exit::Failed, error))?;
        let code = |status: std::process::ExitStatus| {
            let code = status.code().or(status.signal().map(|number| 128 + number));
            code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
        };
        Ok(status.map(code))
    }
}
