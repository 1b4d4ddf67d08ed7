// SPDX-License-Identifier: GPL-2.0

//! `luoctl exec`.

use crate::{
    child::{Running, Signals, TICK},
    cli::{self, Cli, ExecOptions, Exit, Failure},
    output,
};
use liveupdate::{
    luod::{Client, Member, Participant, Refused, Result as Outcome, SessionName},
    IncomingSession, OutgoingSession,
};
use rustix::{
    fs::{open, Mode, OFlags},
    io::dup2,
};
use std::{
    ffi::OsStr,
    io, mem,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::{Command, ExitCode},
    thread::sleep,
    time::{Duration, Instant},
};

/// The descriptor of the session in the command, as systemd passes descriptors.
const FD: i32 = 3;

/// The name of luoctl in lists and logs of luod.
const CLIENT: &str = "luoctl exec";

/// How long to ask again while luod does not know yet whether there is a session.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sets `LISTEN_PID`, which must be the number of the process.
const SCRIPT: &str = "LISTEN_PID=$$ exec \"$@\"";

fn failed(error: io::Error) -> Failure {
    match (Refused::of(&error), error.kind()) {
        (Some(_), _) | (None, io::ErrorKind::Other) => Failure::new(Exit::Failed, error),
        _ => Failure::new(Exit::NoLuod, format!("{error}; is luod running?")),
    }
}

/// Opens `/dev/null`.
fn null() -> Result<OwnedFd, Failure> {
    let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    null.map_err(|error| Failure::new(Exit::Failed, format!("cannot open /dev/null: {error}")))
}

/// The descriptor that the command inherits. It is taken before any other is opened.
struct Slot(OwnedFd);

impl Slot {
    fn take() -> Result<Self, Failure> {
        let null = null()?;
        if null.as_raw_fd() != FD {
            return Err(Failure::new(
                Exit::Failed,
                format!(
                    "the descriptor {FD} is in use; start luoctl with the descriptors 0 to 2 only"
                ),
            ));
        }
        Ok(Self(null))
    }

    fn fill(&mut self, file: impl AsFd) -> Result<(), Failure> {
        dup2(file, &mut self.0).map_err(|error| Failure::new(Exit::Failed, error))
    }
}

/// Runs the command of the operator.
struct Runner<'a> {
    options: &'a ExecOptions,
    slot: Slot,
    signals: Signals,
}

impl Runner<'_> {
    /// Runs the command with a session, and returns its exit code. At `end`, it must end.
    fn run(&mut self, session: impl AsFd, end: Option<Instant>) -> Result<u8, Failure> {
        self.slot.fill(session)?;
        let code = self.command(end);
        // A session ends when all its descriptors are closed.
        self.slot.fill(null()?)?;
        code
    }

    fn command(&self, end: Option<Instant>) -> Result<u8, Failure> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "luoctl"])
            .args(&self.options.command)
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", &self.options.session)
            .env("LUO_SESSION_FD", FD.to_string());
        self.wait(&mut command, end)
    }

    /// Runs a program, and returns its exit code. At `end`, it is terminated.
    fn wait(&self, command: &mut Command, mut end: Option<Instant>) -> Result<u8, Failure> {
        let mut running = Running::start(command, &self.signals)?;
        loop {
            if let Some(code) = running.ended()? {
                return Ok(code);
            }
            if end.take_if(|end| Instant::now() >= *end).is_some() {
                running.terminate();
            }
            sleep(TICK);
        }
    }
}

/// Runs a command with a session.
pub fn exec(cli: &Cli, options: &ExecOptions) -> Result<ExitCode, Failure> {
    let runner = Runner {
        slot: Slot::take()?,
        signals: Signals::catch()?,
        options,
    };
    let id = cli::session(&options.session)?;
    if options.preserve {
        preserve(cli, runner, &id)
    } else {
        restore(cli, runner, &id)
    }
}

/// Claims the session that the previous kernel handed over.
fn restore(cli: &Cli, mut runner: Runner<'_>, id: &SessionName) -> Result<ExitCode, Failure> {
    let mut client = Client::connect_to(&cli.socket, CLIENT).map_err(failed)?;
    let session = client.claim_within(id, PATIENCE).map_err(failed)?;
    let Some(session) = session else {
        return Err(Failure::new(
            Exit::Failed,
            format!("there is no session {id} of the previous kernel, or it is finished"),
        ));
    };
    let code = runner.run(&session, None)?;
    if code == 0 && runner.options.finish {
        let finished = session.finish();
        finished.map_err(|error| Failure::new(Exit::Failed, error))?;
        // Otherwise, luod asks the kernel whether it is finished.
        let _ = client.finished(id);
    }
    Ok(ExitCode::from(code))
}

/// Runs the command in updates.
struct Preserver<'a> {
    runner: Runner<'a>,
    /// The deadline of the command.
    end: Option<Instant>,
    /// Its last exit code.
    code: u8,
    /// Whether it has succeeded in the running update.
    done: bool,
    frozen: bool,
}

impl Preserver<'_> {
    /// Runs what takes back the effects of the command.
    fn undo(&self, script: &OsStr) {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        match self.runner.wait(&mut command, None) {
            Ok(0) => {}
            Ok(code) => output::warn(&format!("--undo has failed with the exit code {code}")),
            Err(failure) => output::warn(&failure.message),
        }
    }
}

impl Participant for Preserver<'_> {
    fn prepare(&mut self, _: &SessionName, deadline: Duration) -> Outcome {
        self.end = Instant::now().checked_add(deadline);
        Ok(())
    }

    fn preserve(&mut self, _: &SessionName, session: &OutgoingSession) -> Outcome {
        let end = self.end.take();
        let code = self.runner.run(session, end);
        self.code = code.map_err(|failure| failure.message)?;
        self.done = self.code == 0;
        match self.code {
            0 => Ok(()),
            _ if end.is_some_and(|end| Instant::now() >= end) => {
                Err("the command has not ended in time".into())
            }
            code => Err(format!("the command has failed with the exit code {code}").into()),
        }
    }

    fn cancelled(&mut self, _: &SessionName, reason: &str) {
        output::warn(&format!("the update was cancelled: {reason}"));
        let done = mem::take(&mut self.done);
        if let Some(script) = self.runner.options.undo.as_deref().filter(|_| done) {
            self.undo(script);
        }
    }

    fn restore(&mut self, id: &SessionName, _: &IncomingSession) -> Outcome {
        let text = format!(
            "the session {id} of the previous kernel is not finished; use luoctl exec without \
             --preserve first, or luoctl discard"
        );
        Err(text.into())
    }

    fn frozen(&mut self, _: &SessionName) {
        self.frozen = true;
    }
}

/// Takes part in updates until the next kernel is started.
fn preserve(cli: &Cli, runner: Runner<'_>, id: &SessionName) -> Result<ExitCode, Failure> {
    let preserver = Preserver {
        runner,
        end: None,
        code: 0,
        done: false,
        frozen: false,
    };
    let member = Member::join_at(&cli.socket, CLIENT, &[id.as_str()], preserver);
    let mut member = member.map_err(failed)?;
    loop {
        member.step(None).map_err(failed)?;
        let preserver = member.participant();
        if preserver.frozen {
            return Ok(Exit::Good.into());
        }
        // If the command has succeeded nevertheless, luod keeps the session for the update.
        if preserver.runner.signals.caught() {
            return Ok(ExitCode::from(preserver.code));
        }
    }
}
