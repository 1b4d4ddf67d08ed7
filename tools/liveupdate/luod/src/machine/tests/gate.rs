// SPDX-License-Identifier: GPL-2.0

//! Hooks and inhibitors.

use super::{after::updated, *};
use crate::hooks::{Input, Stage};

impl Luod {
    /// Takes the hooks that were started since the last call.
    fn hooks(&self) -> Vec<Input> {
        std::mem::take(&mut self.world.state().hooks)
    }

    fn stages(&self) -> Vec<Stage> {
        self.hooks().iter().map(|input| input.stage).collect()
    }
}

#[test]
fn hooks_run_before_and_after() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.world.state().hooks_hang = true;
    let operator = luod.update("");
    // No client is asked before its hooks have ended.
    luod.nothing(a);
    assert!(luod.machine.next_tick().is_some());
    assert_eq!(luod.machine.phase(), Phase::Preserving);
    luod.world.state().hooks_hang = false;
    luod.pass(ms(20));
    let hooks = luod.hooks();
    assert_eq!(hooks.len(), 1);
    assert_eq!((hooks[0].stage, hooks[0].update), (Stage::Pre, 1));
    assert_eq!(hooks[0].sessions[0].session.as_str(), "a");
    assert!(!hooks[0].force && !hooks[0].dry_run && hooks[0].report.is_none());
    let session = luod.preserve(a, "a");
    drop((session, operator));
    let mut luod = luod.next_kernel();
    assert_eq!(luod.stages(), []);
    luod.restore("a");
    luod.machine.tick();
    let hooks = luod.hooks();
    assert_eq!(hooks.len(), 1);
    assert_eq!((hooks[0].stage, hooks[0].update), (Stage::Post, 1));
    let report = hooks[0].report.as_ref().unwrap();
    assert_eq!(report.outcome, Outcome::Updated);
    assert_eq!(report.sessions[0].state, SessionState::Finished);
    assert_eq!(hooks[0].missing, []);
}

/// Hooks after an update are told which required sessions were lost.
#[test]
fn hooks_know_lost_sessions() {
    for required in [&["a"][..], &["b", "a", "c"]] {
        let mut luod = Luod::new();
        let a = luod.subscriber("a");
        let operator = luod.update("");
        let session = luod.preserve(a, "a");
        drop((session, operator));
        assert_eq!(luod.stages(), [Stage::Pre]);
        let mut luod = luod.next_kernel();
        let names = required.iter().map(|name| SessionName::new(*name).unwrap());
        luod.machine.config.required = names.collect();
        luod.restore("a");
        luod.machine.tick();
        let hooks = luod.hooks();
        let missing: Vec<&str> = hooks[0].missing.iter().map(SessionName::as_str).collect();
        let lost: Vec<&str> = required
            .iter()
            .copied()
            .filter(|name| *name != "a")
            .collect();
        assert_eq!(missing, lost);
    }
}

/// The hooks after an update would undo what those before the next one have done.
#[test]
fn hooks_after_an_update_wait_for_the_end_of_the_next_one() {
    let mut luod = Luod::new();
    let (a, b) = (luod.subscriber("a"), luod.subscriber("b"));
    luod.update("");
    drop((luod.preserve(a, "a"), luod.preserve(b, "b")));
    assert_eq!(luod.stages(), [Stage::Pre]);
    let mut luod = luod.next_kernel();
    luod.restore("a");
    let a = luod.subscriber("a");
    let operator = luod.update(r#","force":true"#);
    let _session = luod.session(a, "a");
    luod.restore("b");
    assert_eq!(luod.stages(), [Stage::Pre]);
    luod.send(operator, r#"{"cmd":"ABORT"}"#);
    luod.pass(ms(20));
    let hooks = luod.hooks();
    let ended = hooks.iter().map(|input| (input.stage, input.update));
    assert_eq!(
        ended.collect::<Vec<_>>(),
        [(Stage::Abort, 2), (Stage::Post, 1)]
    );
}

#[test]
fn a_hook_fails() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.world.state().hook_error = Some("the hook x failed".into());
    let operator = luod.update("");
    let report = luod.result(operator);
    assert_eq!(report.outcome, Outcome::Aborted);
    assert_eq!(report.reason.as_deref(), Some("the hook x failed"));
    luod.nothing(a);
    // Hooks before it may have to be undone.
    assert_eq!(luod.stages(), [Stage::Pre, Stage::Abort]);
    luod.is_as_before();
    // With force, the update continues.
    luod.world.state().hook_error = Some("the hook x failed".into());
    luod.update(r#","force":true"#);
    luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 1);
}

/// The operator does not wait for a hook.
#[test]
fn an_abort_while_hooks_run() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.world.state().hooks_hang = true;
    let operator = luod.update("");
    luod.send(operator, r#"{"cmd":"ABORT"}"#);
    let event = luod.next(operator).0;
    assert!(matches!(event, Event::Phase { .. }), "{event:?}");
    let report = luod.result(operator);
    assert_eq!(report.outcome, Outcome::Aborted);
    // The late answer has no effect.
    luod.world.state().hooks_hang = false;
    luod.pass(ms(20));
    luod.nothing(a);
    luod.is_as_before();
}

#[test]
fn a_dry_run_is_undone() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.update(r#","dry_run":true"#);
    luod.preserve(a, "a");
    let hooks = luod.hooks();
    let stages: Vec<Stage> = hooks.iter().map(|input| input.stage).collect();
    assert_eq!(stages, [Stage::Pre, Stage::Abort]);
    assert!(hooks.iter().all(|input| input.dry_run));
    let report = hooks[1].report.as_ref().unwrap();
    assert_eq!(report.outcome, Outcome::DryRun);
}

/// A client that subscribes while hooks run is asked with the others.
#[test]
fn a_late_client() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.world.state().hooks_hang = true;
    luod.update("");
    let b = luod.subscriber("b");
    luod.world.state().hooks_hang = false;
    luod.pass(ms(20));
    let sessions = (luod.preserve(a, "a"), luod.preserve(b, "b"));
    assert_eq!(luod.world.state().kexecs, 1);
    drop(sessions);
}

#[test]
fn the_shutdown_is_inhibited() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.world.state().inhibited = Some("apt inhibits the shutdown".into());
    let operator = luod.update("");
    let report = luod.result(operator);
    assert_eq!(report.reason.as_deref(), Some("apt inhibits the shutdown"));
    luod.nothing(a);
    assert_eq!(luod.stages(), []);
    luod.is_as_before();
    luod.update(r#","force":true"#);
    luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 1);
}

#[test]
fn a_program_inhibits_updates() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    let program = luod.connect();
    luod.send(program, r#"{"cmd":"INHIBIT","why":"a\u001bbackup"}"#);
    assert!(matches!(luod.next(program).0, Event::Ok { .. }));
    assert_eq!(luod.machine.status().inhibitors[0].why, "a backup");
    let operator = luod.connect();
    for line in [r#"{"cmd":"UPDATE"}"#, r#"{"cmd":"UPDATE","dry_run":true}"#] {
        assert_eq!(luod.error(operator, line), ErrorCode::Inhibited);
    }
    luod.leave(program);
    luod.update("");
    let late = luod.connect();
    let line = r#"{"cmd":"INHIBIT","why":"late"}"#;
    assert_eq!(luod.error(late, line), ErrorCode::UpdateRunning);
    luod.preserve(a, "a");
    // Only operators may inhibit updates.
    let mut luod = Luod::new();
    let client = luod.connect_as(1000);
    assert_eq!(luod.error(client, line), ErrorCode::NotAllowed);
}

/// systemd starts the next kernel in any case.
#[test]
fn a_handover_with_a_hook_that_fails() {
    let mut luod = Luod::on({
        let world = FakeWorld::with_own_clock();
        world.state().store = Some(BTreeMap::new());
        world
    });
    let a = luod.subscriber("a");
    luod.world.state().kexec_under_way = true;
    luod.world.state().hook_error = Some("the hook x failed".into());
    luod.world.state().inhibited = Some("apt".into());
    let conn = luod.connect();
    luod.send(conn, r#"{"cmd":"HANDOVER"}"#);
    let session = luod.preserve(a, "a");
    assert_eq!(luod.machine.phase(), Phase::Jump);
    let hooks = luod.hooks();
    assert!(hooks[0].handover && hooks[0].force);
    drop(session);
}

/// luod is killed during an update, which is aborted by that.
#[test]
fn hooks_of_an_update_in_which_luod_is_killed() {
    for ready in [false, true] {
        let mut luod = updated(&["old"]);
        luod.restore("old");
        luod.machine.tick();
        luod.hooks();
        let a = luod.subscriber("a");
        luod.world.state().hooks_hang = true;
        luod.update(r#","force":true"#);
        if ready {
            luod.world.state().hooks_hang = false;
            luod.pass(ms(20));
            drop(luod.session(a, "a"));
        }
        assert_eq!(luod.stages(), [Stage::Pre]);
        luod.world.state().hooks_hang = true;
        // Killed again, before they have ended.
        for _ in 0..2 {
            luod = luod.next_kernel();
            let hooks = luod.hooks();
            assert_eq!(hooks.len(), 1);
            assert_eq!((hooks[0].stage, hooks[0].update), (Stage::Abort, 2));
            let report = hooks[0].report.as_ref().unwrap();
            assert_eq!(report.outcome, Outcome::Aborted);
            assert_eq!(luod.machine.status().update, 2);
            assert_eq!(luod.machine.last.as_ref(), Some(report));
            let updates = luod.machine.history().updates;
            let updates = updates.iter().map(|past| (past.update, past.outcome));
            assert_eq!(
                updates.collect::<Vec<_>>(),
                [(1, Outcome::Updated), (2, Outcome::Aborted)]
            );
        }
        luod.world.state().hooks_hang = false;
        luod.pass(ms(20));
        let mut luod = luod.next_kernel();
        assert_eq!(luod.stages(), []);
        luod.subscriber("a");
        luod.update("");
        assert_eq!(luod.machine.status().update, 3);
    }
}

/// An update that has started the next kernel is not aborted, although the hooks before it ran.
#[test]
fn hooks_of_an_update_that_has_succeeded() {
    let mut luod = updated(&["a"]);
    assert_eq!(luod.stages(), [Stage::Pre]);
    luod.restore("a");
    assert_eq!(luod.stages(), [Stage::Post]);
}

/// luod is killed while hooks run after an update.
#[test]
fn hooks_after_an_update_run_again() {
    let mut luod = updated(&["a"]);
    luod.hooks();
    luod.world.state().hooks_hang = true;
    luod.restore("a");
    let first = luod.hooks();
    assert_eq!((first.len(), first[0].stage), (1, Stage::Post));
    let mut luod = luod.next_kernel();
    assert_eq!(luod.machine.phase(), Phase::Idle);
    assert_eq!(luod.hooks(), first);
    luod.world.state().hooks_hang = false;
    luod.pass(ms(20));
    assert_eq!(luod.next_kernel().stages(), []);
}

/// The same for hooks that waited for the end of the update in which luod is killed.
#[test]
fn hooks_that_waited_for_an_update_in_which_luod_is_killed() {
    let mut luod = updated(&["a", "b"]);
    luod.hooks();
    luod.restore("a");
    let a = luod.subscriber("a");
    luod.update(r#","force":true"#);
    drop(luod.session(a, "a"));
    luod.restore("b");
    assert_eq!(luod.stages(), [Stage::Pre]);
    let luod = luod.next_kernel();
    assert_eq!(luod.stages(), [Stage::Abort, Stage::Post]);
    assert_eq!(luod.next_kernel().stages(), []);
}

/// luod is restarted after an update: hooks run once.
#[test]
fn post_hooks_run_once() {
    let mut luod = updated(&["a"]);
    luod.hooks();
    luod.restore("a");
    luod.machine.tick();
    assert_eq!(luod.stages(), [Stage::Post]);
    let world = luod.world.clone();
    drop(luod);
    let luod = Luod::on(world);
    assert_eq!(luod.stages(), []);
}
