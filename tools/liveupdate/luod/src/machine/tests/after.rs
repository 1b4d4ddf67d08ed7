// SPDX-License-Identifier: GPL-2.0

//! Behaviour after the next kernel has started.

use super::*;

/// A luod after an update with these sessions.
pub(super) fn updated(names: &[&str]) -> Luod {
    update_on(Luod::new(), names)
}

/// The same, with or without a service manager that keeps sessions and starts the next kernel.
fn updated_with(with_store: bool, names: &[&str]) -> Luod {
    let luod = Luod::new();
    luod.world.state().store = with_store.then(BTreeMap::new);
    luod.world.state().by_manager = with_store;
    update_on(luod, names)
}

impl Luod {
    /// A client that claims a session.
    #[track_caller]
    pub(super) fn claim(&mut self, name: &str) -> (ConnId, IncomingSession) {
        let conn = self.connect();
        self.send(conn, &format!(r#"{{"cmd":"CLAIM","id":"{name}"}}"#));
        let session = self.claimed(conn, name);
        (conn, session)
    }
}

pub(super) fn update_on(mut luod: Luod, names: &[&str]) -> Luod {
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

/// luod is restarted when all sessions are finished.
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
        assert_eq!(marks, MarkName::KNOWN);
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
    // The same client claims it again.
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

/// A client does not close a cancelled session, and does not subscribe again.
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
    luod.update(r#","expect":0"#);
    assert_eq!(luod.world.kernel.incoming(), ["a", "luod-internal"]);
    drop(held);
    let luod = luod.next_kernel();
    assert!(luod.world.kernel.incoming().is_empty());
}

/// luod is killed in the new kernel, at each point.
#[test]
fn killed_while_sessions_are_claimed() {
    for with_store in [false, true] {
        let mut luod = updated_with(with_store, &["a", "b", "c"]);
        luod.restore("a");
        let (_, held) = luod.claim("b");
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

/// A client finishes its session while luod does not run.
#[test]
fn finished_behind_our_back() {
    let mut luod = updated(&["a"]);
    let (_, session) = luod.claim("a");
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
fn a_session_is_missing() {
    let mut luod = Luod::new();
    luod.world.state().by_manager = true;
    let a = luod.subscriber("a");
    luod.update("");
    let session = luod.preserve(a, "a");
    // Another process has retrieved it in between.
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

/// Sessions in the store that are not in the registry.
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

/// Sessions of an update still exist if the next update fails.
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

/// A session that its client has finished without telling luod is not given to the next client.
#[test]
fn a_client_finishes_and_dies() {
    for with_store in [false, true] {
        let mut luod = updated_with(with_store, &["a", "b"]);
        let (a, session) = luod.claim("a");
        session.finish().unwrap();
        luod.leave(a);
        assert_eq!(luod.states()[0].1, SessionState::Finished);
        let again = luod.connect();
        let code = luod.error(again, r#"{"cmd":"CLAIM","id":"a"}"#);
        assert_eq!(code, ErrorCode::NoSession);
        luod.restore("b");
        assert_eq!(luod.machine.phase(), Phase::Idle);
        assert!(luod.world.stored().is_empty());
    }
}

/// The same, if the kernel cannot be asked at that time.
#[test]
fn a_client_finishes_and_dies_while_the_device_is_busy() {
    let mut luod = updated(&["a"]);
    let (a, session) = luod.claim("a");
    session.finish().unwrap();
    let device = luod.world.kernel.open().unwrap();
    luod.leave(a);
    let again = luod.connect();
    let code = luod.error(again, r#"{"cmd":"CLAIM","id":"a"}"#);
    assert_eq!(code, ErrorCode::DeviceBusy);
    luod.pass(ms(1000));
    assert_eq!(luod.states()[0].1, SessionState::Unclaimed);
    drop(device);
    let wait = luod.machine.next_tick().expect("luod does not ask again");
    luod.pass(wait);
    assert_eq!(luod.states()[0].1, SessionState::Finished);
    assert_eq!(luod.machine.phase(), Phase::Idle);
}

/// luod is killed while a client restores; the client finishes, and reports it to the next
/// luod.
#[test]
fn finished_is_said_again() {
    for with_store in [false, true] {
        let mut luod = updated_with(with_store, &["a", "b"]);
        let (_, session) = luod.claim("a");
        let mut luod = luod.next_kernel();
        let a = luod.connect();
        // The session is not finished yet.
        let code = luod.error(a, r#"{"cmd":"FINISHED","id":"a"}"#);
        assert_eq!(code, ErrorCode::WrongState);
        session.finish().unwrap();
        // Another client cannot report it.
        let other = luod.connect_as(1000);
        let code = luod.error(other, r#"{"cmd":"FINISHED","id":"a"}"#);
        assert_eq!(code, ErrorCode::WrongState);
        luod.send(a, r#"{"cmd":"FINISHED","id":"a"}"#);
        luod.nothing(a);
        assert_eq!(luod.states()[0].1, SessionState::Finished);
        luod.restore("b");
        assert_eq!(luod.machine.phase(), Phase::Idle);
    }
}

/// No client reports it: luod asks the kernel.
#[test]
fn finished_while_luod_was_not_there() {
    for with_store in [false, true] {
        let mut luod = updated_with(with_store, &["a"]);
        let (_, session) = luod.claim("a");
        if with_store {
            session.finish().unwrap();
            luod = luod.next_kernel();
        } else {
            luod = luod.next_kernel();
            assert_eq!(luod.states()[0].1, SessionState::Elsewhere);
            session.finish().unwrap();
            let wait = luod.machine.next_tick().expect("luod does not ask");
            luod.pass(wait);
        }
        assert_eq!(luod.states()[0].1, SessionState::Finished);
        assert_eq!(luod.machine.phase(), Phase::Idle);
        assert!(luod.world.stored().is_empty());
    }
}

/// A session of one user cannot be claimed by another user, independent of the configuration.
#[test]
fn claimed_by_another_user() {
    let mut luod = Luod::new();
    let vm = luod.connect_as(1000);
    luod.send(vm, r#"{"cmd":"SUBSCRIBE","id":"vm-1"}"#);
    luod.update("");
    drop(luod.preserve(vm, "vm-1"));
    let mut luod = luod.next_kernel();
    let mut config = luod.machine.config().clone();
    config.rules.push(Rule {
        uid: Some(1001),
        gid: None,
        sessions: vec!["vm-*".into()],
        memlock: None,
        max_sessions: None,
    });
    luod.machine.reconfigure(config);
    let other = luod.connect_as(1001);
    for line in [
        r#"{"cmd":"CLAIM","id":"vm-1"}"#,
        r#"{"cmd":"FINISHED","id":"vm-1"}"#,
    ] {
        let code = luod.error(other, line);
        assert!(matches!(
            code,
            ErrorCode::NotAllowed | ErrorCode::WrongState
        ));
    }
    assert_eq!(luod.states()[0].1, SessionState::Unclaimed);
    let own = luod.connect_as(1000);
    luod.send(own, r#"{"cmd":"CLAIM","id":"vm-1"}"#);
    drop(luod.claimed(own, "vm-1"));
    luod.leave(own);
    // Operators may claim all sessions.
    luod.restore("vm-1");
}

/// A discarded session is not shown as finished.
#[test]
fn discarded_is_not_finished() {
    let mut luod = updated(&["a", "b", "c"]);
    luod.restore("a");
    let operator = luod.connect();
    luod.send(operator, r#"{"cmd":"DISCARD","session":"b"}"#);
    luod.inboxes.remove(&operator);
    let states: Vec<_> = luod.states().into_iter().map(|(_, state)| state).collect();
    assert_eq!(
        states,
        [
            SessionState::Finished,
            SessionState::Discarded,
            SessionState::Unclaimed
        ]
    );
    luod.restore("c");
    luod.send(operator, r#"{"cmd":"REPORT"}"#);
    let (Event::Report(report), _) = luod.next(operator) else {
        panic!("no report");
    };
    let b = &report.sessions[1];
    assert_eq!(b.state, SessionState::Discarded);
    let error = b.error.as_deref().unwrap();
    assert!(error.contains("user 0, process 100"), "{error}");
    assert_eq!(report.sessions[0].state, SessionState::Finished);
    assert_eq!(report.sessions[0].error, None);
}
