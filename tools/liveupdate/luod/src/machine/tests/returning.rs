// SPDX-License-Identifier: GPL-2.0

//! A client that was ready has lost its connection, and continues its work: luod must leave
//! its session out.

use super::*;

const REFUSE: &str = r#"{"cmd":"REFUSE","id":"vm-1"}"#;

/// One client is ready, another one is not; the connection of the first is closed.
fn ready_and_gone(luod: &mut Luod) -> (ConnId, OutgoingSession) {
    let vm = luod.connect_as(1000);
    luod.send(vm, r#"{"cmd":"SUBSCRIBE","id":"vm-1"}"#);
    let slow = luod.subscriber("slow");
    let operator = luod.update("");
    let session = luod.preserve(vm, "vm-1");
    // luod has not detected that the connection is closed.
    let early = luod.connect_as(1000);
    assert_eq!(luod.error(early, REFUSE), ErrorCode::InUse);
    luod.leave(vm);
    assert_eq!(luod.states()[1].1, SessionState::Ready);
    luod.session(slow, "slow");
    (operator, session)
}

#[test]
fn the_update_is_aborted() {
    let mut luod = Luod::new();
    let (operator, session) = ready_and_gone(&mut luod);
    // Another user is refused.
    let other = luod.connect_as(0);
    assert_eq!(luod.error(other, REFUSE), ErrorCode::NoSession);
    let again = luod.connect_as(1000);
    luod.send(again, r#"{"cmd":"HELLO","version":2}"#);
    luod.next(again);
    luod.send(again, REFUSE);
    assert!(matches!(luod.next(again).0, Event::Ok { .. }));
    let report = luod.result(operator);
    assert_eq!(report.outcome, Outcome::Aborted);
    drop(session);
    luod.is_as_before();
    // It can subscribe again.
    luod.send(again, r#"{"cmd":"SUBSCRIBE","id":"vm-1"}"#);
    assert!(matches!(luod.next(again).0, Event::Ok { .. }));
}

#[test]
fn it_is_too_late() {
    let mut luod = Luod::new();
    luod.world.state().by_manager = true;
    let vm = luod.connect_as(1000);
    luod.send(vm, r#"{"cmd":"SUBSCRIBE","id":"vm-1"}"#);
    luod.update("");
    let _session = luod.preserve(vm, "vm-1");
    luod.leave(vm);
    let again = luod.connect_as(1000);
    assert_eq!(luod.error(again, REFUSE), ErrorCode::WrongState);
    // The next kernel was not started: the update has ended.
    luod.pass(Duration::from_secs(301));
    assert_eq!(luod.error(again, REFUSE), ErrorCode::NoSession);
}

/// A client that has crashed is restarted: it is asked again, if the update still waits for others.
#[test]
fn a_client_that_crashed_comes_back() {
    for again in [false, true] {
        let mut luod = Luod::new();
        let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
        luod.update(r#","force":true"#);
        let mut a = a;
        for _ in 0..2 {
            drop(luod.session(a, "a"));
            luod.leave(a);
            assert_eq!(luod.states(), [("b".to_owned(), SessionState::Preserving)]);
            a = luod.connect();
            luod.send(a, r#"{"cmd":"SUBSCRIBE","id":"a"}"#);
        }
        if again {
            drop(luod.preserve(a, "a"));
        } else {
            luod.leave(a);
        }
        drop(luod.preserve(b, "b"));
        let mut luod = luod.next_kernel();
        luod.restore("b");
        if again {
            luod.restore("a");
        }
        let report = luod.machine.arrival_report().unwrap();
        let states = report
            .sessions
            .iter()
            .map(|s| (s.session.as_str(), s.state));
        let a = match again {
            true => SessionState::Finished,
            false => SessionState::Dropped,
        };
        let states: BTreeMap<_, _> = states.collect();
        assert_eq!(report.sessions.len(), 2, "{report:?}");
        assert_eq!(states["a"], a);
        assert_eq!(states["b"], SessionState::Finished);
    }
}

/// The report of the update names it in any case.
#[test]
fn a_client_that_crashed_is_reported() {
    let mut luod = Luod::new();
    let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
    let operator = luod.update(r#","force":true"#);
    drop(luod.session(a, "a"));
    luod.leave(a);
    let running = luod.machine.running_report().unwrap();
    luod.send(operator, r#"{"cmd":"ABORT"}"#);
    let ended = luod.result(operator);
    for report in [running, ended] {
        let lost = report.sessions.iter().find(|s| s.session.as_str() == "a");
        let lost = lost.unwrap();
        assert_eq!(lost.state, SessionState::Dropped);
        assert!(lost.error.as_deref().unwrap().contains("closed"));
    }
    luod.leave(b);
    assert_eq!(luod.states(), []);
}

#[test]
fn a_forced_update_goes_on_without() {
    let mut luod = Luod::new();
    luod.world.state().by_manager = true;
    let vm = luod.connect_as(1000);
    luod.send(vm, r#"{"cmd":"SUBSCRIBE","id":"vm-1"}"#);
    let good = luod.subscriber("good");
    luod.update(r#","force":true"#);
    let session = luod.preserve(vm, "vm-1");
    luod.leave(vm);
    let again = luod.connect_as(1000);
    luod.send(again, REFUSE);
    luod.nothing(again);
    drop(session);
    let _good = luod.preserve(good, "good");
    let outgoing: Vec<String> = luod.world.kernel.outgoing().into_keys().collect();
    assert_eq!(outgoing, ["good", "luod-internal"]);
}
