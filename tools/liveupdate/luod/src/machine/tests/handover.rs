// SPDX-License-Identifier: GPL-2.0

//! The service manager starts the next kernel without a request to luod.

use super::*;
use rustix::io::Errno;

/// A luod under a service manager, and a connection that requests handovers.
fn luod_and_unit() -> (Luod, ConnId) {
    let mut luod = Luod::new();
    luod.world.state().store = Some(BTreeMap::new());
    luod.world.state().by_manager = true;
    let unit = luod.connect();
    (luod, unit)
}

impl Luod {
    /// The service manager shuts the machine down, and informs luod.
    fn shut_down(&mut self, unit: ConnId) {
        self.world.state().kexec_under_way = true;
        self.send(unit, r#"{"cmd":"HANDOVER"}"#);
    }

    /// The last phase that luod has sent; other events are skipped.
    fn last_phase(&mut self, unit: ConnId) -> Option<Phase> {
        let mut last = None;
        while let Some((event, _)) = self.try_next(unit) {
            if let Event::Phase { phase, .. } = event {
                last = Some(phase);
            }
        }
        last
    }

    /// The service manager starts the next kernel.
    fn next_kernel_by_manager(mut self) -> Self {
        self.machine.stop();
        self.pump();
        assert_eq!(self.machine.phase(), Phase::Jump);
        assert_eq!(self.world.state().kexecs, 0);
        // luod has ended by then.
        let world = self.world.clone();
        drop(self);
        world.boot();
        Self::on(world)
    }

    fn report(&mut self) -> Report {
        let conn = self.connect();
        self.send(conn, r#"{"cmd":"REPORT"}"#);
        match self.next(conn).0 {
            Event::Report(report) => report,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn everybody_is_asked() {
    let (mut luod, mut unit) = luod_and_unit();
    for number in 1..=2 {
        let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
        luod.shut_down(unit);
        let kept = luod.preserve(a, "a");
        assert_eq!(luod.last_phase(unit), Some(Phase::Preserving));
        // A client that is ready can be stopped.
        luod.leave(a);
        drop(kept);
        drop(luod.preserve(b, "b"));
        assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
        assert_eq!(luod.next(b).0, frozen("b", number));
        luod = luod.next_kernel_by_manager();
        luod.restore("a");
        luod.restore("b");
        let report = luod.report();
        assert_eq!((report.update, report.outcome), (number, Outcome::Updated));
        let states = report.sessions.iter().map(|session| session.state);
        assert_eq!(states.collect::<Vec<_>>(), [SessionState::Finished; 2]);
        unit = luod.connect();
    }
}

fn frozen(name: &str, update: u64) -> Event {
    let id = SessionName::new(name).unwrap();
    Event::Frozen { id, update }
}

#[test]
fn it_is_no_kexec() {
    let (mut luod, unit) = luod_and_unit();
    let a = luod.subscriber("a");
    let code = luod.error(unit, r#"{"cmd":"HANDOVER"}"#);
    assert_eq!(code, ErrorCode::NoKexec);
    luod.nothing(a);
    assert_eq!(luod.machine.status().update, 0);
    luod.is_as_before();
    // There is no handover either if no kernel is loaded.
    luod.world.state().kexec_under_way = true;
    luod.world.state().image_loaded = Some(false);
    let code = luod.error(unit, r#"{"cmd":"HANDOVER"}"#);
    assert_eq!(code, ErrorCode::NotLoaded);
    luod.nothing(a);
    luod.is_as_before();
}

#[test]
fn who_takes_no_part_costs_nobody_else() {
    let (mut luod, unit) = luod_and_unit();
    let names = ["good", "refuses", "hangs", "leaves"];
    let [good, refuses, hangs, leaves] = names.map(|name| luod.subscriber(name));
    luod.world.state().objection = Some("something".into());
    luod.shut_down(unit);
    luod.preserve(good, "good");
    luod.send(refuses, r#"{"cmd":"REFUSE","reason":"no time"}"#);
    luod.cancelled(refuses, "no time");
    drop(luod.session(leaves, "leaves"));
    luod.leave(leaves);
    let abort = luod.connect();
    let code = luod.error(abort, r#"{"cmd":"ABORT"}"#);
    assert_eq!(code, ErrorCode::WrongState);
    luod.pass(ms(29_999));
    assert_eq!(luod.machine.phase(), Phase::Preserving);
    luod.pass(ms(1));
    luod.cancelled(hangs, "in time");
    assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
    let mut luod = luod.next_kernel_by_manager();
    luod.restore("good");
    assert_eq!(luod.machine.phase(), Phase::Idle);
    let report = luod.report();
    let lost = report.sessions.iter().filter_map(|session| {
        let lost = session.state == SessionState::Dropped;
        lost.then_some((session.session.as_str(), session.error.as_deref()?))
    });
    let lost: BTreeMap<_, _> = lost.collect();
    assert_eq!(lost.len(), 3, "{report:?}");
    assert!(lost["refuses"].contains("no time"));
    assert!(lost["hangs"].contains("in time"));
    assert!(lost["leaves"].contains("closed"));
}

#[test]
fn what_was_not_finished_is_lost() {
    let (mut luod, unit) = luod_and_unit();
    let a = luod.subscriber("a");
    luod.shut_down(unit);
    luod.preserve(a, "a");
    let mut luod = luod.next_kernel_by_manager();
    let b = luod.subscriber("b");
    let unit = luod.connect();
    luod.shut_down(unit);
    luod.preserve(b, "b");
    let mut luod = luod.next_kernel_by_manager();
    luod.restore("b");
    let report = luod.report();
    let lost = report.sessions.iter().find(|s| s.session.as_str() == "a");
    let lost = lost.unwrap();
    assert_eq!(lost.state, SessionState::Dropped);
    assert!(lost.error.as_deref().unwrap().contains("not finished"));
}

/// A discarded session has the name of a new one, and so do both registries. The service manager
/// keeps both, and drops descriptors by name only.
#[test]
fn sessions_of_the_same_name() {
    let (mut luod, unit) = luod_and_unit();
    let a = luod.subscriber("a");
    luod.shut_down(unit);
    luod.preserve(a, "a");
    let mut luod = luod.next_kernel_by_manager();
    let (a, unit) = (luod.subscriber("a"), luod.connect());
    luod.shut_down(unit);
    drop(luod.preserve(a, "a"));
    let mut luod = luod.next_kernel_by_manager();
    assert_eq!(luod.machine.status().update, 2);
    assert_eq!(luod.states(), [("a".to_owned(), SessionState::Unclaimed)]);
    luod.restore("a");
}

/// The same, and luod is killed when it has created the new sessions.
#[test]
fn killed_with_sessions_of_the_same_name() {
    let (mut luod, unit) = luod_and_unit();
    let a = luod.subscriber("a");
    luod.shut_down(unit);
    luod.preserve(a, "a");
    let mut luod = luod.next_kernel_by_manager();
    let a = luod.subscriber("a");
    luod.update(r#","force":true"#);
    drop(luod.session(a, "a"));
    let mut luod = luod.next_kernel();
    assert_eq!(luod.states(), [("a".to_owned(), SessionState::Unclaimed)]);
    assert_eq!(luod.world.stored().len(), 2);
    assert!(luod.world.kernel.outgoing().is_empty());
    luod.restore("a");
    assert!(luod.world.stored().is_empty());
}

/// The update is aborted: the sessions that it would have replaced are kept.
#[test]
fn an_abort_with_sessions_of_the_same_name() {
    let (mut luod, unit) = luod_and_unit();
    let a = luod.subscriber("a");
    luod.shut_down(unit);
    luod.preserve(a, "a");
    let mut luod = luod.next_kernel_by_manager();
    let a = luod.subscriber("a");
    let operator = luod.update(r#","force":true"#);
    drop(luod.session(a, "a"));
    luod.send(operator, r#"{"cmd":"ABORT"}"#);
    assert_eq!(luod.world.stored().len(), 2);
    let mut luod = luod.next_kernel();
    luod.restore("a");
    assert!(luod.world.stored().is_empty());
}

/// An operator has already started an update.
#[test]
fn an_update_is_under_way() {
    for options in ["", r#","dry_run":true"#] {
        let (mut luod, unit) = luod_and_unit();
        let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
        let operator = luod.update(options);
        luod.preserve(a, "a");
        luod.shut_down(unit);
        luod.send(b, r#"{"cmd":"REFUSE"}"#);
        assert_eq!(luod.machine.phase(), Phase::Jump);
        assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
        assert_eq!(luod.last_phase(operator), Some(Phase::Jump));
        let mut luod = luod.next_kernel_by_manager();
        luod.restore("a");
    }
}

#[test]
fn the_update_is_past_its_point() {
    let (mut luod, unit) = luod_and_unit();
    let a = luod.subscriber("a");
    luod.update("");
    let session = luod.preserve(a, "a");
    luod.shut_down(unit);
    let (event, _) = luod.next(unit);
    let phase = Phase::Jump;
    assert_eq!(event, Event::Phase { phase, update: 1 });
    luod.nothing(unit);
    // Stopping the services takes long.
    luod.pass(ms(900_000));
    assert_eq!(luod.machine.phase(), Phase::Jump);
    drop(session);
    luod.world.boot();
    luod.next_kernel().restore("a");
}

/// All clients are informed, and can save their data in another way.
#[test]
fn nothing_can_be_preserved() {
    let (mut luod, unit) = luod_and_unit();
    let a = luod.subscriber("a");
    let device = &luod.world.kernel;
    device.break_device(Some(Errno::IO.raw_os_error()));
    luod.shut_down(unit);
    // The device may work again before the deadline of the clients.
    luod.pass(ms(29_999));
    assert_eq!(luod.last_phase(unit), Some(Phase::Preserving));
    luod.pass(ms(1));
    luod.pass(ms(50));
    luod.cancelled(a, "could not be created in time");
    assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
    assert!(luod.world.stored().is_empty());
}

#[test]
fn nobody_takes_part() {
    let (mut luod, unit) = luod_and_unit();
    luod.shut_down(unit);
    assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
    let mut luod = luod.next_kernel_by_manager();
    assert_eq!(luod.report().outcome, Outcome::Updated);
}

/// A busy device only affects the clients that wait for it.
#[test]
fn a_busy_device_in_a_handover() {
    let (mut luod, unit) = luod_and_unit();
    let a = luod.subscriber("a");
    let b = luod.subscriber("b");
    let asked = luod.update("");
    let kept = luod.preserve(a, "a");
    let device = luod.world.kernel.open().unwrap();
    // The service manager starts the next kernel long after the update has begun; the device is
    // busy.
    luod.pass(ms(20_000));
    luod.shut_down(unit);
    let late = luod.connect();
    luod.send(late, r#"{"cmd":"SUBSCRIBE","id":"late"}"#);
    for _ in 0..11 {
        luod.pass(ms(1_000));
    }
    // It is too late for b, which had its session, and for the other client, which never got
    // one.
    drop(luod.session(b, "b"));
    for _ in 0..40 {
        luod.pass(ms(1_000));
    }
    assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
    drop((kept, device, late, asked));
    let mut luod = luod.next_kernel_by_manager();
    luod.restore("a");
}

/// The time for which a busy device is waited for begins anew with the handover.
#[test]
fn the_device_is_busy_before_a_handover() {
    let (mut luod, unit) = luod_and_unit();
    let device = luod.world.kernel.open().unwrap();
    luod.update(r#","expect":0"#);
    luod.pass(ms(4_000));
    luod.shut_down(unit);
    luod.pass(ms(4_000));
    assert_eq!(luod.machine.phase(), Phase::Preserving);
    drop(device);
    luod.pass(ms(50));
    assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
    // With a registry.
    let luod = luod.next_kernel_by_manager();
    assert_eq!(luod.machine.status().update, 1);
}

/// Not even the registry is needed.
#[test]
fn no_device_in_a_handover() {
    let (mut luod, unit) = luod_and_unit();
    luod.subscriber("a");
    let device = luod.world.kernel.open().unwrap();
    luod.shut_down(unit);
    for _ in 0..31 {
        luod.pass(ms(1_000));
    }
    assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
    drop(device);
}

/// luod handles other requests while the service manager does not answer.
#[test]
fn the_manager_does_not_answer() {
    let (mut luod, unit) = luod_and_unit();
    let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
    luod.world.state().manager_hangs = true;
    luod.shut_down(unit);
    let second = luod.connect();
    luod.send(second, r#"{"cmd":"HANDOVER"}"#);
    luod.pass(ms(10_000));
    luod.nothing(unit);
    assert_eq!(luod.machine.phase(), Phase::Idle);
    assert!(luod.machine.next_tick().is_some());
    luod.world.state().manager_hangs = false;
    luod.pass(ms(20));
    for conn in [unit, second] {
        assert!(matches!(luod.next(conn).0, Event::Ok { .. }));
    }
    // All are ready; the update stays in this phase until there is an answer, or luod is stopped.
    luod.world.state().manager_hangs = true;
    drop(luod.preserve(a, "a"));
    drop(luod.preserve(b, "b"));
    luod.pass(ms(10_000));
    assert_eq!(luod.last_phase(unit), Some(Phase::Preserving));
    luod.machine.stop();
    luod.pump();
    assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
    let mut luod = luod.next_kernel_by_manager();
    luod.restore("a");
    luod.restore("b");
}

/// The session for the registry cannot be created, those of clients can: these are handed over
/// and retrieved.
#[test]
fn a_handover_without_a_registry() {
    let (mut luod, unit) = luod_and_unit();
    let a = luod.subscriber("a");
    let device = luod.world.kernel.open().unwrap();
    let other = device.create_session("luod-internal").unwrap();
    drop(device);
    luod.shut_down(unit);
    drop(luod.preserve(a, "a"));
    for _ in 0..10 {
        luod.pass(ms(1_000));
    }
    assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
    drop(other);
    let mut luod = luod.next_kernel_by_manager();
    luod.restore("a");
    assert!(luod.world.kernel.incoming().is_empty());
}

/// A client that would stop its work only now cannot be waited for.
#[test]
fn luod_is_stopped_while_a_client_waits_for_pause() {
    let (mut luod, unit) = luod_and_unit();
    let (a, b, c) = (
        luod.subscriber("a"),
        luod.subscriber("b"),
        luod.subscriber("c"),
    );
    luod.shut_down(unit);
    drop(luod.preserve(a, "a"));
    drop(luod.session(b, "b"));
    luod.send(b, r#"{"cmd":"PRESERVED","id":"b"}"#);
    drop(luod.session(c, "c"));
    luod.machine.stop();
    luod.pump();
    assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
    let mut luod = luod.next_kernel_by_manager();
    luod.restore("a");
    assert_eq!(luod.machine.phase(), Phase::Idle);
}

/// luod is stopped before it has asked any client: there is no session without a registry.
#[test]
fn luod_is_stopped_while_hooks_run() {
    let (mut luod, unit) = luod_and_unit();
    let a = luod.subscriber("a");
    luod.world.state().hooks_hang = true;
    luod.shut_down(unit);
    luod.machine.stop();
    luod.world.state().hooks_hang = false;
    // luod waits for the hooks and handles their answer.
    luod.pass(ms(20));
    luod.nothing(a);
    luod.is_as_before();
    let world = luod.world.clone();
    drop(luod);
    world.boot();
    assert_eq!(Luod::on(world).machine.phase(), Phase::Idle);
}

/// luod is stopped while it waits for the session of the registry.
#[test]
fn luod_is_stopped_without_a_registry() {
    let (mut luod, unit) = luod_and_unit();
    let a = luod.subscriber("a");
    let device = luod.world.kernel.open().unwrap();
    let other = device.create_session("luod-internal").unwrap();
    drop(device);
    luod.shut_down(unit);
    drop(luod.preserve(a, "a"));
    assert_eq!(luod.last_phase(unit), Some(Phase::Preserving));
    luod.machine.stop();
    luod.pump();
    assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
    assert!(matches!(luod.next(a).0, Event::Frozen { .. }));
    drop(other);
    let mut luod = luod.next_kernel_by_manager();
    luod.restore("a");
}

/// The service manager does not answer whether it is still stopping services.
#[test]
fn without_an_answer_the_jump_is_not_aborted() {
    let (mut luod, _) = luod_and_unit();
    let a = luod.subscriber("a");
    luod.update("");
    luod.preserve(a, "a");
    luod.world.state().kexec_under_way_error = true;
    luod.pass(ms(300_000));
    assert_eq!(luod.machine.phase(), Phase::Jump);
    luod.world.state().kexec_under_way_error = false;
    luod.pass(ms(300_000));
    assert_eq!(luod.machine.phase(), Phase::Idle);
}

#[test]
fn luod_is_stopped_in_a_handover() {
    let (mut luod, unit) = luod_and_unit();
    let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
    luod.shut_down(unit);
    drop(luod.preserve(a, "a"));
    drop(luod.session(b, "b"));
    luod.machine.stop();
    luod.pump();
    assert_eq!(luod.last_phase(unit), Some(Phase::Jump));
    let mut luod = luod.next_kernel_by_manager();
    luod.restore("a");
}
