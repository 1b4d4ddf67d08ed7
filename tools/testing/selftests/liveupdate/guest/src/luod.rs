// SPDX-License-Identifier: GPL-2.0

//! `luod` with its clients: two live updates in a row, and everything that can go wrong before,
//! between and after them.
//!
//! The clients are a program in Rust that uses the library, one in C, and one that writes its JSON
//! by hand. The operator is us.

use crate::{
    cli::Args,
    ensure, ensure_eq,
    error::{At, Failure, Result},
    kexec, memfd,
    pattern::Pattern,
    state,
};
use liveupdate::{Device, IncomingSession, OutgoingSession};
use luod_protocol::{
    Channel, Decoder, Event, MarkName, Outcome, Receive, Report, Request, SessionInfo, SessionName,
    SessionState,
};
use std::{
    fs::File,
    io::Write,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

const LUOD: &str = "/bin/luod";
const COUNTER: &str = "/bin/counter";
const C_CLIENT: &str = "/bin/luod-client-c";
pub const SOCKET: &str = "/tmp/luod.sock";
const STATE: &str = "luod";
const RESULTS: &str = "results";
pub const SOON: Duration = Duration::from_secs(60);

/// How many kernels there are.
const STAGES: usize = 3;

/// What the client that writes JSON by hand preserves.
const CONTENT: Pattern = Pattern {
    seed: 77,
    len: 3_000_001,
};

/// A process that is killed when nobody has it any more.
pub struct Process(pub Child);

impl Process {
    pub fn start(program: &str, args: &[&str]) -> Result<Self> {
        let process = Command::new(program).args(args).spawn();
        process.map(Self).at(format_args!("start {program}"))
    }

    fn terminate(mut self) -> Result {
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

/// Waits until something is so.
pub fn wait(mut so: impl FnMut() -> Result<bool>, what: &str) -> Result {
    let start = Instant::now();
    while !so()? {
        ensure!(start.elapsed() < SOON, "not within a minute: {what}");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn operator() -> Result<Channel> {
    let mut channel = Channel::connect(SOCKET)?;
    call(&mut channel, &Request::Status)?;
    Ok(channel)
}

fn call(channel: &mut Channel, request: &Request) -> Result<Event> {
    match channel.call(request, Some(SOON))?.0 {
        Event::Error { code, message, .. } => Err(Failure::new(format!("{code}: {message}"))),
        event => Ok(event),
    }
}

fn sessions() -> Result<Vec<SessionInfo>> {
    match call(&mut operator()?, &Request::List)? {
        Event::List { sessions } => Ok(sessions),
        other => Err(Failure::new(format!("{other:?}"))),
    }
}

fn state_of(name: &str) -> Result<Option<SessionState>> {
    let sessions = sessions()?.into_iter();
    let mut found = sessions.filter(|info| info.session.as_str() == name);
    Ok(found.next().map(|info| info.state))
}

pub fn wait_for(name: &str, state: SessionState) -> Result {
    wait(
        || Ok(state_of(name)? == Some(state)),
        &format!("{name} is {state}"),
    )
}

fn begin_update(timeout_ms: Option<u64>, dry_run: bool) -> Result<Channel> {
    let mut channel = operator()?;
    let request = Request::Update {
        timeout_ms,
        dry_run,
        force: false,
    };
    call(&mut channel, &request)?;
    Ok(channel)
}

fn result(mut channel: Channel) -> Result<Report> {
    loop {
        let event = channel.receive(Some(SOON))?;
        let (message, _) = event.at("the update has no end")?;
        if let Event::Result(report) = message.body {
            return Ok(report);
        }
    }
}

/// Expects that an update is aborted, because of something.
fn aborted(channel: Channel, why: &str) -> Result {
    let report = result(channel)?;
    let reason = report.reason.unwrap_or_default();
    ensure_eq!(report.outcome, Outcome::Aborted, "the outcome, {reason}");
    ensure!(reason.contains(why), "the reason is: {reason}");
    Ok(())
}

/// Expects that nobody has an outgoing session of this name.
pub fn is_gone(name: &str) -> Result {
    wait(
        || Ok(Device::open()?.create_session(name).is_ok()),
        &format!("the session {name} is gone"),
    )
}

/// A client that uses no library for what it says.
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

    /// Waits for a line that contains something.
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
        Err(Failure::new(format!("luod does not say {part}")))
    }

    fn subscribe(&mut self) -> Result {
        self.say("{\"cmd\":\"SUBSCRIBE\",\"id\":\"json\"}\n")?;
        wait_for("json", SessionState::Subscribed)
    }

    fn preserve(&mut self) -> Result {
        let session = self.hear("\"START_PRESERVATION\"")?.pop();
        let session = OutgoingSession::from(session.at("no session came along")?);
        if self.file.is_none() {
            self.file = Some(memfd::with(CONTENT)?);
        }
        if let Some(file) = &self.file {
            session.preserve(file, 5)?;
        }
        self.session = Some(session);
        self.say("{\"cmd\":\"READY\"}\n")
    }

    fn cancelled(&mut self) -> Result {
        self.hear("\"CANCELLED\"")?;
        self.session = None;
        Ok(())
    }

    pub fn claim(&mut self) -> Result<IncomingSession> {
        self.say("{\"cmd\":\"CLAIM\",\"id\":\"json\"}\n")?;
        let session = self.hear("\"SESSION\"")?.pop();
        Ok(session.at("no session came along")?.into())
    }

    fn restore(&mut self) -> Result {
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

/// A client that misbehaves: the update is aborted, the good one goes on.
fn misbehaves(fault: &str, why: &str) -> Result {
    let _luod = start_luod()?;
    let mut json = Json::connect()?;
    json.subscribe()?;
    let bad = counter("bad", &[fault])?;
    let update = begin_update(Some(3000), false)?;
    json.preserve()?;
    aborted(update, why)?;
    json.cancelled()?;
    drop(bad);
    is_gone("json")?;
    is_gone("bad")?;
    is_gone("luod-internal")
}

fn dry_run() -> Result {
    let _luod = start_luod()?;
    let _good = counter("good", &[])?;
    let report = result(begin_update(None, true)?)?;
    ensure_eq!(report.outcome, Outcome::DryRun, "the outcome");
    is_gone("good")
}

/// luod is killed, or stopped, while clients preserve.
fn dies(kill: bool) -> Result {
    let luod = start_luod()?;
    let mut json = Json::connect()?;
    json.subscribe()?;
    let _good = counter("good", &[])?;
    let _update = begin_update(None, false)?;
    wait_for("good", SessionState::Ready)?;
    if kill {
        drop(luod);
    } else {
        luod.terminate()?;
    }
    drop(json);
    is_gone("good")?;
    is_gone("json")?;
    // The library connects again.
    let _luod = start_luod()?;
    wait_for("good", SessionState::Subscribed)?;
    let report = result(begin_update(None, true)?)?;
    ensure_eq!(report.outcome, Outcome::DryRun, "the outcome");
    Ok(())
}

fn not_loaded() -> Result {
    let _luod = start_luod()?;
    match begin_update(None, false) {
        Ok(_) => Err(Failure::new("it was started")),
        Err(error) => {
            ensure!(error.to_string().contains("not-loaded"), "{error}");
            Ok(())
        }
    }
}

/// Somebody has the device open for a while, as systemd does.
fn busy() -> Result {
    let _luod = start_luod()?;
    let _good = counter("good", &[])?;
    let device = Device::open()?;
    let update = begin_update(None, true)?;
    sleep(Duration::from_millis(500));
    drop(device);
    ensure_eq!(result(update)?.outcome, Outcome::DryRun, "the outcome");
    Ok(())
}

/// Remembers the result of a case.
pub fn case(name: &str, run: impl FnOnce() -> Result) -> Result {
    let result = run();
    let mut results = state::get(STATE, RESULTS).unwrap_or_default();
    match &result {
        Ok(()) => {
            println!("# {name}: good");
            results += &format!("ok {name}\n");
        }
        Err(failure) => {
            println!("# {name}: {failure}");
            results += &format!("not ok {name}\n");
        }
    }
    state::put(STATE, RESULTS, &results)
}

/// An update that leads to the next kernel. Returns only if it does not.
fn update(args: &Args, stage: usize) -> Failure {
    let go = || -> Result {
        let _luod = start_luod()?;
        let mut json = Json::connect()?;
        json.subscribe()?;
        let _counter = counter("counter", &[])?;
        let _stray = counter("stray", &[])?;
        let _c = Process::start(C_CLIENT, &[SOCKET, "c"])?;
        wait_for("c", SessionState::Subscribed)?;
        // It counts for a while.
        sleep(Duration::from_millis(500));
        kexec::Plan::stage(args, stage + 1)?.load()?;
        let update = begin_update(None, false)?;
        json.preserve()?;
        aborted(update, "the next kernel")
    };
    match go() {
        Err(failure) => failure,
        Ok(()) => Failure::new("the update was aborted"),
    }
}

/// Everything comes back, though luod is killed between all steps.
fn comes_back() -> Result {
    let luod = start_luod()?;
    wait_for("json", SessionState::Unclaimed)?;
    drop(luod);

    let luod = start_luod()?;
    let mut json = Json::connect()?;
    // Claimed but not finished when luod dies.
    let session = json.claim()?;
    wait_for("json", SessionState::Claimed)?;
    drop(luod);

    let luod = start_luod()?;
    wait_for("json", SessionState::Elsewhere)?;
    drop((session, json));
    Json::connect()?.restore()?;
    wait_for("json", SessionState::Finished)?;
    drop(luod);

    let _luod = start_luod()?;
    wait_for("counter", SessionState::Unclaimed)?;
    {
        let mut counter = Process::start(COUNTER, &[SOCKET, "counter"])?;
        wait_for("counter", SessionState::Finished)?;
        ensure!(counter.0.try_wait()?.is_none(), "the counter has ended");
    }
    {
        let mut c = Process::start(C_CLIENT, &[SOCKET, "c"])?;
        wait_for("c", SessionState::Finished)?;
        ensure!(c.0.try_wait()?.is_none(), "the client in C has ended");
    }
    match begin_update(None, true) {
        Ok(_) => return Err(Failure::new("an update was started with a session left")),
        Err(error) => ensure!(error.to_string().contains("unfinished"), "{error}"),
    }
    let mut operator = operator()?;
    let session = SessionName::new("stray").map_err(|error| Failure::new(error.to_string()))?;
    call(&mut operator, &Request::Discard { session })?;
    let Event::Report(report) = call(&mut operator, &Request::Report)? else {
        return Err(Failure::new("there is no report"));
    };
    show(&report);
    // Those that were aborted count, too.
    if let Ok(last) = state::get(STATE, "number") {
        let next = last.parse::<u64>()? + 1;
        ensure_eq!(report.update, next, "the number of the update");
    }
    state::put(STATE, "number", &report.update.to_string())?;
    ensure_eq!(report.outcome, Outcome::Updated, "the outcome");
    let last = report.marks.last().map(|mark| mark.name);
    ensure_eq!(last, Some(MarkName::Finished), "the last mark");
    is_over()
}

/// Nothing is left in the kernel.
fn is_over() -> Result {
    for name in ["luod-internal", "json", "counter", "c", "stray"] {
        ensure!(
            Device::open()?.retrieve_session(name).is_err(),
            "the session {name} is left"
        );
    }
    Ok(())
}

fn show(report: &Report) {
    for mark in &report.marks {
        let offset = mark.offset_us.unwrap_or_default();
        println!(
            "# update {}: {:>12} us {}",
            report.update, offset, mark.name
        );
    }
    let show = |what: &str, time: Option<u64>| {
        println!(
            "# update {}: {what} {} us",
            report.update,
            time.unwrap_or(0)
        );
    };
    show("jump", report.jump_us);
    show("blackout", report.blackout_us);
    show("precision", report.precision_us);
}

/// Runs what belongs into this kernel.
pub fn run(args: &Args) -> Result<u8> {
    let stage = args.stage()?;
    println!("# stage {stage} of {STAGES}");
    if stage == 1 {
        case("no_kernel_is_loaded", not_loaded)?;
        kexec::Plan::stage(args, 2)?.load()?;
        case("a_dry_run", dry_run)?;
        case("the_device_is_busy", busy)?;
        case("a_client_refuses", || {
            misbehaves("refuse", "do not feel like")
        })?;
        case("a_client_crashes", || {
            misbehaves("crash", "closed the connection")
        })?;
        case("a_client_hangs", || misbehaves("hang", "in time"))?;
        case("luod_is_killed", || dies(true))?;
        case("luod_is_stopped", || dies(false))?;
    } else {
        case(&format!("update_{}", stage - 1), comes_back)?;
    }
    if stage < STAGES {
        let failure = update(args, stage);
        case(&format!("update_{stage}"), || Err(failure))?;
    }
    conclude("luod")
}

/// Prints the results of all cases.
pub fn conclude(suite: &str) -> Result<u8> {
    let results = state::get(STATE, RESULTS)?;
    let lines: Vec<&str> = results.lines().collect();
    println!("KTAP version 1\n1..{}", lines.len());
    for (number, line) in lines.iter().enumerate() {
        let (verdict, name) = line.rsplit_once(' ').unwrap_or_default();
        println!("{verdict} {} {suite}.{name}", number + 1);
    }
    Ok(u8::from(results.contains("not ok")))
}
