// SPDX-License-Identifier: GPL-2.0

//! Behaviour until the next kernel starts.

use super::*;
use crate::config::Memlock;
use luod_protocol::VERSION;
use rustix::io::Errno;

#[test]
fn hello() {
    let mut luod = Luod::new();
    let conn = luod.connect();
    luod.send(
        conn,
        r#"{"seq":1,"cmd":"HELLO","version":7,"client":"a\u001bb"}"#,
    );
    assert!(matches!(
        luod.next(conn).0,
        Event::Hello {
            version: VERSION,
            phase: Phase::Idle,
            ..
        }
    ));
    luod.send(conn, r#"{"seq":2,"cmd":"SUBSCRIBE","id":"x"}"#);
    assert!(matches!(luod.next(conn).0, Event::Ok { id: Some(_), .. }));
    assert_eq!(luod.list()[0].client.as_deref(), Some("a b"));
    let again = luod.error(conn, r#"{"cmd":"HELLO","version":1}"#);
    assert_eq!(again, ErrorCode::BadHello);
    let conn = luod.connect();
    let zero = luod.error(conn, r#"{"cmd":"HELLO","version":0}"#);
    assert_eq!(zero, ErrorCode::BadHello);
}

/// The limit for locked memory is removed for clients for which that is configured, when they
/// subscribe.
#[test]
fn limit_for_locked_memory() {
    let mut luod = Luod::new();
    let root = luod.connect();
    luod.send(root, r#"{"cmd":"SUBSCRIBE","id":"vm-root"}"#);
    let vm = luod.connect_as(1000);
    luod.send(vm, r#"{"cmd":"SUBSCRIBE","id":"cache"}"#);
    assert!(luod.world.state().limited.is_empty());
    luod.send(vm, r#"{"cmd":"SUBSCRIBE","id":"vm-1"}"#);
    assert_eq!(luod.world.state().limited, [(100, Memlock::Unlimited)]);
}

#[test]
fn who_may_do_what() {
    let mut luod = Luod::new();
    let nobody = luod.connect_as(7);
    assert!(matches!(
        luod.next(nobody).0,
        Event::Error {
            code: ErrorCode::NotAllowed,
            ..
        }
    ));
    assert_eq!(luod.closed, [nobody]);
    let vm = luod.connect_as(1000);
    for line in [
        r#"{"cmd":"SUBSCRIBE","id":"cache"}"#,
        r#"{"cmd":"CLAIM","id":"cache"}"#,
        r#"{"cmd":"STATUS"}"#,
        r#"{"cmd":"LIST"}"#,
        r#"{"cmd":"UPDATE"}"#,
        r#"{"cmd":"HANDOVER"}"#,
        r#"{"cmd":"ABORT"}"#,
        r#"{"cmd":"FINISH","session":"vm-1"}"#,
        r#"{"cmd":"DISCARD","session":"vm-1"}"#,
        r#"{"cmd":"REPORT"}"#,
        r#"{"cmd":"WATCH"}"#,
    ] {
        assert_eq!(luod.error(vm, line), ErrorCode::NotAllowed, "{line}");
    }
    luod.send(vm, r#"{"cmd":"SUBSCRIBE","id":"vm-1"}"#);
    luod.nothing(vm);
}

#[test]
fn requests_that_do_not_fit() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    let b = luod.connect();
    for (line, code) in [
        (r#"{"cmd":"READY"}"#, ErrorCode::WrongState),
        (r#"{"cmd":"READY","id":"a"}"#, ErrorCode::NoSession),
        (r#"{"cmd":"REFUSE"}"#, ErrorCode::WrongState),
        (r#"{"cmd":"PROGRESS","id":"a"}"#, ErrorCode::NoSession),
        (r#"{"cmd":"SUBSCRIBE","id":"a"}"#, ErrorCode::InUse),
        (r#"{"cmd":"UNSUBSCRIBE","id":"a"}"#, ErrorCode::NoSession),
        (r#"{"cmd":"CLAIM","id":"a"}"#, ErrorCode::NoSession),
        (r#"{"cmd":"FINISHED","id":"a"}"#, ErrorCode::NoSession),
        (r#"{"cmd":"FINISH","session":"a"}"#, ErrorCode::NoSession),
        (r#"{"cmd":"DISCARD","session":"a"}"#, ErrorCode::NoSession),
        (r#"{"cmd":"ABORT"}"#, ErrorCode::NoUpdate),
        (r#"{"cmd":"REPORT"}"#, ErrorCode::NoUpdate),
    ] {
        assert_eq!(luod.error(b, line), code, "{line}");
    }
    let ready = luod.error(a, r#"{"cmd":"READY","id":"a"}"#);
    assert_eq!(ready, ErrorCode::WrongState);
    luod.machine.request(b, Message::from(Request::Status), 2);
    luod.pump();
    assert!(matches!(
        luod.next(b).0,
        Event::Error {
            code: ErrorCode::UnexpectedFds,
            ..
        }
    ));
    luod.send(a, r#"{"cmd":"UNSUBSCRIBE","id":"a"}"#);
    luod.send(b, r#"{"cmd":"SUBSCRIBE","id":"a"}"#);
    luod.nothing(b);
}

#[test]
fn there_are_limits() {
    let mut luod = Luod::new();
    luod.machine.config.max_sessions_per_connection = 2;
    luod.machine.config.max_sessions = 3;
    let a = luod.subscriber("1");
    luod.send(a, r#"{"cmd":"SUBSCRIBE","id":"2"}"#);
    luod.send(a, r#"{"cmd":"SUBSCRIBE","id":"2"}"#);
    let third = luod.error(a, r#"{"cmd":"SUBSCRIBE","id":"3"}"#);
    assert_eq!(third, ErrorCode::TooMany);
    let b = luod.subscriber("3");
    let fourth = luod.error(b, r#"{"cmd":"SUBSCRIBE","id":"4"}"#);
    assert_eq!(fourth, ErrorCode::TooMany);
    luod.leave(a);
    luod.send(b, r#"{"cmd":"SUBSCRIBE","id":"4"}"#);
    luod.nothing(b);
}

#[test]
fn a_good_update_from_within() {
    let mut luod = Luod::new();
    luod.world.state().by_manager = true;
    let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
    let operator = luod.update("");
    assert_eq!(luod.machine.phase(), Phase::Preserving);
    assert!(luod.world.state().status.contains("preserving"));
    luod.world.pass(ms(30));
    let first = luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 0);
    let states = luod.states();
    assert_eq!(states[0].1, SessionState::Ready);
    assert_eq!(states[1].1, SessionState::Preserving);
    // A client that is ready can disconnect.
    drop(first);
    luod.leave(a);
    luod.send(b, r#"{"cmd":"PROGRESS","done":1,"total":2,"text":"half"}"#);
    luod.preserve(b, "b");
    assert!(matches!(luod.next(b).0, Event::Frozen { .. }));
    assert_eq!(luod.world.state().kexecs, 1);
    assert_eq!(luod.machine.phase(), Phase::Jump);
    let mut phases = Vec::new();
    let mut half = false;
    while let Some((event, _)) = luod.try_next(operator) {
        match event {
            Event::Phase { phase, .. } => phases.push(phase),
            Event::Change { info } => {
                half |= info
                    .progress
                    .is_some_and(|p| p.text.as_deref() == Some("half"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(phases, [Phase::Preserving, Phase::Frozen, Phase::Jump]);
    assert!(half);
}

#[test]
fn an_update_of_nobody() {
    let mut luod = Luod::new();
    luod.update(r#","expect":0"#);
    assert_eq!(luod.world.state().kexecs, 1);
    assert_eq!(luod.world.kernel.incoming(), ["luod-internal"]);
    let luod = luod.next_kernel();
    assert_eq!(luod.machine.phase(), Phase::Idle);
    assert!(luod.world.kernel.incoming().is_empty());
}

#[test]
fn two_sessions_of_one_client() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a1");
    luod.send(a, r#"{"cmd":"SUBSCRIBE","id":"a2"}"#);
    luod.update("");
    for _ in 0..2 {
        let (event, _) = luod.next(a);
        assert!(matches!(event, Event::PreservationRequest { .. }));
    }
    let fds = [luod.next(a).1.unwrap(), luod.next(a).1.unwrap()];
    luod.send(a, r#"{"cmd":"READY"}"#);
    drop(fds);
    assert_eq!(luod.world.state().kexecs, 1);
}

/// A client with a timeout, one without, and the timeout of the operator.
#[test]
fn deadlines() {
    for (options, wish, limit) in [
        ("", "", 30_000),
        (r#","timeout_ms":5000"#, "", 5000),
        (r#","timeout_ms":5000"#, r#","timeout_ms":7000"#, 7000),
        ("", r#","timeout_ms":999999999"#, 600_000),
    ] {
        let mut luod = Luod::new();
        let a = luod.connect();
        luod.send(a, &format!(r#"{{"cmd":"SUBSCRIBE","id":"a"{wish}}}"#));
        let operator = luod.update(options);
        let (event, _) = luod.next(a);
        assert!(
            matches!(event, Event::PreservationRequest { deadline_ms, .. } if deadline_ms == limit)
        );
        let session = luod.next(a).1.unwrap();
        assert_eq!(luod.machine.next_tick(), Some(ms(limit)));
        luod.pass(ms(limit - 1));
        assert_eq!(luod.machine.phase(), Phase::Preserving);
        luod.pass(ms(1));
        luod.cancelled(a, "not ready in time");
        let report = luod.result(operator);
        assert_eq!(report.outcome, Outcome::Aborted);
        assert!(report.reason.unwrap().contains("session a"));
        drop(session);
        luod.is_as_before();
        assert_eq!(luod.machine.next_tick(), None);
    }
}

/// All reasons for which an update fails, with one client that is ready and one that is not.
#[test]
fn every_abort() {
    type Cause = fn(&mut Luod, ConnId, ConnId);
    let causes: [(&str, Cause); 8] = [
        ("not ready in time", |luod, _, _| luod.pass(ms(30_000))),
        ("the client refuses: no", |luod, _, b| {
            luod.send(b, r#"{"cmd":"REFUSE","reason":"no"}"#);
        }),
        ("the client refuses", |luod, a, _| {
            luod.send(a, r#"{"cmd":"REFUSE","id":"a"}"#);
        }),
        ("closed the connection", |luod, _, b| luod.leave(b)),
        ("operator", |luod, _, _| {
            let operator = luod.connect();
            luod.send(operator, r#"{"cmd":"ABORT"}"#);
            assert!(matches!(luod.next(operator).0, Event::Ok { .. }));
        }),
        ("being stopped", |luod, _, _| {
            luod.machine.stop();
            luod.pump();
        }),
        ("cannot start the next kernel", |luod, _, b| {
            luod.world.state().kexec_error = Some(Errno::NOMEM.raw_os_error());
            luod.send(b, r#"{"cmd":"READY"}"#);
        }),
        ("no kernel is loaded", |luod, _, b| {
            luod.world.state().image_loaded = Some(false);
            luod.send(b, r#"{"cmd":"READY"}"#);
        }),
    ];
    for with_store in [false, true] {
        for (what, cause) in causes {
            let mut luod = Luod::new();
            luod.world.state().store = with_store.then(BTreeMap::new);
            let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
            let operator = luod.update("");
            let sessions = (luod.preserve(a, "a"), luod.session(b, "b"));
            cause(&mut luod, a, b);
            if let Some(inbox) = luod.inboxes.get_mut(&a) {
                inbox.retain(|(m, _)| !matches!(m.body, Event::Frozen { .. }));
            }
            luod.cancelled(a, what);
            let report = luod.result(operator);
            assert_eq!(report.outcome, Outcome::Aborted);
            assert_eq!(report.sessions.len(), 2);
            drop(sessions);
            luod.is_as_before();

            // The next update works with the remaining clients.
            luod.world.state().kexec_error = None;
            luod.world.state().image_loaded = Some(true);
            luod.inboxes.clear();
            luod.update("");
            let mut sessions = vec![luod.preserve(a, "a")];
            if luod.inboxes.contains_key(&b) {
                sessions.push(luod.preserve(b, "b"));
            }
            assert_eq!(luod.world.state().kexecs, 1, "{what}");
        }
    }
}

/// luod has cancelled an update, and started the next one, before it receives the refusal.
#[test]
fn a_late_refusal() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.update("");
    let session = luod.session(a, "a");
    luod.pass(ms(30_000));
    luod.cancelled(a, "not ready in time");
    luod.update("");
    drop(session);
    luod.pass(ms(1_000));
    let session = luod.session(a, "a");
    let refuse = |update: u64| format!(r#"{{"cmd":"REFUSE","id":"a","update":{update}}}"#);
    assert_eq!(luod.error(a, &refuse(1)), ErrorCode::WrongState);
    luod.nothing(a);
    luod.send(a, &refuse(2));
    luod.cancelled(a, "the client refuses");
    drop(session);
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut luod = Luod::new();
    luod.world.state().image_loaded = Some(false);
    let a = luod.subscriber("a");
    let operator = luod.update(r#","dry_run":true"#);
    let session = luod.preserve(a, "a");
    luod.cancelled(a, "dry run");
    let report = luod.result(operator);
    assert_eq!(report.outcome, Outcome::DryRun);
    assert_eq!(report.sessions[0].state, SessionState::Ready);
    drop(session);
    luod.is_as_before();
    luod.world.state().image_loaded = Some(true);
    luod.update("");
    luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 1);
}

#[test]
fn refused_at_once() {
    let mut luod = Luod::new();
    luod.world.state().image_loaded = Some(false);
    let operator = luod.connect();
    let code = luod.error(operator, r#"{"cmd":"UPDATE"}"#);
    assert_eq!(code, ErrorCode::NotLoaded);
    luod.world.state().image_loaded = None;
    luod.subscriber("a");
    luod.update("");
    let code = luod.error(operator, r#"{"cmd":"UPDATE"}"#);
    assert_eq!(code, ErrorCode::UpdateRunning);
}

/// systemd opens the device from time to time.
#[test]
fn the_device_is_busy_for_a_while() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    let device = luod.world.kernel.open().unwrap();
    luod.update("");
    luod.pass(ms(1000));
    assert!(luod.machine.next_tick().unwrap() <= ms(50));
    drop(device);
    luod.pass(ms(50));
    luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 1);
}

#[test]
fn the_device_is_busy_for_too_long() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    let _device = luod.world.kernel.open().unwrap();
    let operator = luod.update("");
    for _ in 0..100 {
        luod.pass(ms(50));
    }
    luod.cancelled(a, "busy");
    luod.result(operator);
    assert_eq!(luod.machine.phase(), Phase::Idle);
}

#[test]
fn there_is_no_device() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.world.kernel.break_device(Some(2));
    luod.update("");
    luod.cancelled(a, "No such file");
    assert_eq!(luod.machine.phase(), Phase::Idle);
}

/// A client that is slow to close the session of an aborted update.
#[test]
fn the_last_session_is_still_open() {
    let mut luod = Luod::new();
    let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
    luod.update("");
    let old = luod.preserve(a, "a");
    luod.send(b, r#"{"cmd":"REFUSE"}"#);
    luod.cancelled(a, "refuses");
    luod.inboxes.clear();
    luod.update("");
    luod.pass(ms(50));
    assert_eq!(luod.inboxes[&a].len(), 1);
    drop(old);
    luod.pass(ms(50));
    luod.preserve(a, "a");
    luod.preserve(b, "b");
    assert_eq!(luod.world.state().kexecs, 1);
}

#[test]
fn a_late_client_takes_part() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.update("");
    let late = luod.connect();
    luod.send(late, r#"{"cmd":"SUBSCRIBE","id":"late"}"#);
    luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 0);
    luod.preserve(late, "late");
    assert_eq!(luod.world.kernel.incoming(), ["a", "late", "luod-internal"]);
}

#[test]
fn too_late_for_everything() {
    let mut luod = Luod::new();
    luod.world.state().by_manager = true;
    let a = luod.subscriber("a");
    luod.update("");
    luod.preserve(a, "a");
    assert_eq!(luod.machine.phase(), Phase::Jump);
    let refuse = luod.error(a, r#"{"cmd":"REFUSE"}"#);
    assert_eq!(refuse, ErrorCode::WrongState);
    let unsubscribe = luod.error(a, r#"{"cmd":"UNSUBSCRIBE","id":"a"}"#);
    assert_eq!(unsubscribe, ErrorCode::UpdateRunning);
    let late = luod.connect();
    let subscribe = luod.error(late, r#"{"cmd":"SUBSCRIBE","id":"b"}"#);
    assert_eq!(subscribe, ErrorCode::UpdateRunning);
    let abort = luod.error(late, r#"{"cmd":"ABORT"}"#);
    assert_eq!(abort, ErrorCode::WrongState);
    assert!(!luod.world.kernel.outgoing().is_empty());
    // luod is expected to be stopped now: nothing is aborted.
    luod.machine.stop();
    assert_eq!(luod.machine.phase(), Phase::Jump);
}

#[test]
fn the_service_manager_does_not_jump() {
    let mut luod = Luod::new();
    luod.world.state().by_manager = true;
    let a = luod.subscriber("a");
    let operator = luod.update("");
    luod.preserve(a, "a");
    luod.inboxes.remove(&a);
    luod.pass(ms(299_999));
    assert_eq!(luod.machine.phase(), Phase::Jump);
    luod.pass(ms(1));
    luod.cancelled(a, "in time");
    assert_eq!(luod.result(operator).outcome, Outcome::Aborted);
    assert_eq!(luod.machine.phase(), Phase::Idle);
    assert!(luod.world.kernel.outgoing().is_empty());
}

#[test]
fn force_goes_on_without() {
    let mut luod = Luod::new();
    let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
    let (c, d) = (luod.subscriber("c"), luod.subscriber("d"));
    luod.update(r#","force":true"#);
    luod.send(b, r#"{"cmd":"REFUSE"}"#);
    luod.cancelled(b, "refuses");
    luod.leave(c);
    luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 0);
    luod.pass(ms(30_000));
    luod.cancelled(d, "in time");
    assert_eq!(luod.world.state().kexecs, 1);
    // Some clients still have their sessions open, so that the kernel hands them over.
    assert!(luod.world.kernel.incoming().contains(&"d".to_owned()));
    let mut luod = luod.next_kernel();
    assert_eq!(luod.world.kernel.incoming(), ["a", "luod-internal"]);
    assert_eq!(luod.states(), [("a".to_owned(), SessionState::Unclaimed)]);
}

#[test]
fn the_operator_leaves() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    let operator = luod.update("");
    luod.leave(operator);
    luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 1);
}

#[test]
fn watchers_see_everything_once() {
    let mut luod = Luod::new();
    let watcher = luod.connect();
    luod.send(watcher, r#"{"seq":4,"cmd":"WATCH"}"#);
    assert!(matches!(luod.next(watcher).0, Event::Status(_)));
    assert!(matches!(luod.next(watcher).0, Event::List { .. }));
    luod.send(watcher, r#"{"cmd":"UPDATE","dry_run":true,"expect":0}"#);
    let mut seen = Vec::new();
    while let Some((event, _)) = luod.try_next(watcher) {
        seen.push(match event {
            Event::Ok { .. } => "ok".to_owned(),
            Event::Phase { phase, .. } => phase.to_string(),
            Event::Result(_) => "result".to_owned(),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["ok", "preserving", "result", "idle"]);
    let a = luod.subscriber("a");
    assert!(matches!(luod.next(watcher).0, Event::Change { .. }));
    luod.leave(a);
    assert!(matches!(luod.next(watcher).0, Event::Gone { .. }));
}

/// The device is not open while it is not used.
#[test]
fn the_device_is_left_alone() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.world.kernel.open().unwrap();
    luod.update("");
    let session = luod.session(a, "a");
    luod.world.kernel.open().unwrap();
    let flags = rustix::io::fcntl_getfd(session.as_fd()).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

/// luod is killed during an update, with and without a store.
#[test]
fn killed_in_an_update() {
    for with_store in [false, true] {
        for ready in [false, true] {
            let mut luod = Luod::new();
            luod.world.state().store = with_store.then(BTreeMap::new);
            luod.world.state().by_manager = true;
            let a = luod.subscriber("a");
            luod.update("");
            let session = if ready {
                luod.preserve(a, "a")
            } else {
                luod.session(a, "a")
            };
            luod.world.state().kexecs = 0;
            let world = luod.world.clone();
            drop((luod, session));
            let kept = if with_store { 2 } else { 0 };
            assert_eq!(world.kernel.outgoing().len(), kept);
            Luod::on(world).is_as_before();
        }
    }
}

/// A timeout of 0 is the default timeout: a deadline of 0 would make every update fail.
#[test]
fn no_time_at_all() {
    let mut luod = Luod::new();
    let a = luod.connect();
    luod.send(a, r#"{"cmd":"SUBSCRIBE","id":"a","timeout_ms":0}"#);
    luod.update(r#","timeout_ms":0"#);
    luod.pass(ms(1_000));
    luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 1);
}
