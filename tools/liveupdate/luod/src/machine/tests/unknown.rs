// SPDX-License-Identifier: GPL-2.0

//! The answers of luod while it cannot read the sessions of the previous kernel.

use super::{after::update_on, *};
use crate::registry;
use rustix::io::Errno;

/// Checks the answers to all requests.
#[track_caller]
fn is_unknown(luod: &mut Luod, part: &str) {
    assert_eq!(luod.machine.phase(), Phase::Unknown);
    let status = luod.machine.status();
    assert_eq!(status.phase, Phase::Unknown);
    let problem = status.problem.unwrap();
    assert!(problem.contains(part), "{problem}");
    let conn = luod.connect();
    for (line, code) in [
        (r#"{"cmd":"CLAIM","id":"a"}"#, ErrorCode::TryAgain),
        (r#"{"cmd":"FINISHED","id":"a"}"#, ErrorCode::TryAgain),
        (r#"{"cmd":"DISCARD","session":"a"}"#, ErrorCode::TryAgain),
        (r#"{"cmd":"UPDATE"}"#, ErrorCode::TryAgain),
        (r#"{"cmd":"UPDATE","force":true}"#, ErrorCode::TryAgain),
        (r#"{"cmd":"UPDATE","dry_run":true}"#, ErrorCode::TryAgain),
    ] {
        assert_eq!(luod.error(conn, line), code, "{line}");
    }
    luod.leave(conn);
}

/// Waits until luod has tried again.
#[track_caller]
fn look_again(luod: &mut Luod) {
    let wait = luod.machine.next_tick().expect("luod does not try again");
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(5));
    luod.pass(wait);
}

/// A machine after an update with these sessions, on which luod is not started yet.
fn updated_world(names: &[&str]) -> FakeWorld {
    let luod = update_on(Luod::new(), names);
    luod.world.clone()
}

#[test]
fn the_device_is_busy_for_long() {
    let world = updated_world(&["a"]);
    let device = world.kernel.open().unwrap();
    let mut luod = Luod::on(world);
    // luod serves requests without waiting.
    assert_eq!(luod.world.now().monotonic_us, 0);
    for _ in 0..20 {
        is_unknown(&mut luod, "busy");
        luod.pass(Duration::from_secs(60));
    }
    drop(device);
    look_again(&mut luod);
    assert_eq!(luod.machine.phase(), Phase::Restoring);
    assert_eq!(luod.machine.status().problem, None);
    luod.restore("a");
    assert_eq!(luod.machine.phase(), Phase::Idle);
}

#[test]
fn errors_of_the_device() {
    for errno in [Errno::IO, Errno::NOMEM, Errno::ACCESS, Errno::MFILE] {
        let world = updated_world(&["a"]);
        world.kernel.break_device(Some(errno.raw_os_error()));
        let mut luod = Luod::on(world);
        is_unknown(&mut luod, "cannot be found");
        // Everything else works.
        luod.subscriber("b");
        look_again(&mut luod);
        is_unknown(&mut luod, "cannot be found");
        luod.world.kernel.break_device(None);
        look_again(&mut luod);
        luod.restore("a");
    }
}

#[test]
fn there_is_no_device() {
    let world = FakeWorld::with_own_clock();
    world.kernel.break_device(Some(Errno::NOENT.raw_os_error()));
    let mut luod = Luod::on(world);
    assert_eq!(luod.machine.phase(), Phase::Idle);
    let problem = luod.machine.status().problem.unwrap();
    assert!(problem.contains("liveupdate=on"), "{problem}");
    let conn = luod.connect();
    let code = luod.error(conn, r#"{"cmd":"CLAIM","id":"a"}"#);
    assert_eq!(code, ErrorCode::NoSession);
}

/// The service manager has the registry but not the sessions, and the device is busy: luod waits
/// once for all of them.
#[test]
fn many_sessions_and_a_busy_device() {
    let names: Vec<String> = (0..50).map(|n| format!("a{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = updated_world(&names);
    world.state().store = Some(BTreeMap::new());
    let device = world.kernel.open().unwrap();
    let session = device.retrieve_session(registry::SESSION).unwrap();
    world.clone().keep(registry::SESSION, session.as_fd());
    drop(session);
    let mut luod = Luod::on(world);
    is_unknown(&mut luod, "busy");
    assert!(luod.list().is_empty());
    drop(device);
    look_again(&mut luod);
    assert_eq!(luod.list().len(), 50);
    luod.restore("a7");
}

pub(super) fn write_registry(world: &FakeWorld, text: &str) {
    let device = world.kernel.open().unwrap();
    let session = device.create_session(registry::SESSION).unwrap();
    let file = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&file, text.as_bytes()).unwrap();
    session.preserve(&file, registry::TOKEN).unwrap();
    let lost = device.create_session("a").unwrap();
    world.kernel.kexec();
    drop((session, lost));
}

#[test]
fn a_registry_that_makes_no_sense() {
    for text in [
        "",
        "{\"version\":99",
        "{}",
        "null",
        r#"{"version":99}"#,
        r#"{"version":1,"min_reader":2,"boot_id":"","kernel":"","update":1,"marks":[],"sessions":[]}"#,
    ] {
        let world = FakeWorld::with_own_clock();
        write_registry(&world, text);
        let mut luod = Luod::on(world);
        is_unknown(&mut luod, "cannot be read");
        look_again(&mut luod);
        is_unknown(&mut luod, "cannot be read");
        // The registry is kept.
        assert_eq!(luod.world.kernel.incoming(), ["a", registry::SESSION]);
        // It is kept until an operator gives it up.
        let operator = luod.connect();
        luod.send(operator, r#"{"cmd":"FORGET"}"#);
        assert!(matches!(luod.next(operator).0, Event::Ok { .. }));
        assert_eq!(luod.machine.phase(), Phase::Idle);
        assert_eq!(luod.world.kernel.incoming(), ["a"]);
        let code = luod.error(operator, r#"{"cmd":"FORGET"}"#);
        assert_eq!(code, ErrorCode::WrongState);
        let b = luod.subscriber("b");
        luod.update("");
        drop(luod.preserve(b, "b"));
        assert_eq!(luod.world.state().kexecs, 1);
    }
}

/// A registry of a newer luod that permits older versions to read it.
#[test]
fn a_registry_of_a_newer_luod() {
    let world = FakeWorld::with_own_clock();
    let text = r#"{"version":7,"min_reader":1,"boot_id":"x","kernel":"8.0","update":41,"weather":"fine",
        "marks":[{"name":"requested","stamp":{"realtime_us":1,"monotonic_us":1}},
                 {"name":"thawed","stamp":{"realtime_us":2,"monotonic_us":2},"why":"spring"},
                 {"name":"odd"},
                 {"name":"jump","stamp":{"realtime_us":3,"monotonic_us":3}}],
        "sessions":[{"name":"a","ready":{"realtime_us":1,"monotonic_us":1},"preserve_us":1,"colour":"blue"}],
        "lost":[{"name":"x","error":"melted"},{"what":"ever"}]}"#;
    write_registry(&world, text);
    let mut luod = Luod::on(world);
    assert_eq!(luod.states(), [("a".to_owned(), SessionState::Unclaimed)]);
    assert_eq!(luod.machine.status().update, 41);
    let operator = luod.connect();
    luod.send(operator, r#"{"cmd":"REPORT"}"#);
    let (Event::Report(report), _) = luod.next(operator) else {
        panic!("no report");
    };
    let marks: Vec<String> = report.marks.iter().map(|m| m.name.to_string()).collect();
    assert_eq!(marks[..4], ["requested", "thawed", "jump", "boot"]);
    assert_eq!(report.marks[1].offset_us, Some(1));
    assert_eq!(report.sessions.len(), 2);
    luod.send(operator, r#"{"cmd":"CLAIM","id":"a"}"#);
    luod.claimed(operator, "a").finish().unwrap();
    luod.send(operator, r#"{"cmd":"FINISHED","id":"a"}"#);
    // The mark is kept for the next luod, and in its report.
    let mut luod = luod.next_kernel();
    let operator = luod.connect();
    luod.send(operator, r#"{"cmd":"REPORT"}"#);
    let (Event::Report(report), _) = luod.next(operator) else {
        panic!("no report");
    };
    assert_eq!(report.marks[1].name.to_string(), "thawed");
    assert_eq!(luod.machine.status().update, 41);
}

/// The number of the update is kept if the report cannot be read.
#[test]
fn a_memory_of_another_luod() {
    let world = FakeWorld::with_own_clock();
    world.state().remembered =
        Some(r#"{"boot_id":"boot 0","update":12,"report":{"poem":true}}"#.to_owned());
    let luod = Luod::on(world);
    assert_eq!(luod.machine.status().update, 12);
}

/// systemd starts the next kernel: this cannot be aborted, and new sessions are handed over.
#[test]
fn a_handover_while_nothing_is_known() {
    let world = FakeWorld::with_own_clock();
    world.state().store = Some(BTreeMap::new());
    world.state().by_manager = true;
    write_registry(&world, "nonsense");
    let mut luod = Luod::on(world);
    is_unknown(&mut luod, "cannot be read");
    let a = luod.subscriber("a");
    luod.world.state().kexec_under_way = true;
    let operator = luod.connect();
    luod.send(operator, r#"{"cmd":"HANDOVER"}"#);
    drop(luod.preserve(a, "a"));
    assert_eq!(luod.machine.phase(), Phase::Jump);
    // The kernel refuses two sessions of the same name.
    assert!(luod.world.kernel.incoming().is_empty());
    assert_eq!(luod.world.kernel.outgoing().len(), 2);
    luod.world.boot();
    let mut luod = luod.next_kernel();
    luod.restore("a");
}

/// The same, with an unknown session that has the name of a new one: the kernel refuses to create
/// the new one as long as the old one is not open.
#[test]
fn a_handover_with_an_unknown_session_of_the_same_name() {
    let world = FakeWorld::with_own_clock();
    world.state().store = Some(BTreeMap::new());
    world.state().by_manager = true;
    write_registry(&world, "nonsense");
    // The device is busy when luod starts, so that it does not have the registry either.
    let device = world.kernel.open().unwrap();
    let mut luod = Luod::on(world);
    is_unknown(&mut luod, "busy");
    drop(device);
    let a = luod.subscriber("a");
    luod.world.state().kexec_under_way = true;
    let unit = luod.connect();
    luod.send(unit, r#"{"cmd":"HANDOVER"}"#);
    drop(luod.preserve(a, "a"));
    assert_eq!(luod.machine.phase(), Phase::Jump);
    assert!(luod.world.kernel.incoming().is_empty());
    let world = luod.world.clone();
    drop(luod);
    world.boot();
    let mut luod = Luod::on(world);
    assert_eq!(luod.machine.phase(), Phase::Restoring);
    luod.restore("a");
}

/// A session of the previous kernel that is neither in the registry nor in the store has the name
/// of a new one: luod reports it, and an operator can end it.
#[test]
fn a_session_that_nobody_knows() {
    let world = FakeWorld::with_own_clock();
    drop({
        let device = world.kernel.open().unwrap();
        let stray = device.create_session("a").unwrap();
        world.kernel.kexec();
        stray
    });
    let mut luod = Luod::on(world);
    assert_eq!(luod.machine.phase(), Phase::Idle);
    let a = luod.subscriber("a");
    let operator = luod.update("");
    let report = luod.result(operator);
    let reason = report.reason.unwrap();
    assert!(reason.contains("an unfinished session"), "{reason}");
    luod.cancelled(a, "an unfinished session");
    assert_eq!(luod.machine.phase(), Phase::Restoring);
    luod.inboxes.remove(&operator);
    luod.send(operator, r#"{"cmd":"DISCARD","session":"a"}"#);
    assert!(matches!(luod.next(operator).0, Event::Ok { .. }));
    luod.is_as_before();
    luod.update("");
    luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 1);
}

/// Clients of version 1 get only words of that version.
#[test]
fn an_older_client() {
    let world = updated_world(&["a"]);
    let _device = world.kernel.open().unwrap();
    let mut luod = Luod::on(world);
    for (version, expected) in [(1, Phase::Restoring), (2, Phase::Unknown)] {
        let conn = luod.connect();
        luod.send(conn, &format!(r#"{{"cmd":"HELLO","version":{version}}}"#));
        let (Event::Hello { phase, .. }, _) = luod.next(conn) else {
            panic!("no answer");
        };
        assert_eq!(phase, expected);
    }
}

/// Sessions that the service manager has kept are available without the registry, but only to
/// operators until the owner is known.
#[test]
fn the_store_without_the_registry() {
    let luod = Luod::new();
    luod.world.state().store = Some(BTreeMap::new());
    luod.world.state().by_manager = true;
    let luod = update_on(luod, &["vm-1"]);
    let world = luod.world.clone();
    drop(luod);
    world
        .state()
        .store
        .as_mut()
        .unwrap()
        .remove(registry::SESSION);
    let device = world.kernel.open().unwrap();
    let mut luod = Luod::on(world);
    assert_eq!(luod.machine.phase(), Phase::Unknown);
    let vm = luod.connect_as(1000);
    let code = luod.error(vm, r#"{"cmd":"CLAIM","id":"vm-1"}"#);
    assert_eq!(code, ErrorCode::TryAgain);
    drop(device);
    look_again(&mut luod);
    let code = luod.error(vm, r#"{"cmd":"CLAIM","id":"vm-1"}"#);
    assert_eq!(code, ErrorCode::NotAllowed);
    luod.restore("vm-1");
    assert_eq!(luod.machine.phase(), Phase::Idle);
}
