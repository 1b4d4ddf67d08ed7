// SPDX-License-Identifier: GPL-2.0

//! Misbehaving clients, with a real socket.

mod socket;

use super::Server;
use crate::{
    config::Config,
    fake::{own_config, FakeWorld, Luod},
    machine::Machine,
};
use liveupdate::OutgoingSession;
use luod_protocol::{Channel, ErrorCode, Event, Message, Request, SessionName, FDS_MAX, LINE_MAX};
use rustix::{
    fs::{memfd_create, MemfdFlags},
    net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
};
use std::{
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The time after which an event is considered missing: a hundred times the usual time.
const SOON: Option<Duration> = Some(Duration::from_secs(300));

fn config() -> Config {
    Config {
        operator_gids: vec![rustix::process::getgid().as_raw()],
        ..own_config()
    }
}

fn luod(world: &FakeWorld) -> Luod {
    Luod::start(world, config()).unwrap()
}

fn id(name: &str) -> SessionName {
    SessionName::new(name).unwrap()
}

/// luod still answers.
#[track_caller]
fn is_alive(luod: &Luod) {
    let mut channel = Channel::connect(luod.path()).unwrap();
    let (answer, _) = channel.call(&Request::Status, SOON).unwrap();
    assert!(matches!(answer, Event::Status(_)), "{answer:?}");
}

/// Reports that all files are preserved.
#[track_caller]
fn ready(channel: &mut Channel) {
    let request = Request::Ready {
        id: None,
        bytes: None,
    };
    channel.send(&request, None).unwrap();
}

#[track_caller]
fn error(channel: &mut Channel) -> ErrorCode {
    match channel.receive(SOON).unwrap().unwrap().0.body {
        Event::Error { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

/// A correct client, until the next kernel has started.
fn jump(world: &FakeWorld, luod: Luod, name: &str) -> Luod {
    let path = luod.path().to_owned();
    let mut client = Channel::connect(&path).unwrap();
    let subscribe = Request::Subscribe {
        id: id(name),
        timeout_ms: None,
    };
    client.send(&subscribe, None).unwrap();
    let mut operator = Channel::connect(&path).unwrap();
    // A round trip, so that the client's request has been read.
    operator.call(&Request::Status, SOON).unwrap();
    let request = Request::Update {
        timeout_ms: None,
        dry_run: false,
        force: false,
        expect: None,
    };
    let (answer, _) = operator.call(&request, SOON).unwrap();
    assert!(matches!(answer, Event::Ok { .. }), "{answer:?}");
    let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    loop {
        let (message, mut fds) = client.receive(SOON).unwrap().unwrap();
        if let Event::StartPreservation { .. } = message.body {
            let session = OutgoingSession::from(fds.pop().unwrap());
            session.preserve(&file, 1).unwrap();
            ready(&mut client);
            break;
        }
    }
    luod.wait();
    Luod::start_at(world, config(), &path).unwrap()
}

/// A correct client, from start to end.
fn update(world: &FakeWorld, luod: Luod, name: &str) -> Luod {
    let luod = jump(world, luod, name);
    let mut client = Channel::connect(luod.path()).unwrap();
    client.send(&Request::Claim { id: id(name) }, None).unwrap();
    let (message, fds) = client.receive(SOON).unwrap().unwrap();
    assert!(matches!(message.body, Event::Session { .. }));
    assert_eq!(fds.len(), 1);
    client
        .send(&Request::Finished { id: id(name) }, None)
        .unwrap();
    loop {
        // It is only acknowledged to clients that have sent HELLO.
        match client.call(&Request::Status, SOON).unwrap().0 {
            Event::Status(status) if status.incoming == 0 => return luod,
            Event::Status(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn updates() {
    let world = FakeWorld::new();
    let mut luod = luod(&world);
    for _ in 0..2 {
        luod = update(&world, luod, "a");
    }
    assert_eq!(world.kernel.updates(), 2);
}

#[test]
fn garbage() {
    let world = FakeWorld::new();
    let luod = luod(&world);
    let mut stream = UnixStream::connect(luod.path()).unwrap();
    stream
        .write_all(b"\xff\xfe\0garbage\n[[[[\n{}\n{\"cmd\":1}\n")
        .unwrap();
    let mut channel = Channel::from(stream);
    assert_eq!(error(&mut channel), ErrorCode::BadJson);
    assert_eq!(error(&mut channel), ErrorCode::BadJson);
    assert_eq!(error(&mut channel), ErrorCode::BadRequest);
    assert_eq!(error(&mut channel), ErrorCode::BadRequest);
    // The client can continue with correct lines.
    let (answer, _) = channel.call(&Request::Status, SOON).unwrap();
    assert!(matches!(answer, Event::Status(_)));
}

#[test]
fn a_huge_line() {
    let world = FakeWorld::new();
    let luod = luod(&world);
    let mut stream = UnixStream::connect(luod.path()).unwrap();
    // luod stops reading, and closes the connection.
    let _ = stream.write_all(&vec![b'x'; 10 * LINE_MAX]);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("line-too-long"), "{answer}");
    is_alive(&luod);
}

#[test]
fn byte_by_byte() {
    let world = FakeWorld::new();
    let luod = luod(&world);
    let mut stream = UnixStream::connect(luod.path()).unwrap();
    for byte in b"{\"cmd\":\"STATUS\"}\n{\"cmd\":\"LIST\"}\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut channel = Channel::from(stream);
    let (status, _) = channel.receive(SOON).unwrap().unwrap();
    assert!(matches!(status.body, Event::Status(_)));
    let (list, _) = channel.receive(SOON).unwrap().unwrap();
    assert!(matches!(list.body, Event::List { .. }));
}

fn send_fds(stream: &UnixStream, text: &[u8], count: usize) {
    let files: Vec<OwnedFd> = (0..count)
        .map(|_| memfd_create("x", MemfdFlags::CLOEXEC).unwrap())
        .collect();
    let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(
        stream,
        &[IoSlice::new(text)],
        &mut ancillary,
        SendFlags::empty(),
    )
    .unwrap();
}

#[test]
fn wrong_fds() {
    let world = FakeWorld::new();
    let luod = luod(&world);
    let stream = UnixStream::connect(luod.path()).unwrap();
    send_fds(&stream, b"{\"cmd\":\"STATUS\"}\n", 3);
    let mut channel = Channel::from(stream);
    assert_eq!(error(&mut channel), ErrorCode::UnexpectedFds);
    let stream = UnixStream::connect(luod.path()).unwrap();
    send_fds(&stream, b"{\"cmd\":\"STATUS\"}\n", FDS_MAX + 1);
    let mut channel = Channel::from(stream);
    assert_eq!(error(&mut channel), ErrorCode::UnexpectedFds);
    assert!(channel.receive(SOON).is_err());
    is_alive(&luod);
}

#[test]
fn descriptors_are_not_hoarded() {
    let world = FakeWorld::new();
    let luod = luod(&world);
    let (read, write) = UnixStream::pair().unwrap();
    let stream = UnixStream::connect(luod.path()).unwrap();
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    let fds = [write.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let text = [IoSlice::new(b"{\"cmd\":\"LIST\"}\n")];
    sendmsg(&stream, &text, &mut ancillary, SendFlags::empty()).unwrap();
    drop(write);
    read.set_read_timeout(SOON).unwrap();
    assert_eq!((&read).read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_client_that_does_not_read() {
    let world = FakeWorld::new();
    let luod = luod(&world);
    let mut slow = UnixStream::connect(luod.path()).unwrap();
    slow.set_write_timeout(SOON).unwrap();
    let line = b"{\"cmd\":\"STATUS\"}\n".repeat(1000);
    let start = Instant::now();
    // It gets more answers than luod queues.
    while slow.write_all(&line).is_ok() {
        assert!(Some(start.elapsed()) < SOON);
    }
    is_alive(&luod);
}

/// It gets the current state later.
#[test]
fn a_watcher_that_does_not_read() {
    let world = FakeWorld::new();
    let luod = luod(&world);
    let mut watcher = Channel::connect(luod.path()).unwrap();
    watcher.send(&Request::Watch, None).unwrap();
    let mut client = Channel::connect(luod.path()).unwrap();
    let rounds = 20_000;
    for round in 0..=rounds {
        let name = if round == rounds { "last" } else { "a" };
        let subscribe = Request::Subscribe {
            id: id(name),
            timeout_ms: None,
        };
        client.send(&subscribe, None).unwrap();
        if round < rounds {
            let unsubscribe = Request::Unsubscribe { id: id(name) };
            client.send(&unsubscribe, None).unwrap();
        }
    }
    client.call(&Request::Status, SOON).unwrap();
    let (mut events, mut last) = (0, None);
    loop {
        match watcher.receive(SOON).unwrap().unwrap().0.body {
            Event::Change { info } if info.session.as_str() == "last" => break,
            Event::Change { info } if info.session.as_str() == "a" => last = Some(true),
            Event::Gone { .. } => last = Some(false),
            _ => {}
        }
        events += 1;
    }
    assert_eq!(last, Some(false));
    // Most events were dropped.
    assert!(events < rounds, "{events}");
}

#[test]
fn a_thousand_connections() {
    let world = FakeWorld::new();
    let mut config = config();
    config.max_connections = 100;
    config.max_connections_per_user = 50;
    config.operator_uids.clear();
    config.operator_gids.clear();
    let root = rustix::process::getuid().is_root();
    let luod = Luod::start(&world, config).unwrap();
    let mut connections = Vec::new();
    let mut refused = 0;
    for _ in 0..1000 {
        let mut stream = UnixStream::connect(luod.path()).unwrap();
        stream.write_all(b"{\"cmd\":\"REPORT\"}\n").ok();
        stream.set_read_timeout(SOON).unwrap();
        let mut text = vec![0; 4096];
        let length = stream.read(&mut text).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        if text.contains("too-many") {
            refused += 1;
        } else {
            assert!(text.contains("ERROR"), "{text}");
        }
        connections.push(stream);
    }
    // Root is an operator, who must not be locked out.
    assert_eq!(refused, if root { 0 } else { 950 });
    drop(connections);
    let mut last = Channel::connect(luod.path()).unwrap();
    last.call(&Request::Report, SOON).unwrap();
}

#[test]
fn half_a_line_and_gone() {
    let world = FakeWorld::new();
    let luod = luod(&world);
    for _ in 0..50 {
        let mut stream = UnixStream::connect(luod.path()).unwrap();
        stream
            .write_all(b"{\"cmd\":\"SUBSCRIBE\",\"id\":\"a\"")
            .unwrap();
    }
    is_alive(&luod);
    luod.terminate();
}

#[test]
fn sigterm_in_an_update() {
    let world = FakeWorld::new();
    let luod = luod(&world);
    let mut client = Channel::connect(luod.path()).unwrap();
    let subscribe = Request::Subscribe {
        id: id("a"),
        timeout_ms: None,
    };
    client.send(&subscribe, None).unwrap();
    let update = Request::Update {
        timeout_ms: None,
        dry_run: false,
        force: false,
        expect: None,
    };
    client.call(&update, SOON).unwrap();
    luod.terminate();
    let mut cancelled = false;
    while let Ok(Some((message, _))) = client.receive(SOON) {
        cancelled |= matches!(message.body, Event::Cancelled { .. });
    }
    assert!(cancelled);
    assert!(world.kernel.outgoing().is_empty());
}

/// A client that connects in a loop must not block other clients.
#[test]
fn a_flood_of_connections() {
    let world = FakeWorld::new();
    let mut server = Server::new(super::listen(&socket_path("turns")).unwrap()).unwrap();
    let mut machine = Machine::start(world.clone(), config(), Vec::new());
    let (_stop, wake) = UnixStream::pair().unwrap();
    let streams: Vec<UnixStream> = (0..100)
        .map(|_| UnixStream::connect(socket_path("turns")).unwrap())
        .collect();
    let now = Some(Duration::ZERO);
    server.turn(&mut machine, &wake, now).unwrap();
    assert_eq!(server.connections.len(), super::ACCEPTS_PER_TURN);
    for _ in 0..3 {
        server.turn(&mut machine, &wake, now).unwrap();
    }
    assert_eq!(server.connections.len(), streams.len());
    std::fs::remove_dir_all(socket_path("turns").parent().unwrap()).unwrap();

    // Four of them at a time: the work of luod for them between two questions is limited.
    let luod = luod(&world);
    let end = AtomicBool::new(false);
    let made = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let flood = || {
            while !end.load(Ordering::Relaxed) {
                if UnixStream::connect(luod.path()).is_ok() {
                    made.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let threads = [(); 4].map(|()| scope.spawn(flood));
        let answers = (0..5).map(|_| {
            let before = made.load(Ordering::Relaxed);
            is_alive(&luod);
            made.load(Ordering::Relaxed) - before
        });
        let worst = answers.max();
        end.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        // The queue of the kernel has room for 4096.
        assert!(worst < Some(30_000), "{worst:?}");
    });
}

fn socket_path(name: &str) -> std::path::PathBuf {
    let dir = format!("luod-server-{}-{name}", std::process::id());
    std::env::temp_dir().join(dir).join("sock")
}

/// luod does not wait for a connection that does not read, unless FROZEN was sent to it.
#[test]
fn last_words() {
    let path = socket_path("words");
    let world = FakeWorld::new();
    let mut server = Server::new(super::listen(&path).unwrap()).unwrap();
    let mut machine = Machine::start(world, config(), Vec::new());
    let (_stop, wake) = UnixStream::pair().unwrap();
    let _deaf = UnixStream::connect(&path).unwrap();
    server
        .turn(&mut machine, &wake, Some(Duration::ZERO))
        .unwrap();
    let conn = *server.connections.keys().next().unwrap();
    let status = || Message::from(Event::Status(machine.status()));
    let connection = server.connections.get_mut(&conn).unwrap();
    while connection.outbox.is_empty() {
        connection.send(&status(), None).unwrap();
    }
    assert_eq!(server.flush_frozen(super::FROZEN_WAIT), 0);
    let frozen = Message::from(Event::Frozen {
        id: id("a"),
        update: 1,
    });
    let connection = server.connections.get_mut(&conn).unwrap();
    connection.send(&frozen, None).unwrap();
    assert!(server.flush_frozen(super::FROZEN_WAIT) > 0);
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

/// The connection that requests an update gets its result, independent of the number of
/// earlier events.
#[test]
fn a_requester_that_reads_late() {
    let world = FakeWorld::new();
    let mut config = config();
    config.max_sessions_per_connection = 4000;
    let luod = Luod::start(&world, config).unwrap();
    let mut client = Channel::connect(luod.path()).unwrap();
    for number in 0..3000 {
        let subscribe = Request::Subscribe {
            id: id(&format!("session-with-a-rather-long-name-{number}")),
            timeout_ms: None,
        };
        client.send(&subscribe, None).unwrap();
    }
    client.call(&Request::Status, SOON).unwrap();
    let mut requester = Channel::connect(luod.path()).unwrap();
    let update = Request::Update {
        timeout_ms: None,
        dry_run: true,
        force: false,
        expect: None,
    };
    requester.send(&update, None).unwrap();
    let mut sessions = Vec::new();
    while sessions.len() < 3000 {
        let (message, fds) = client.receive(SOON).unwrap().unwrap();
        if matches!(message.body, Event::StartPreservation { .. }) {
            sessions.extend(fds);
        }
    }
    ready(&mut client);
    loop {
        if let (Event::Status(status), _) = client.call(&Request::Status, SOON).unwrap() {
            if status.phase == luod_protocol::Phase::Idle {
                break;
            }
        }
    }
    loop {
        if let Event::Result(report) = requester.receive(SOON).unwrap().unwrap().0.body {
            assert_eq!(report.sessions.len(), 3000);
            return;
        }
    }
}

/// Freeing a session for a long time delays only the client that waits for it.
#[test]
fn a_session_takes_long_to_be_finished() {
    let world = FakeWorld::new();
    let luod = jump(&world, luod(&world), "a");
    let mut claimant = Channel::connect(luod.path()).unwrap();
    let claim = Request::Claim { id: id("a") };
    let (answer, session) = claimant.call(&claim, SOON).unwrap();
    assert!(matches!(answer, Event::Session { .. }), "{answer:?}");
    world.kernel.hold_finishes(true);
    // The client reports it before it is true.
    claimant
        .send(&Request::Finished { id: id("a") }, None)
        .unwrap();
    // This request is sent later, and is answered.
    let (answer, _) = claimant.call(&Request::List, SOON).unwrap();
    assert!(matches!(answer, Event::List { .. }), "{answer:?}");
    assert!(!claimant.has_early());
    let mut operator = Channel::connect(luod.path()).unwrap();
    let finish = Request::Finish { session: id("a") };
    assert!(matches!(
        operator.call(&finish, SOON).unwrap().0,
        Event::Error {
            code: ErrorCode::InUse,
            ..
        }
    ));
    assert_eq!(world.kernel.incoming(), ["a", "luod-internal"]);
    is_alive(&luod);
    // The next client is told to try again, and not that there is no session.
    drop((claimant, session));
    let (answer, _) = operator.call(&claim, SOON).unwrap();
    assert!(
        matches!(&answer, Event::Error { code: ErrorCode::InUse, message, .. } if message.contains("being finished")),
        "{answer:?}"
    );
    world.kernel.hold_finishes(false);
    while !world.kernel.incoming().is_empty() {
        is_alive(&luod);
    }
    loop {
        let (answer, _) = operator.call(&claim, SOON).unwrap();
        match answer {
            Event::Error {
                code: ErrorCode::InUse,
                ..
            } => {}
            Event::Error {
                code: ErrorCode::NoSession,
                ..
            } => break,
            other => panic!("{other:?}"),
        }
    }
}
