// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The behaviour of a client when luod is slow or disconnects. The tests act as luod.

use super::{Member, Participant, Result, SessionName};
use crate::{fake::Kernel, IncomingSession, OutgoingSession};
use luod_protocol::{
    encode, Decoder, ErrorCode, Event, Message, Outbox, Phase, Receive, Request, LINE_MAX,
};
use rustix::fs::{memfd_create, MemfdFlags};
use std::{
    env, fs, io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        Arc,
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(60);

fn id() -> SessionName {
    SessionName::new("a").unwrap()
}

/// The socket of a luod.
struct Luod {
    listener: UnixListener,
    path: PathBuf,
}

impl Luod {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("liveupdate-client-{}-{number}", std::process::id());
        let path = env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        Self { listener, path }
    }

    /// A client that has connected and sent HELLO.
    fn accept(&self) -> Connection {
        let (stream, _) = self.listener.accept().unwrap();
        let mut connection = Connection {
            stream,
            decoder: Decoder::new(LINE_MAX),
        };
        let hello = connection.hear();
        let answer = Event::Hello {
            version: 1,
            luod: "test".into(),
            phase: Phase::Idle,
        };
        connection.say(hello.seq, answer, Vec::new());
        connection
    }
}

impl Drop for Luod {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

struct Connection {
    stream: UnixStream,
    decoder: Decoder,
}

impl Connection {
    fn try_hear(&mut self) -> Option<Message<Request>> {
        let start = Instant::now();
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(Message::parse(&frame.line).unwrap());
            }
            match self.decoder.receive(&self.stream).unwrap() {
                Receive::Some => {}
                Receive::End => return None,
                Receive::Nothing => sleep(Duration::from_millis(2)),
            }
            assert!(start.elapsed() < SOON);
        }
    }

    fn hear(&mut self) -> Message<Request> {
        self.try_hear().expect("the client has left")
    }

    fn say(&mut self, seq: Option<u64>, body: Event, fds: Vec<OwnedFd>) {
        let line = encode(&Message { seq, body }).unwrap();
        let mut outbox = Outbox::new(line.len());
        outbox.push(line, fds).unwrap();
        assert!(outbox.flush(&self.stream).unwrap());
    }

    fn ok(&mut self, request: &Message<Request>) {
        let cmd = request.body.command().to_owned();
        self.say(request.seq, Event::Ok { cmd, id: None }, Vec::new());
    }

    fn refuse(&mut self, request: &Message<Request>, code: ErrorCode) {
        let event = Event::Error {
            code,
            message: "no".into(),
            cmd: None,
            id: None,
        };
        self.say(request.seq, event, Vec::new());
    }

    /// There is no session to restore; the client subscribes.
    fn ordinary_start(&mut self) {
        let claim = self.hear();
        assert!(matches!(claim.body, Request::Claim { .. }), "{claim:?}");
        self.refuse(&claim, ErrorCode::NoSession);
        self.subscribes();
    }

    fn subscribes(&mut self) {
        let subscribe = self.hear();
        assert!(
            matches!(subscribe.body, Request::Subscribe { .. }),
            "{subscribe:?}"
        );
        self.ok(&subscribe);
    }

    /// Sends the session; returns the request that follows.
    fn start_preservation(&mut self, kernel: &Kernel) -> Message<Request> {
        let session = kernel.open().unwrap().create_session("a").unwrap();
        let event = Event::StartPreservation {
            id: id(),
            update: 1,
            deadline_ms: 1000,
        };
        self.say(None, event, vec![session.into()]);
        self.hear()
    }

    /// Aborts the update.
    fn cancel(&mut self) {
        let event = Event::Cancelled {
            id: id(),
            update: 1,
            reason: "luod says so".into(),
        };
        self.say(None, event, Vec::new());
    }

    /// Makes the client preserve, until it sends READY.
    fn preserve(&mut self, kernel: &Kernel) -> Message<Request> {
        let ready = self.start_preservation(kernel);
        assert!(matches!(ready.body, Request::Ready { .. }), "{ready:?}");
        ready
    }
}

/// A program that checks that it is not resumed too early.
#[derive(Debug, Default)]
struct Program {
    may_go_on: Arc<AtomicBool>,
    cancelled: Vec<String>,
}

impl Participant for Program {
    fn preserve(&mut self, _: &SessionName, session: &OutgoingSession) -> Result {
        Ok(session.preserve(memfd_create("x", MemfdFlags::CLOEXEC)?, 1)?)
    }

    fn cancelled(&mut self, _: &SessionName, reason: &str) {
        assert!(self.may_go_on.load(Ordering::SeqCst), "too early: {reason}");
        self.cancelled.push(reason.to_owned());
    }

    fn restore(&mut self, _: &SessionName, _: &IncomingSession) -> Result {
        Ok(())
    }
}

fn go_on(member: &mut Member<Program>) {
    let start = Instant::now();
    while member.participant().cancelled.is_empty() {
        assert!(start.elapsed() < SOON);
        member.step(Some(Duration::from_millis(20))).unwrap();
    }
}

fn join(luod: &Luod, program: Program) -> io::Result<Member<Program>> {
    Member::join_within(&luod.path, "test", &["a"], program, Duration::from_secs(1))
}

/// A program that cannot take part.
struct Unwilling {
    preserved: usize,
    prepared: usize,
}

impl Participant for Unwilling {
    fn prepare(&mut self, _: &SessionName, _: Duration) -> Result {
        self.prepared += 1;
        Err("not now".into())
    }

    fn preserve(&mut self, _: &SessionName, _: &OutgoingSession) -> Result {
        self.preserved += 1;
        Ok(())
    }

    fn cancelled(&mut self, _: &SessionName, _: &str) {}

    fn restore(&mut self, _: &SessionName, _: &IncomingSession) -> Result {
        Ok(())
    }
}

/// Returns the number of the update that the client refuses.
fn refused(message: &Message<Request>) -> Option<u64> {
    match &message.body {
        Request::Refuse { update, .. } => *update,
        other => panic!("{other:?}"),
    }
}

/// luod sends a session before it knows that the program refuses the update: nothing is preserved,
/// and the session is closed.
#[test]
fn a_session_crosses_with_a_refusal() {
    let luod = Luod::new();
    let path = luod.path.clone();
    let server = thread::spawn(move || {
        let kernel = Kernel::new();
        let mut client = luod.accept();
        client.ordinary_start();
        for update in 1..3 {
            let request = Event::PreservationRequest {
                id: id(),
                update,
                deadline_ms: 1000,
                dry_run: false,
            };
            client.say(None, request, Vec::new());
            let session = kernel.open().unwrap().create_session("a").unwrap();
            let event = Event::StartPreservation {
                id: id(),
                update,
                deadline_ms: 1000,
            };
            client.say(None, event, vec![session.into()]);
            let refuse = client.hear();
            assert_eq!(refused(&refuse), Some(update));
            client.ok(&refuse);
            let start = Instant::now();
            while !kernel.outgoing().is_empty() {
                assert!(start.elapsed() < SOON);
                sleep(Duration::from_millis(2));
            }
        }
    });
    let program = Unwilling {
        preserved: 0,
        prepared: 0,
    };
    let mut member = Member::join_at(path, "test", &["a"], program).unwrap();
    while !server.is_finished() {
        member.step(Some(Duration::from_millis(20))).unwrap();
    }
    server.join().unwrap();
    assert_eq!(member.participant().prepared, 2);
    assert_eq!(member.participant().preserved, 0);
}

/// A program that works until all others are ready.
#[derive(Debug, Default)]
struct Late {
    paused: usize,
    cancelled: usize,
}

impl Participant for Late {
    fn preserve(&mut self, _: &SessionName, _: &OutgoingSession) -> Result {
        assert_eq!(self.paused, 0);
        Ok(())
    }

    fn pauses(&self) -> bool {
        true
    }

    fn pause(&mut self, _: &SessionName, session: &OutgoingSession) -> Result {
        self.paused += 1;
        Ok(session.preserve(memfd_create("x", MemfdFlags::CLOEXEC)?, 1)?)
    }

    fn cancelled(&mut self, _: &SessionName, _: &str) {
        self.cancelled += 1;
    }

    fn restore(&mut self, _: &SessionName, _: &IncomingSession) -> Result {
        Ok(())
    }
}

/// Runs a program until it is ready and is cancelled, with a luod that knows PRESERVED or does not.
fn late(known: bool) -> Late {
    let luod = Luod::new();
    let path = luod.path.clone();
    let kernel = Kernel::new();
    let server = thread::spawn(move || {
        let mut client = luod.accept();
        client.ordinary_start();
        let preserved = client.start_preservation(&kernel);
        assert!(matches!(preserved.body, Request::Preserved { .. }));
        if known {
            client.ok(&preserved);
            sleep(Duration::from_millis(100));
            assert_eq!(kernel.outgoing()["a"], [0; 0], "it is not paused yet");
            let event = Event::Pause {
                id: id(),
                update: 1,
                deadline_ms: 1000,
            };
            client.say(None, event, Vec::new());
        } else {
            client.refuse(&preserved, ErrorCode::UnknownCommand);
        }
        let ready = client.hear();
        assert!(matches!(ready.body, Request::Ready { .. }), "{ready:?}");
        assert_eq!(kernel.outgoing()["a"], [1]);
        client.ok(&ready);
        client.cancel();
        assert!(client.try_hear().is_none());
    });
    let mut member = Member::join_at(path, "test", &["a"], Late::default()).unwrap();
    let start = Instant::now();
    while member.participant().cancelled == 0 {
        assert!(start.elapsed() < SOON);
        member.step(Some(Duration::from_millis(20))).unwrap();
    }
    let Late { paused, cancelled } = *member.participant();
    drop(member);
    server.join().unwrap();
    Late { paused, cancelled }
}

#[test]
fn a_program_is_paused_when_luod_says_so() {
    assert_eq!(late(true).paused, 1);
}

/// The program does not wait for an older luod.
#[test]
fn a_program_is_paused_at_once_by_an_older_luod() {
    assert_eq!(late(false).paused, 1);
}

/// READY is not acknowledged in time. luod may have received it.
#[test]
fn ready_is_not_answered() {
    let (luod, program) = (Luod::new(), Program::default());
    let (path, may_go_on) = (luod.path.clone(), program.may_go_on.clone());
    let (kernel, other) = (Kernel::new(), Arc::new(AtomicBool::new(false)));
    let timed_out = other.clone();
    let server = thread::spawn({
        let kernel = kernel.clone();
        move || {
            let mut client = luod.accept();
            client.ordinary_start();
            let ready = client.preserve(&kernel);
            while !timed_out.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(2));
            }
            // The session and the connection still exist.
            assert_eq!(kernel.outgoing()["a"], [1]);
            client.ok(&ready);
            may_go_on.store(true, Ordering::SeqCst);
            client.cancel();
            assert!(client.try_hear().is_none());
        }
    });
    let mut member = Member::join_at(path, "test", &["a"], program).unwrap();
    let client = member.client.as_mut().unwrap();
    client.set_limit(Duration::from_millis(200));
    while member.held.is_empty() {
        member.step(Some(Duration::from_millis(20))).unwrap();
    }
    for _ in 0..3 {
        member.step(Some(Duration::from_millis(5))).unwrap();
    }
    other.store(true, Ordering::SeqCst);
    go_on(&mut member);
    assert_eq!(member.participant().cancelled, ["luod says so"]);
    drop(member);
    server.join().unwrap();
    assert!(kernel.outgoing().is_empty());
}

/// The connection is lost after READY, but luod is running and the session is part of
/// the update.
#[test]
fn the_connection_is_lost_after_ready() {
    let (luod, program) = (Luod::new(), Program::default());
    let (path, may_go_on) = (luod.path.clone(), program.may_go_on.clone());
    let server = thread::spawn(move || {
        let kernel = Kernel::new();
        let mut client = luod.accept();
        client.ordinary_start();
        let ready = client.preserve(&kernel);
        client.ok(&ready);
        drop(client);
        // It is too late to refuse, twice.
        for code in [ErrorCode::WrongState, ErrorCode::InUse] {
            let mut client = luod.accept();
            let refuse = client.hear();
            assert!(matches!(refuse.body, Request::Refuse { .. }), "{refuse:?}");
            assert_eq!(kernel.outgoing()["a"], [1]);
            client.refuse(&refuse, code);
            assert!(client.try_hear().is_none());
        }
        let mut client = luod.accept();
        let refuse = client.hear();
        may_go_on.store(true, Ordering::SeqCst);
        client.ok(&refuse);
        client.subscribes();
        assert!(kernel.outgoing().is_empty());
    });
    let mut member = Member::join_at(path, "test", &["a"], program).unwrap();
    go_on(&mut member);
    while !member.is_idle() {
        member.step(Some(Duration::from_millis(20))).unwrap();
    }
    server.join().unwrap();
}

/// No luod listens: the session is not part of an update.
#[test]
fn luod_is_gone_after_ready() {
    let (luod, program) = (Luod::new(), Program::default());
    let path = luod.path.clone();
    program.may_go_on.store(true, Ordering::SeqCst);
    let server = thread::spawn(move || {
        let mut client = luod.accept();
        client.ordinary_start();
        client.preserve(&Kernel::new());
    });
    let mut member = Member::join_at(path, "test", &["a"], program).unwrap();
    go_on(&mut member);
    server.join().unwrap();
}

/// luod refuses temporarily, for too long.
#[test]
fn the_patience_ends() {
    for code in [ErrorCode::TryAgain, ErrorCode::DeviceBusy, ErrorCode::InUse] {
        let luod = Luod::new();
        let path = luod.path.clone();
        let server = thread::spawn(move || {
            let mut client = luod.accept();
            let mut claims = 0;
            while let Some(claim) = client.try_hear() {
                client.refuse(&claim, code);
                claims += 1;
            }
            (luod, claims)
        });
        let patience = Duration::from_millis(700);
        let program = Program::default();
        let joined = Member::join_within(path, "test", &["a"], program, patience);
        let error = joined.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let text = error.to_string();
        // Once.
        let said = text.matches("session a could not be claimed").count();
        assert_eq!(said, 1, "{text}");
        assert!(text.contains("within 0.7 s: no"), "{text}");
        assert_eq!(super::Refused::of(&error).unwrap().code, code);
        let (_luod, claims) = server.join().unwrap();
        assert!(claims > 1, "{claims}");
    }
    let luod = Luod::new();
    let path = luod.path.clone();
    let server = thread::spawn(move || {
        let mut client = luod.accept();
        let claim = client.hear();
        client.refuse(&claim, ErrorCode::NotAllowed);
        luod
    });
    let error = Member::join_at(path, "test", &["a"], Program::default()).unwrap_err();
    assert_eq!(
        super::Refused::of(&error).unwrap().code,
        ErrorCode::NotAllowed
    );
    drop(server.join().unwrap());
    // luod is not running.
    let luod = Luod::new();
    let path = luod.path.clone();
    drop(luod);
    let luod = Luod {
        listener: UnixListener::bind(&path).unwrap(),
        path,
    };
    fs::remove_file(&luod.path).unwrap();
    assert_eq!(
        join(&luod, Program::default()).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
}
