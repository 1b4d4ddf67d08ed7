// SPDX-License-Identifier: GPL-2.0

//! The client library and luod, on a fake machine.

use liveupdate::{
    luod::{Client, Member, Notice, Participant, Refused, Result, SessionName},
    IncomingSession, OutgoingSession,
};
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::{Channel, ErrorCode, Event, Outcome, Report, Request};
use rustix::fs::{memfd_create, MemfdFlags};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(20);

/// A program that keeps a number.
#[derive(Debug)]
struct Number {
    memory: File,
    fail: Option<&'static str>,
    cancelled: Vec<String>,
    frozen: bool,
}

impl Number {
    fn new(value: u8) -> Self {
        let memory = File::from(memfd_create("number", MemfdFlags::CLOEXEC).unwrap());
        memory.write_all_at(&[value], 0).unwrap();
        Self {
            memory,
            fail: None,
            cancelled: Vec::new(),
            frozen: false,
        }
    }

    fn value(&self) -> u8 {
        let mut value = [0];
        self.memory.read_exact_at(&mut value, 0).unwrap();
        value[0]
    }
}

impl Participant for Number {
    fn preserve(&mut self, _: &SessionName, session: &OutgoingSession) -> Result {
        match self.fail.take() {
            Some("prepare") | None => Ok(session.preserve(&self.memory, 1)?),
            Some(why) => Err(why.into()),
        }
    }

    fn cancelled(&mut self, _: &SessionName, reason: &str) {
        self.cancelled.push(reason.to_owned());
    }

    fn restore(&mut self, _: &SessionName, session: &IncomingSession) -> Result {
        self.memory = session.retrieve(1)?.into();
        Ok(())
    }

    fn frozen(&mut self, _: &SessionName) {
        self.frozen = true;
    }
}

struct Operator(Channel);

impl Operator {
    fn update(luod: &Luod) -> Self {
        let mut channel = Channel::connect(luod.path()).unwrap();
        let request = Request::Update {
            timeout_ms: None,
            dry_run: false,
            force: false,
            expect: None,
        };
        let (answer, _) = channel.call(&request, Some(SOON)).unwrap();
        assert!(matches!(answer, Event::Ok { .. }), "{answer:?}");
        Self(channel)
    }

    fn result(mut self) -> Report {
        loop {
            let (message, _) = self.0.receive(Some(SOON)).unwrap().unwrap();
            if let Event::Result(report) = message.body {
                return report;
            }
        }
    }
}

fn join(luod: &Luod, name: &str, value: u8) -> Member<Number> {
    Member::join_at(luod.path(), "number", &[name], Number::new(value)).unwrap()
}

fn steps(member: &mut Member<Number>, until: impl Fn(&Member<Number>) -> bool) {
    let start = Instant::now();
    while !until(member) {
        assert!(start.elapsed() < SOON);
        member.step(Some(Duration::from_millis(50))).unwrap();
    }
}

#[test]
fn update_after_update() {
    let world = FakeWorld::new();
    let mut luod = Luod::start(&world, own_config()).unwrap();
    let path = luod.path().to_owned();
    let mut member = join(&luod, "a", 42);
    assert!(member.restored().is_empty());
    for _ in 0..3 {
        let _operator = Operator::update(&luod);
        steps(&mut member, |member| member.participant().frozen);
        luod.wait();
        luod = Luod::start_at(&world, own_config(), &path).unwrap();
        // The process is a new one after an update.
        member = join(&luod, "a", 7);
        assert_eq!(member.participant().value(), 42);
        assert_eq!(member.restored().len(), 1);
        assert!(world.kernel.incoming().is_empty());
    }
}

#[test]
fn a_failure_aborts() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let mut bad = join(&luod, "bad", 1);
    let mut good = join(&luod, "good", 2);
    bad.participant_mut().fail = Some("the disk is on fire");
    let operator = Operator::update(&luod);
    steps(&mut good, |member| !member.is_idle());
    steps(&mut bad, |member| {
        !member.participant().cancelled.is_empty()
    });
    steps(&mut good, |member| {
        !member.participant().cancelled.is_empty()
    });
    let report = operator.result();
    assert_eq!(report.outcome, Outcome::Aborted);
    let reason = report.reason.unwrap();
    assert!(reason.contains("the disk is on fire"), "{reason}");
    assert!(world.kernel.outgoing().is_empty());

    // Another update, without failures.
    let _operator = Operator::update(&luod);
    steps(&mut good, |member| !member.is_idle());
    steps(&mut bad, |member| member.participant().frozen);
    luod.wait();
    assert_eq!(world.kernel.updates(), 1);
}

#[test]
fn luod_is_killed() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let path = luod.path().to_owned();
    let mut member = join(&luod, "a", 5);
    let other = join(&luod, "slow", 6);
    let _operator = Operator::update(&luod);
    steps(&mut member, |member| !member.is_idle());
    drop(luod);
    steps(&mut member, |member| {
        !member.participant().cancelled.is_empty()
    });
    drop(other);
    assert!(world.kernel.outgoing().is_empty());
    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    steps(&mut member, Member::is_idle);
    let _operator = Operator::update(&luod);
    steps(&mut member, |member| member.participant().frozen);
    luod.wait();
    assert_eq!(world.kernel.updates(), 1);
}

#[test]
fn low_level() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let mut client = Client::connect_to(luod.path(), "low").unwrap();
    let id = SessionName::new("low").unwrap();
    assert!(client.claim(&id).unwrap().is_none());
    client.subscribe(&id, Some(Duration::from_secs(5))).unwrap();
    let mut other = Client::connect_to(luod.path(), "other").unwrap();
    let error = other.subscribe(&id, None).unwrap_err();
    assert_eq!(Refused::of(&error).unwrap().code, ErrorCode::InUse);
    let operator = Operator::update(&luod);
    let Some(Notice::Prepare { deadline, .. }) = client.next(Some(SOON)).unwrap() else {
        panic!("no request");
    };
    assert_eq!(deadline, Duration::from_secs(5));
    let Some(Notice::Preserve { session, .. }) = client.next(Some(SOON)).unwrap() else {
        panic!("no session");
    };
    assert_eq!(session.name().unwrap(), b"low");
    client.refuse(&id, "not now").unwrap();
    assert!(matches!(
        client.next(Some(SOON)).unwrap(),
        Some(Notice::Cancelled { .. })
    ));
    assert_eq!(operator.result().outcome, Outcome::Aborted);
    client.unsubscribe(&id).unwrap();
    assert!(Client::connect_to("/nonexistent", "x").is_err());
}
