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
