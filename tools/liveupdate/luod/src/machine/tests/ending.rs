// SPDX-License-Identifier: GPL-2.0

//! Sessions whose finish takes long: luod handles other requests.

use super::{after::updated, *};

/// An operator discards one.
#[test]
fn a_discard_takes_long() {
    let mut luod = updated(&["a", "b"]);
    luod.world.kernel.hold_finishes(true);
    let operator = luod.connect();
    luod.send(operator, r#"{"cmd":"DISCARD","session":"a"}"#);
    // No client gets an acknowledgement before it is finished.
    luod.nothing(operator);
    assert_eq!(luod.states()[0].1, SessionState::Unclaimed);
    assert!(luod.machine.next_tick().is_some());
    // No other client gets it, and it is finished only once.
    for (line, expected) in [
        (r#"{"cmd":"CLAIM","id":"a"}"#, ErrorCode::InUse),
        (r#"{"cmd":"DISCARD","session":"a"}"#, ErrorCode::InUse),
        (r#"{"cmd":"UPDATE"}"#, ErrorCode::Unfinished),
    ] {
        let other = luod.connect();
        assert_eq!(luod.error(other, line), expected, "{line}");
    }
    luod.pass(ms(60_000));
    luod.nothing(operator);
    luod.world.kernel.hold_finishes(false);
    luod.pass(ms(20));
    assert!(matches!(luod.next(operator).0, Event::Ok { .. }));
    assert_eq!(luod.states()[0].1, SessionState::Discarded);
    luod.restore("b");
    assert_eq!(luod.machine.phase(), Phase::Idle);
    assert!(luod.world.kernel.incoming().is_empty());
}

/// A client sends FINISHED without having finished the session, and disconnects.
#[test]
fn the_client_does_not_wait() {
    let mut luod = updated(&["a"]);
    let (a, session) = luod.claim("a");
    luod.world.kernel.hold_finishes(true);
    luod.send(a, r#"{"cmd":"FINISHED","id":"a"}"#);
    drop(session);
    luod.leave(a);
    luod.pass(ms(10_000));
    assert_eq!(luod.states()[0].1, SessionState::Unclaimed);
    luod.world.kernel.hold_finishes(false);
    luod.pass(ms(20));
    assert_eq!(luod.states()[0].1, SessionState::Finished);
    assert_eq!(luod.machine.phase(), Phase::Idle);
}

/// A forced update discards unfinished sessions: FROZEN is sent only after they are freed, and
/// until then the update can be aborted.
#[test]
fn a_forced_update_waits() {
    for abort in [false, true] {
        let mut luod = updated(&["a", "b"]);
        let b = luod.subscriber("b");
        let operator = luod.update(r#","force":true"#);
        luod.world.kernel.hold_finishes(true);
        let held = luod.preserve(b, "b");
        assert_eq!(luod.machine.phase(), Phase::Frozen);
        luod.nothing(b);
        luod.pass(ms(60_000));
        assert_eq!(luod.machine.phase(), Phase::Frozen);
        assert_eq!(luod.world.state().kexecs, 1);
        if abort {
            luod.send(operator, r#"{"cmd":"ABORT"}"#);
            luod.cancelled(b, "operator");
        }
        drop(held);
        luod.world.kernel.hold_finishes(false);
        luod.pass(ms(20));
        luod.pass(ms(20));
        assert_eq!(luod.world.state().kexecs, if abort { 1 } else { 2 });
        if abort {
            assert_eq!(luod.machine.phase(), Phase::Idle);
            assert!(luod.world.kernel.incoming().is_empty());
        } else {
            assert!(matches!(luod.next(b).0, Event::Frozen { .. }));
            luod.next_kernel().restore("b");
        }
    }
}

/// luod is stopped in a handover at that point: the kernel frees the sessions.
#[test]
fn stopped_while_it_waits() {
    let mut luod = updated(&["a"]);
    luod.world.state().by_manager = true;
    luod.world.state().store = Some(BTreeMap::new());
    let b = luod.subscriber("b");
    luod.world.state().kexec_under_way = true;
    let unit = luod.connect();
    luod.send(unit, r#"{"cmd":"HANDOVER"}"#);
    luod.world.kernel.hold_finishes(true);
    drop(luod.preserve(b, "b"));
    assert_eq!(luod.machine.phase(), Phase::Frozen);
    luod.machine.stop();
    luod.pump();
    assert!(matches!(luod.next(b).0, Event::Frozen { .. }));
    assert_eq!(luod.machine.phase(), Phase::Jump);
}

/// The next luod discards sessions without which a forced update has continued, and serves
/// requests before this is done; the same applies to the session of the registry.
#[test]
fn luod_starts_while_something_is_freed() {
    let mut luod = Luod::new();
    luod.world.state().by_manager = true;
    let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
    luod.update(r#","force":true"#);
    let held = luod.session(a, "a");
    luod.send(a, r#"{"cmd":"REFUSE","id":"a"}"#);
    let kept = luod.preserve(b, "b");
    let world = luod.world.clone();
    world.boot();
    drop((luod, held, kept));
    assert_eq!(world.kernel.incoming(), ["a", "b", "luod-internal"]);
    world.kernel.hold_finishes(true);
    let mut luod = Luod::on(world);
    let (b, session) = luod.claim("b");
    assert_eq!(luod.world.kernel.incoming(), ["a", "b", "luod-internal"]);
    luod.world.kernel.hold_finishes(false);
    luod.pass(ms(20));
    assert_eq!(luod.world.kernel.incoming(), ["b", "luod-internal"]);
    session.finish().unwrap();
    luod.world.kernel.hold_finishes(true);
    luod.send(b, r#"{"cmd":"FINISHED","id":"b"}"#);
    luod.world.kernel.hold_finishes(false);
    luod.pass(ms(20));
    assert!(luod.world.kernel.incoming().is_empty());
    assert_eq!(luod.machine.phase(), Phase::Idle);
}

/// FORGET is answered when the session of the registry is finished.
#[test]
fn forgetting_takes_long() {
    let world = FakeWorld::with_own_clock();
    super::unknown::write_registry(&world, "nonsense");
    let mut luod = Luod::on(world);
    luod.world.kernel.hold_finishes(true);
    let operator = luod.connect();
    luod.send(operator, r#"{"cmd":"FORGET"}"#);
    luod.pass(ms(60_000));
    luod.nothing(operator);
    assert_eq!(luod.machine.phase(), Phase::Unknown);
    luod.world.kernel.hold_finishes(false);
    luod.pass(ms(20));
    assert!(matches!(luod.next(operator).0, Event::Ok { .. }));
    assert_eq!(luod.machine.phase(), Phase::Idle);
}
