// SPDX-License-Identifier: GPL-2.0

//! How the work of luod grows with the number of sessions.
//!
//! The only test in its process, since each session needs up to four descriptors, and leaves one in
//! the fake kernel after each run.

use luod::{
    config::{Config, Credentials},
    fake::FakeWorld,
    machine::{ConnId, Machine, Output},
};
use luod_protocol::{Event, Message, Outcome, Phase};
use rustix::{
    process::{getrlimit, setrlimit, Resource, Rlimit},
    time::{clock_gettime, ClockId},
};
use std::{collections::BTreeMap, os::fd::OwnedFd, time::Duration};

/// An operator, who gets all events, and no other connection.
const OPERATOR: ConnId = ConnId(0);

/// luod, and the last events to each connection.
struct Luod {
    machine: Machine<FakeWorld>,
    world: FakeWorld,
    fds: BTreeMap<ConnId, OwnedFd>,
    outcome: Option<Outcome>,
}

impl Luod {
    /// Starts luod, with an operator that watches it.
    fn start(world: &FakeWorld) -> Self {
        let config = Config {
            max_sessions: 1_000_000,
            ..Config::default()
        };
        let machine = Machine::start(world.clone(), config, world.stored());
        let mut luod = Self {
            machine,
            world: world.clone(),
            fds: BTreeMap::new(),
            outcome: None,
        };
        luod.connect(OPERATOR);
        luod.send(OPERATOR, r#"{"cmd":"WATCH"}"#);
        luod
    }

    /// Handles all output, as the server does after each event.
    fn turn(&mut self) {
        self.machine.tick();
        while let Some(output) = self.machine.next_output() {
            match output {
                Output::Send { to, message, fd } => {
                    if let Some(fd) = fd {
                        self.fds.insert(to, fd);
                    }
                    if let Event::Result(report) = message.body {
                        assert_eq!(to, OPERATOR);
                        self.outcome = Some(report.outcome);
                    }
                }
                Output::Close(conn) => self.machine.disconnected(conn),
                Output::Jump => self.machine.jump(),
            }
        }
        self.world.pass(Duration::from_micros(10));
    }

    fn connect(&mut self, conn: ConnId) {
        let credentials = Credentials {
            pid: 1,
            uid: 0,
            gid: 0,
        };
        self.machine.connected(conn, credentials.into());
        self.send(conn, r#"{"cmd":"HELLO","version":2}"#);
    }

    fn send(&mut self, conn: ConnId, line: &str) {
        let message = Message::parse(line.as_bytes()).unwrap();
        self.machine.request(conn, message, 0);
        self.turn();
    }

    fn leave(&mut self, conn: ConnId) {
        self.machine.disconnected(conn);
        self.turn();
    }
}

fn clients(sessions: u64) -> impl Iterator<Item = (ConnId, String)> {
    // The order differs from that of the names.
    (0..sessions).map(move |n| (ConnId(n + 1), format!("s-{}", n * 7919 % sessions)))
}

/// An aborted update and a successful one, with all steps before and after.
fn updates(sessions: u64) {
    let world = FakeWorld::with_own_clock();
    let mut luod = Luod::start(&world);
    for (conn, name) in clients(sessions) {
        luod.connect(conn);
        luod.send(conn, &format!(r#"{{"cmd":"SUBSCRIBE","id":"{name}"}}"#));
    }
    luod.send(OPERATOR, r#"{"cmd":"UPDATE"}"#);
    luod.send(OPERATOR, r#"{"cmd":"ABORT"}"#);
    assert_eq!(luod.outcome, Some(Outcome::Aborted));
    luod.fds.clear();
    luod.send(OPERATOR, r#"{"cmd":"UPDATE"}"#);
    for (conn, _) in clients(sessions) {
        luod.fds.remove(&conn).unwrap();
        luod.send(conn, r#"{"cmd":"PROGRESS","done":1}"#);
        luod.send(conn, r#"{"cmd":"READY"}"#);
    }
    assert_eq!(world.state().kexecs, 1);
    drop(luod);

    let mut luod = Luod::start(&world);
    for (conn, name) in clients(sessions) {
        luod.connect(conn);
        luod.send(conn, &format!(r#"{{"cmd":"CLAIM","id":"{name}"}}"#));
        luod.fds.remove(&conn).unwrap();
        luod.send(conn, &format!(r#"{{"cmd":"FINISHED","id":"{name}"}}"#));
        luod.send(conn, &format!(r#"{{"cmd":"SUBSCRIBE","id":"{name}"}}"#));
    }
    assert_eq!(luod.outcome, Some(Outcome::Updated));
    assert_eq!(luod.machine.phase(), Phase::Idle);
    for (conn, _) in clients(sessions) {
        luod.leave(conn);
    }
    assert_eq!(luod.machine.status().subscribed, 0);
}

/// The processor time of a run.
fn cost(sessions: u64) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let start = now();
    updates(sessions);
    now() - start
}

/// Ten times the number of sessions must not need more than 15 times the work.
#[test]
fn ten_times_as_many_sessions() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let most = limit.maximum.unwrap_or(u64::MAX).saturating_sub(500) / 16;
    let many = most.min(10_000);
    let few = many / 10;
    assert!(few >= 20, "RLIMIT_NOFILE is too small: {limit:?}");
    // The minimum of several runs excludes disturbances. Quadratic work would be a hundred times as
    // much.
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push((cost(few), cost(many)));
        println!("{few} and {many} sessions: {seen:?}");
        let small = seen.iter().map(|(small, _)| *small).max().unwrap();
        let large = seen.iter().map(|(_, large)| *large).min().unwrap();
        if large <= small * 15 {
            return;
        }
    }
    panic!("{few} and {many} sessions: {seen:?}");
}
