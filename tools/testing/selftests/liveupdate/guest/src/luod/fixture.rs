// SPDX-License-Identifier: GPL-2.0

//! luod, its clients, and the operator.

use crate::support::{
    error::{ensure, ensure_eq, At, Failure, Result},
    memfd,
    pattern::Pattern,
};
use liveupdate::{Device, IncomingSession, OutgoingSession};
use luod_protocol::{
    Channel, Decoder, Event, Outcome, Receive, Report, Request, SessionInfo, SessionState,
};
use std::{
    fs::File,
    io::Write,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

pub const LUOD: &str = "/bin/luod";
pub const COUNTER: &str = "/bin/counter";
pub const SOCKET: &str = "/tmp/luod.sock";
pub const SOON: Duration = Duration::from_secs(60);

/// The contents of the file of the client that writes JSON by hand.
pub const CONTENT: Pattern = Pattern {
    seed: 77,
    len: 3_000_001,
};

/// A process that is killed on drop.
pub struct Process(pub Child);

impl Process {
    pub fn start(program: &str, args: &[&str]) -> Result<Self> {
        let process = Command::new(program).args(args).spawn();
        process.map(Self).at(format_args!("start {program}"))
    }

    pub fn terminate(mut self) -> Result {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "luod ended with {status}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have died already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn start_luod() -> Result<Process> {
    let luod = Process::start(LUOD, &["--socket", SOCKET, "-v"])?;
    wait(|| Ok(operator().is_ok()), "luod listens")?;
    Ok(luod)
}

/// Waits until a condition is true.
pub fn wait(mut so: impl FnMut() -> Result<bool>, what: &str) -> Result {
    let start = Instant::now();
    while !so()? {
        ensure!(start.elapsed() < SOON, "not within a minute: {what}");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub fn operator() -> Result<Channel> {
    let mut channel = Channel::connect(SOCKET)?;
    call(&mut channel, &Request::Status)?;
    Ok(channel)
}

pub fn call(channel: &mut Channel, request: &Request) -> Result<Event> {
    match channel.call(request, Some(SOON))?.0 {
        Event::Error { code, message, .. } => Err(Failure::new(format!("{code}: {message}"))),
        event => Ok(event),
    }
}

pub fn sessions() -> Result<Vec<SessionInfo>> {
    match call(&mut operator()?, &Request::List)? {
        Event::List { sessions } => Ok(sessions),
        other => Err(Failure::new(format!("{other:?}"))),
    }
}

pub fn state_of(name: &str) -> Result<Option<SessionState>> {
    let sessions = sessions()?.into_iter();
    let mut found = sessions.filter(|info| info.session.as_str() == name);
    Ok(found.next().map(|info| info.state))
}

/// Waits until a session, of the previous kernel or for the next one, has a state.
pub fn wait_for(name: &str, state: SessionState) -> Result {
    let is = |info: &SessionInfo| info.session.as_str() == name && info.state == state;
    wait(
        || Ok(sessions()?.iter().any(is)),
        &format!("{name} is {state}"),
    )
}

pub fn begin_update(timeout_ms: Option<u64>, dry_run: bool) -> Result<Channel> {
    let mut channel = operator()?;
    let request = Request::Update {
        timeout_ms,
        dry_run,
        force: false,
        expect: None,
    };
    call(&mut channel, &request)?;
    Ok(channel)
}

pub fn result(mut channel: Channel) -> Result<Report> {
    loop {
        let event = channel.receive(Some(SOON))?;
        let (message, _) = event.at("the update has no end")?;
        if let Event::Result(report) = message.body {
            return Ok(report);
        }
    }
}

/// Expects that an update is aborted for a reason.
pub fn aborted(channel: Channel, why: &str) -> Result {
    let report = result(channel)?;
    let reason = report.reason.unwrap_or_default();
    ensure_eq!(report.outcome, Outcome::Aborted, "the outcome, {reason}");
    ensure!(reason.contains(why), "the reason is: {reason}");
    Ok(())
}

/// Expects that there is no outgoing session of this name.
pub fn is_gone(name: &str) -> Result {
    wait(
        || Ok(Device::open()?.create_session(name).is_ok()),
        &format!("the session {name} is gone"),
    )
}

/// A client that does not use the library.
pub struct Json {
    stream: UnixStream,
    decoder: Decoder,
    file: Option<File>,
    session: Option<OutgoingSession>,
}

impl Json {
    pub fn connect() -> Result<Self> {
        Ok(Self {
            stream: UnixStream::connect(SOCKET).at("connect")?,
            decoder: Decoder::new(1 << 16),
            file: None,
            session: None,
        })
    }

    pub fn say(&mut self, line: &str) -> Result {
        self.stream.write_all(line.as_bytes())?;
        Ok(())
    }

    /// Waits for a line that contains a text.
    pub fn hear(&mut self, part: &str) -> Result<Vec<OwnedFd>> {
        let start = Instant::now();
        while start.elapsed() < SOON {
            let frame = self.decoder.next_frame();
            let frame = frame.map_err(|error| Failure::new(error.to_string()))?;
            if let Some(frame) = frame {
                let line = String::from_utf8_lossy(&frame.line);
                if line.contains(part) {
                    return Ok(frame.fds);
                }
                continue;
            }
            match self.decoder.receive(&self.stream)? {
                Receive::Some => {}
                Receive::End => return Err(Failure::new("luod has closed the connection")),
                Receive::Nothing => sleep(Duration::from_millis(5)),
            }
        }
        Err(Failure::new(format!("luod has not sent {part}")))
    }

    pub fn subscribe(&mut self) -> Result {
        self.say("{\"cmd\":\"SUBSCRIBE\",\"id\":\"json\"}\n")?;
        wait_for("json", SessionState::Subscribed)
    }

    pub fn unsubscribe(&mut self) -> Result {
        self.say("{\"cmd\":\"UNSUBSCRIBE\",\"id\":\"json\"}\n")?;
        wait(
            || Ok(state_of("json")?.is_none()),
            "json is no longer subscribed",
        )
    }

    pub fn preserve(&mut self) -> Result {
        let session = self.hear("\"START_PRESERVATION\"")?.pop();
        let session = OutgoingSession::from(session.at("no session was sent")?);
        if self.file.is_none() {
            self.file = Some(memfd::with(CONTENT)?);
        }
        if let Some(file) = &self.file {
            session.preserve(file, 5)?;
        }
        self.session = Some(session);
        self.say("{\"cmd\":\"READY\"}\n")
    }

    pub fn cancelled(&mut self) -> Result {
        self.hear("\"CANCELLED\"")?;
        self.session = None;
        Ok(())
    }

    pub fn claim(&mut self) -> Result<IncomingSession> {
        self.say("{\"cmd\":\"CLAIM\",\"id\":\"json\"}\n")?;
        let session = self.hear("\"SESSION\"")?.pop();
        Ok(session.at("no session was sent")?.into())
    }

    pub fn restore(&mut self) -> Result {
        let session = self.claim()?;
        self.file = Some(memfd::check(session.retrieve(5)?, CONTENT)?);
        session.finish()?;
        self.say("{\"cmd\":\"FINISHED\",\"id\":\"json\"}\n")
    }
}

pub fn counter(name: &str, fault: &[&str]) -> Result<Process> {
    let mut args = vec![SOCKET, name];
    args.extend(fault);
    let process = Process::start(COUNTER, &args)?;
    wait_for(name, SessionState::Subscribed)?;
    Ok(process)
}
