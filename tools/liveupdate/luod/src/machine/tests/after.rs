// SPDX-License-Identifier: GPL-2.0

//! What happens after the next kernel has started.

use super::*;
use rustix::io::Errno;

/// A luod after an update with these sessions.
fn updated(names: &[&str]) -> Luod {
    update_on(Luod::new(), names)
}

fn update_on(mut luod: Luod, names: &[&str]) -> Luod {
    let conns: Vec<ConnId> = names.iter().map(|name| luod.subscriber(name)).collect();
    let kexecs = luod.world.state().kexecs;
    luod.update("");
    luod.world.pass(ms(100));
    let mut sessions = Vec::new();
    for (conn, name) in conns.into_iter().zip(names) {
        sessions.push(luod.preserve(conn, name));
    }
    assert_eq!(luod.world.state().kexecs, kexecs + 1);
    let by_manager = luod.world.state().by_manager;
    if by_manager {
        luod.world.boot();
    }
    luod.next_kernel()
}

#[test]
fn everything_comes_back() {
    let mut luod = updated(&["a", "b"]);
    assert_eq!(luod.machine.phase(), Phase::Restoring);
    for (_, state) in luod.states() {
        assert_eq!(state, SessionState::Unclaimed);
    }
    luod.restore("a");
    assert_eq!(luod.machine.phase(), Phase::Restoring);
    luod.restore("b");
    assert_eq!(luod.machine.phase(), Phase::Idle);
    assert!(luod.world.kernel.incoming().is_empty());
    let again = luod.connect();
    let code = luod.error(again, r#"{"cmd":"CLAIM","id":"a"}"#);
    assert_eq!(code, ErrorCode::NoSession);
}

#[test]
fn one_update_after_another() {
    let mut luod = Luod::new();
    for number in 1..=5 {
        luod = update_on(luod, &["a", "b"]);
        assert_eq!(luod.machine.status().update, number);
        luod.restore("b");
        luod.restore("a");
    }
    assert_eq!(luod.world.kernel.updates(), 5);
}

/// luod is started again when everything is over.
#[test]
fn the_number_is_remembered() {
    let mut luod = updated(&["a"]);
    luod.restore("a");
    for number in [2, 3] {
        luod = update_on(luod.next_kernel(), &["a"]);
        assert_eq!(luod.machine.status().update, number);
        luod.restore("a");
    }
    let mut luod = luod.next_kernel();
    let operator = luod.connect();
    luod.send(operator, r#"{"cmd":"REPORT"}"#);
    let (Event::Report(report), _) = luod.next(operator) else {
        panic!("no report");
    };
    assert_eq!((report.update, report.outcome), (3, Outcome::Updated));
}

#[test]
fn the_report() {
    for has_tsc in [true, false] {
        let luod = Luod::new();
        luod.world.state().has_tsc = has_tsc;
        let mut luod = update_on(luod, &["a"]);
        luod.world.pass(ms(1000));
        let a = luod.connect();
        luod.send(a, r#"{"cmd":"CLAIM","id":"a"}"#);
        luod.world.pass(ms(250));
        luod.send(a, r#"{"cmd":"FINISHED","id":"a"}"#);
        let operator = luod.connect();
        luod.send(operator, r#"{"cmd":"REPORT"}"#);
        let (Event::Report(report), _) = luod.next(operator) else {
            panic!("no report");
        };
        assert_eq!(report.outcome, Outcome::Updated);
        assert_eq!(report.from.as_deref(), Some("7.3.0"));
        assert_eq!(report.to.as_deref(), Some("7.3.1"));
        let marks: Vec<MarkName> = report.marks.iter().map(|mark| mark.name).collect();
        assert_eq!(
            marks,
            [
                MarkName::Requested,
                MarkName::Started,
                MarkName::Ready,
                MarkName::Frozen,
                MarkName::Jump,
                MarkName::Boot,
                MarkName::Luod,
                MarkName::Serving,
                MarkName::Claimed,
                MarkName::Finished
            ]
        );
        let session = &report.sessions[0];
        assert_eq!(session.preserve_us, Some(100_000));
        assert_eq!(session.restore_us, Some(250_000));
        assert_eq!(report.jump_us, Some(2_000_000));
        if has_tsc {
            let offsets: Vec<u64> = report.marks.iter().map(|m| m.offset_us.unwrap()).collect();
            let ms = [0, 0, 100, 100, 100, 2100, 2100, 2100, 3100, 3350];
            assert_eq!(offsets, ms.map(|ms| ms * 1000));
            assert_eq!(report.blackout_us, Some(3_250_000));
            assert_eq!(session.blackout_us, Some(3_250_000));
            assert_eq!(report.precision_us, Some(1000));
        } else {
            assert_eq!(report.blackout_us, Some(3_000_000));
            assert_eq!(report.precision_us, Some(1_000_000));
        }
    }
}

#[test]
fn a_client_dies_and_claims_again() {
    let mut luod = updated(&["a"]);
    let first = luod.connect();
    luod.send(first, r#"{"cmd":"CLAIM","id":"a"}"#);
    drop(luod.claimed(first, "a"));
    let second = luod.connect();
    let code = luod.error(second, r#"{"cmd":"CLAIM","id":"a"}"#);
    assert_eq!(code, ErrorCode::InUse);
    let code = luod.error(second, r#"{"cmd":"FINISHED","id":"a"}"#);
    assert_eq!(code, ErrorCode::WrongState);
    // Once more to the same client.
    luod.send(first, r#"{"cmd":"CLAIM","id":"a"}"#);
    drop(luod.claimed(first, "a"));
    luod.leave(first);
    assert_eq!(luod.states()[0].1, SessionState::Unclaimed);
    luod.restore("a");
}

#[test]
fn operators_finish_and_discard() {
    let mut luod = updated(&["a", "b", "c"]);
    let operator = luod.connect();
    let code = luod.error(operator, r#"{"cmd":"UPDATE"}"#);
    assert_eq!(code, ErrorCode::Unfinished);
    let code = luod.error(operator, r#"{"cmd":"FINISH","session":"a"}"#);
    assert_eq!(code, ErrorCode::WrongState);
    let a = luod.connect();
    luod.send(a, r#"{"cmd":"CLAIM","id":"a"}"#);
    drop(luod.claimed(a, "a"));
    let code = luod.error(operator, r#"{"cmd":"DISCARD","session":"a"}"#);
    assert_eq!(code, ErrorCode::InUse);
    for line in [
        r#"{"cmd":"FINISH","session":"a"}"#,
        r#"{"cmd":"DISCARD","session":"b"}"#,
        r#"{"cmd":"DISCARD","session":"c"}"#,
    ] {
        luod.inboxes.remove(&operator);
        luod.send(operator, line);
        assert!(matches!(luod.next(operator).0, Event::Ok { .. }), "{line}");
    }
    assert_eq!(luod.machine.phase(), Phase::Idle);
    assert!(luod.world.kernel.incoming().is_empty());
    let code = luod.error(a, r#"{"cmd":"FINISHED","id":"a"}"#);
    assert_eq!(code, ErrorCode::NoSession);
}

#[test]
fn a_forced_update_discards() {
    let mut luod = updated(&["a", "b"]);
    let b = luod.subscriber("b");
    luod.update(r#","force":true"#);
    assert_eq!(luod.world.kernel.incoming(), ["a", "b", "luod-internal"]);
    luod.preserve(b, "b");
    let mut luod = luod.next_kernel();
    assert_eq!(luod.states(), [("b".to_owned(), SessionState::Unclaimed)]);
    luod.restore("b");
}

/// A client that does not close what it was told to close, and does not take part any more.
#[test]
fn what_stays_open_after_an_abort_is_not_kept() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.update("");
    let held = luod.preserve(a, "a");
    drop(held);
    let mut luod = luod.next_kernel();
    luod.restore("a");

    let a = luod.subscriber("a");
    let b = luod.subscriber("b");
    let operator = luod.update("");
    let held = luod.session(a, "a");
    let closed = luod.session(b, "b");
    luod.send(operator, r#"{"cmd":"ABORT"}"#);
    luod.send(a, r#"{"cmd":"UNSUBSCRIBE","id":"a"}"#);
    luod.send(b, r#"{"cmd":"UNSUBSCRIBE","id":"b"}"#);
    drop(closed);
    luod.update("");
    assert_eq!(luod.world.kernel.incoming(), ["a", "luod-internal"]);
    drop(held);
    let luod = luod.next_kernel();
    assert!(luod.world.kernel.incoming().is_empty());
}

/// luod is killed in the new kernel, at any point.
#[test]
fn killed_while_sessions_are_claimed() {
    for with_store in [false, true] {
        let luod = Luod::new();
        luod.world.state().store = with_store.then(BTreeMap::new);
        luod.world.state().by_manager = with_store;
        let mut luod = update_on(luod, &["a", "b", "c"]);
        luod.restore("a");
        let b = luod.connect();
        luod.send(b, r#"{"cmd":"CLAIM","id":"b"}"#);
        let held = luod.claimed(b, "b");
        let mut luod = luod.next_kernel();
        let here = if with_store {
            SessionState::Unclaimed
        } else {
            SessionState::Elsewhere
        };
        let states: Vec<_> = luod.states().into_iter().map(|(_, state)| state).collect();
        assert_eq!(
            states,
            [SessionState::Finished, here, SessionState::Unclaimed]
        );
        let again = luod.connect();
        if !with_store {
            let code = luod.error(again, r#"{"cmd":"CLAIM","id":"b"}"#);
            assert_eq!(code, ErrorCode::InUse);
        }
        drop(held);
        luod.send(again, r#"{"cmd":"CLAIM","id":"b"}"#);
        drop(luod.claimed(again, "b"));
        luod.leave(again);
        luod.restore("b");
        luod.restore("c");
        assert_eq!(luod.machine.phase(), Phase::Idle);
        assert!(luod.world.kernel.incoming().is_empty());
        assert!(luod.world.stored().is_empty());
    }
}

/// A client finished its session while luod was not there.
#[test]
fn finished_behind_our_back() {
    let mut luod = updated(&["a"]);
    let a = luod.connect();
    luod.send(a, r#"{"cmd":"CLAIM","id":"a"}"#);
    let session = luod.claimed(a, "a");
    let mut luod = luod.next_kernel();
    assert_eq!(luod.states()[0].1, SessionState::Elsewhere);
    session.finish().unwrap();
    let again = luod.connect();
    let code = luod.error(again, r#"{"cmd":"CLAIM","id":"a"}"#);
    assert_eq!(code, ErrorCode::NoSession);
    assert_eq!(luod.machine.phase(), Phase::Idle);
}

#[test]
fn systemd_keeps_and_returns() {
    let mut luod = Luod::new();
    luod.world.state().store = Some(BTreeMap::new());
    luod.world.state().by_manager = true;
    for _ in 0..2 {
        luod = update_on(luod, &["a"]);
        luod.restore("a");
        assert!(luod.world.stored().is_empty());
    }
    assert_eq!(luod.world.kernel.updates(), 2);
}

#[test]
fn the_device_is_busy_at_the_start() {
    let world = FakeWorld::with_own_clock();
    let _device = world.kernel.open().unwrap();
    let luod = Luod::on(world);
    assert!(luod.machine.status().problem.unwrap().contains("busy"));
    assert_eq!(luod.world.state().sleeps, 200);
}

#[test]
fn the_device_does_not_work() {
    for (errno, part) in [
        (Errno::IO, "cannot be found"),
        (Errno::NOENT, "liveupdate=on"),
    ] {
        let world = FakeWorld::with_own_clock();
        world.kernel.break_device(Some(errno.raw_os_error()));
        let mut luod = Luod::on(world);
        let problem = luod.machine.status().problem.unwrap();
        assert!(problem.contains(part), "{problem}");
        // Everything else works.
        luod.subscriber("a");
    }
}

#[test]
fn a_registry_that_makes_no_sense() {
    for text in ["", "{\"version\":99", "{}", "null"] {
        let world = FakeWorld::with_own_clock();
        let device = world.kernel.open().unwrap();
        let session = device.create_session("luod-internal").unwrap();
        let file = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&file, text.as_bytes()).unwrap();
        session.preserve(&file, 0).unwrap();
        world.kernel.kexec();
        let luod = Luod::on(world);
        let problem = luod.machine.status().problem.unwrap();
        assert!(problem.contains("not understood"), "{problem}");
        // It is not thrown away.
        assert_eq!(luod.world.kernel.incoming(), ["luod-internal"]);
    }
}

#[test]
fn a_session_is_missing() {
    let mut luod = Luod::new();
    luod.world.state().by_manager = true;
    let a = luod.subscriber("a");
    luod.update("");
    let session = luod.preserve(a, "a");
    // Somebody else took it away in between.
    luod.world.kernel.kexec();
    drop(session);
    let device = luod.world.kernel.open().unwrap();
    device.retrieve_session("a").unwrap().finish().unwrap();
    drop(device);
    let mut luod = luod.next_kernel();
    assert_eq!(luod.states(), [("a".to_owned(), SessionState::Finished)]);
    assert!(luod.list()[0].error.as_deref().unwrap().contains("lost"));
    assert_eq!(luod.machine.phase(), Phase::Idle);
}

/// Sessions in the store of which the registry does not know.
#[test]
fn the_store_has_more() {
    let world = FakeWorld::with_own_clock();
    world.state().store = Some(BTreeMap::new());
    let mut keeper = world.clone();
    let session = world.kernel.open().unwrap().create_session("old").unwrap();
    keeper.keep("old", session.as_fd());
    drop(session);
    world.boot();
    let session = world
        .kernel
        .open()
        .unwrap()
        .create_session("stray")
        .unwrap();
    keeper.keep("stray", session.as_fd());
    drop(session);
    let mut luod = Luod::on(world);
    assert_eq!(luod.states(), [("old".to_owned(), SessionState::Unclaimed)]);
    assert!(luod.world.kernel.outgoing().is_empty());
    let operator = luod.connect();
    luod.send(operator, r#"{"cmd":"DISCARD","session":"old"}"#);
    assert!(matches!(luod.next(operator).0, Event::Ok { .. }));
    assert_eq!(luod.machine.phase(), Phase::Idle);
}

/// What an update left is still there if the one after it fails.
#[test]
fn unfinished_sessions_survive_an_abort() {
    let mut luod = updated(&["a"]);
    luod.subscriber("b");
    luod.update(r#","force":true"#);
    let operator = luod.connect();
    luod.send(operator, r#"{"cmd":"ABORT"}"#);
    assert_eq!(luod.machine.phase(), Phase::Restoring);
    luod.restore("a");
}
