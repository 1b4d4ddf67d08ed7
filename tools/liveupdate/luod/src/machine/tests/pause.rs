// SPDX-License-Identifier: GPL-2.0

//! Clients that work until all others are ready.

use super::*;

impl Luod {
    /// A client preserves its file, and still works.
    #[track_caller]
    fn preserve_only(&mut self, conn: ConnId, name: &str) -> OutgoingSession {
        let session = self.session(conn, name);
        self.send(conn, &format!(r#"{{"cmd":"PRESERVED","id":"{name}"}}"#));
        session
    }

    /// Returns the time that the client is given to become ready.
    #[track_caller]
    fn paused(&mut self, conn: ConnId, name: &str) -> u64 {
        match self.next(conn).0 {
            Event::Pause {
                id, deadline_ms, ..
            } if id.as_str() == name => deadline_ms,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_client_works_until_all_others_are_ready() {
    let mut luod = Luod::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| luod.subscriber(name));
    let _operator = luod.update("");
    let _a = luod.preserve_only(a, "a");
    let _b = luod.preserve_only(b, "b");
    luod.pass(ms(1000));
    luod.nothing(a);
    luod.nothing(b);
    let _c = luod.preserve(c, "c");
    luod.paused(a, "a");
    luod.paused(b, "b");
    assert_eq!(luod.machine.phase(), Phase::Preserving);
    luod.send(a, r#"{"cmd":"READY","id":"a"}"#);
    luod.nothing(a);
    assert_eq!(luod.world.state().kexecs, 0);
    luod.send(b, r#"{"cmd":"READY","id":"b"}"#);
    assert_eq!(luod.world.state().kexecs, 1);
}

/// The client gets its full time limit for stopping, however long it has waited.
#[test]
fn waiting_is_not_being_late() {
    let mut luod = Luod::new();
    let a = luod.connect();
    luod.send(a, r#"{"cmd":"SUBSCRIBE","id":"a","timeout_ms":5000}"#);
    let b = luod.subscriber("b");
    let operator = luod.update("");
    let _a = luod.preserve_only(a, "a");
    luod.pass(ms(20_000));
    let _b = luod.preserve(b, "b");
    assert_eq!(luod.paused(a, "a"), 5000);
    luod.pass(ms(4900));
    luod.nothing(a);
    luod.pass(ms(200));
    luod.cancelled(a, "was not ready in time");
    let report = luod.result(operator);
    assert_eq!(report.outcome, Outcome::Aborted);
    luod.cancelled(b, "was not ready in time");
}

#[test]
fn a_client_that_waits_is_cancelled() {
    let mut luod = Luod::new();
    let [a, b] = ["a", "b"].map(|name| luod.subscriber(name));
    let operator = luod.update("");
    let a_session = luod.preserve_only(a, "a");
    let b_session = luod.session(b, "b");
    luod.send(b, r#"{"cmd":"REFUSE","id":"b","reason":"no"}"#);
    luod.cancelled(a, "no");
    luod.cancelled(b, "no");
    assert_eq!(luod.result(operator).outcome, Outcome::Aborted);
    drop((a_session, b_session));
    luod.is_as_before();
}

/// With force, the update continues without the client that is late.
#[test]
fn others_are_not_paused_twice() {
    let mut luod = Luod::new();
    let [a, b] = ["a", "b"].map(|name| luod.subscriber(name));
    luod.update(r#","force":true"#);
    let _a = luod.preserve_only(a, "a");
    let _b = luod.session(b, "b");
    luod.pass(ms(600_000));
    luod.cancelled(b, "was not ready in time");
    luod.paused(a, "a");
    assert_eq!(
        luod.error(a, r#"{"cmd":"PRESERVED","id":"a"}"#),
        ErrorCode::WrongState
    );
    luod.send(a, r#"{"cmd":"READY","id":"a"}"#);
    assert_eq!(luod.world.state().kexecs, 1);
}
