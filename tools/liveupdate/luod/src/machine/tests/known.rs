// SPDX-License-Identifier: GPL-2.0

//! Missing clients, and checks before clients are asked and before the jump.

use super::*;

const KEXEC: &str = r#"{"cmd":"UPDATE"}"#;

impl Luod {
    /// luod is restarted; no client has subscribed yet.
    fn restarted(self) -> Self {
        let world = self.world.clone();
        drop(self);
        Self::on(world)
    }

    #[track_caller]
    fn refused(&mut self, line: &str, part: &str) {
        let conn = self.connect();
        self.send(conn, line);
        match self.next(conn).0 {
            Event::Error { message, .. } => assert!(message.contains(part), "{message}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(self.machine.phase(), Phase::Idle);
        assert_eq!(self.world.state().kexecs, 0);
    }
}

/// luod has just been started: having no clients is not the same as all clients being
/// ready.
#[test]
fn who_has_not_subscribed_again() {
    let mut luod = Luod::new();
    luod.world.state().alive = vec![100];
    luod.subscriber("vm-1");
    luod.subscriber("vm-2");
    let left = luod.subscriber("left");
    luod.send(left, r#"{"cmd":"UNSUBSCRIBE","id":"left"}"#);
    luod.pass(ms(1));
    // Twice, so that the missing clients are saved as well.
    let mut luod = luod.restarted().restarted();
    luod.refused(KEXEC, "again: vm-1, vm-2;");
    let vm1 = luod.subscriber("vm-1");
    luod.refused(KEXEC, "again: vm-2;");
    // Its process ends.
    luod.world.state().alive.clear();
    luod.update("");
    luod.preserve(vm1, "vm-1");
    assert_eq!(luod.world.state().kexecs, 1);
}

/// There never was a client: a new machine, or clients that were not started.
#[test]
fn nobody_was_ever_there() {
    let mut luod = Luod::new();
    luod.refused(KEXEC, "no session is subscribed");
    luod.refused(r#"{"cmd":"UPDATE","dry_run":true}"#, "use --expect 0");
    let gone = luod.subscriber("gone");
    luod.leave(gone);
    luod.refused(KEXEC, "no session is subscribed");
    luod.update(r#","expect":0"#);
    assert_eq!(luod.world.state().kexecs, 1);
}

#[test]
fn forced_without_those_who_are_missed() {
    let mut luod = Luod::new();
    luod.world.state().alive = vec![100];
    luod.subscriber("vm-1");
    luod.pass(ms(1));
    let mut luod = luod.restarted();
    luod.refused(KEXEC, "vm-1");
    luod.update(r#","force":true"#);
    assert_eq!(luod.world.state().kexecs, 1);
}

#[test]
fn required_and_expected() {
    let mut luod = Luod::new();
    let required = vec![
        SessionName::new("a").unwrap(),
        SessionName::new("b").unwrap(),
    ];
    luod.machine.config.required = required;
    luod.refused(KEXEC, "not subscribed: a, b;");
    let a = luod.subscriber("a");
    luod.refused(KEXEC, "not subscribed: b;");
    let b = luod.subscriber("b");
    luod.refused(r#"{"cmd":"UPDATE","expect":3}"#, "3 are expected");
    luod.update(r#","expect":2"#);
    luod.preserve(a, "a");
    luod.preserve(b, "b");
    assert_eq!(luod.world.state().kexecs, 1);
}

/// No client is asked while a sync takes long.
#[test]
fn file_systems_are_written_out_first() {
    let mut luod = Luod::new();
    luod.world.state().syncing = true;
    let a = luod.subscriber("a");
    luod.update("");
    luod.pass(ms(10_000));
    let late = luod.subscriber("late");
    luod.pass(ms(10_000));
    luod.nothing(a);
    luod.world.state().syncing = false;
    luod.pass(ms(20));
    luod.preserve(a, "a");
    luod.preserve(late, "late");
    assert_eq!(luod.world.state().kexecs, 1);
}

#[test]
fn file_systems_that_take_too_long() {
    let mut luod = Luod::new();
    luod.world.state().syncing = true;
    let a = luod.subscriber("a");
    let operator = luod.update("");
    luod.pass(ms(60_000));
    let report = luod.result(operator);
    assert!(report.reason.unwrap().contains("synced"));
    luod.nothing(a);
    luod.is_as_before();
    luod.update(r#","force":true"#);
    luod.pass(ms(60_000));
    luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 1);
}

/// The service manager is asked, and another event happens before it answers.
#[test]
fn while_the_manager_is_asked() {
    let checking = |options: &str| {
        let mut luod = Luod::new();
        let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
        luod.world.state().manager_hangs = true;
        luod.world.state().not_kept = Some("systemd keeps nothing".into());
        let operator = luod.update(options);
        drop((luod.preserve(a, "a"), luod.preserve(b, "b")));
        assert_eq!(luod.machine.phase(), Phase::Preserving);
        (luod, b, operator)
    };
    // A client refuses.
    let (mut luod, b, operator) = checking("");
    luod.send(b, r#"{"cmd":"REFUSE","id":"b"}"#);
    assert_eq!(luod.result(operator).outcome, Outcome::Aborted);
    luod.is_as_before();
    // The update continues without that client, whose session is no longer kept: the
    // service manager is asked again.
    let (mut luod, b, _) = checking(r#","force":true"#);
    luod.send(b, r#"{"cmd":"REFUSE","id":"b"}"#);
    luod.world.state().manager_hangs = false;
    luod.pass(ms(20));
    assert_eq!(luod.world.state().kexecs, 1);
    let luod = luod.next_kernel();
    assert_eq!(luod.world.kernel.incoming(), ["a", "luod-internal"]);
    // luod is stopped, and no other program starts the next kernel.
    let (mut luod, _, operator) = checking("");
    luod.machine.stop();
    luod.pump();
    assert_eq!(luod.result(operator).outcome, Outcome::Aborted);
    luod.is_as_before();
}

/// An update is aborted if systemd does not keep all sessions.
#[test]
fn the_manager_keeps_less() {
    let mut luod = Luod::new();
    luod.world.state().not_kept = Some("systemd keeps 1 session".into());
    let a = luod.subscriber("a");
    let operator = luod.update("");
    luod.preserve(a, "a");
    let report = luod.result(operator);
    assert_eq!(report.reason.as_deref(), Some("systemd keeps 1 session"));
    luod.cancelled(a, "keeps 1");
    luod.is_as_before();
}
