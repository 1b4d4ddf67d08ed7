// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::*;
use crate::{Direction, Mark, MarkName, Outcome, SessionReport, Stamp};
use proptest::prelude::*;

fn id(name: &str) -> SessionName {
    SessionName::new(name).unwrap()
}

fn request(line: &str) -> Request {
    Message::parse(line.as_bytes()).unwrap().body
}

/// The messages of the public sketch of the protocol.
#[test]
fn the_sketch() {
    assert_eq!(
        request(r#"{"cmd":"SUBSCRIBE","id":"vm-1"}"#),
        Request::Subscribe {
            id: id("vm-1"),
            timeout_ms: None
        }
    );
    assert_eq!(
        request(r#"{"cmd":"READY"}"#),
        Request::Ready {
            id: None,
            bytes: None
        }
    );
    assert_eq!(
        request(r#"{"cmd":"CLAIM","id":"vm-1"}"#),
        Request::Claim { id: id("vm-1") }
    );
    let event = Event::StartPreservation {
        id: id("vm-1"),
        update: 1,
        deadline_ms: 1000,
    };
    let json = serde_json::to_value(Message::from(event)).unwrap();
    assert_eq!(json["event"], "START_PRESERVATION");
    assert_eq!(json["id"], "vm-1");
}

#[test]
fn operators() {
    assert_eq!(request(r#"{"cmd":"STATUS"}"#), Request::Status);
    assert_eq!(
        request(r#"{"cmd":"UPDATE"}"#),
        Request::Update {
            timeout_ms: None,
            dry_run: false,
            force: false,
            expect: None,
        }
    );
    assert_eq!(
        request(r#"{"cmd":"DISCARD","session":"vm-1"}"#),
        Request::Discard {
            session: id("vm-1")
        }
    );
}

#[test]
fn what_is_unknown() {
    let extra = r#"{"cmd":"READY","id":"a","colour":"green"}"#;
    assert_eq!(
        request(extra),
        Request::Ready {
            id: Some(id("a")),
            bytes: None
        }
    );
    let event: Message<Event> = Message::parse(br#"{"event":"NEWS","x":1}"#).unwrap();
    assert_eq!(event.body, Event::Unknown);
    let error = r#"{"event":"ERROR","code":"sunspots","message":""}"#;
    assert!(matches!(
        Message::parse(error.as_bytes()).unwrap().body,
        Event::Error {
            code: ErrorCode::Other(code),
            ..
        } if code.as_str() == "sunspots"
    ));
}

/// Unknown values of a newer luod do not end the connection, and are kept unchanged.
#[test]
fn values_that_are_unknown() {
    for line in [
        r#"{"seq":1,"event":"HELLO","version":4,"luod":"9.0","phase":"thawing"}"#,
        r#"{"event":"PHASE","phase":"thawing","update":7}"#,
        r#"{"event":"GONE","session":"vm","state":"melted"}"#,
        r#"{"event":"CHANGE","session":"vm","direction":"sideways","state":"melted","since_ms":1}"#,
        r#"{"event":"RESULT","update":7,"outcome":"thawed","marks":[{"name":"thaw","stamp":{"realtime_us":1,"monotonic_us":2}}],"sessions":[{"session":"vm","state":"melted"}]}"#,
    ] {
        let event: Message<Event> = Message::parse(line.as_bytes()).unwrap();
        assert_ne!(event.body, Event::Unknown);
        let again: serde_json::Value =
            serde_json::from_slice(&crate::encode(&event).unwrap()).unwrap();
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(again, value);
    }
}

#[test]
fn errors() {
    let error = |line: &str| Message::<Request>::parse(line.as_bytes()).unwrap_err();
    for (line, code, seq) in [
        ("", ErrorCode::BadJson, None),
        ("{", ErrorCode::BadJson, None),
        ("\u{0}", ErrorCode::BadJson, None),
        ("[]", ErrorCode::BadRequest, None),
        ("7", ErrorCode::BadRequest, None),
        ("{}", ErrorCode::BadRequest, None),
        (r#"{"seq":7}"#, ErrorCode::BadRequest, Some(7)),
        (
            r#"{"seq":3,"cmd":"DANCE"}"#,
            ErrorCode::UnknownCommand,
            Some(3),
        ),
        (r#"{"cmd":"SUBSCRIBE"}"#, ErrorCode::BadRequest, None),
        (
            r#"{"cmd":"SUBSCRIBE","id":"a/b"}"#,
            ErrorCode::BadRequest,
            None,
        ),
        (
            r#"{"cmd":"SUBSCRIBE","id":"systemd"}"#,
            ErrorCode::BadRequest,
            None,
        ),
        (r#"{"cmd":"READY","id":5}"#, ErrorCode::BadRequest, None),
        (r#"{"cmd":"READY","seq":-1}"#, ErrorCode::BadRequest, None),
        (r#"{"cmd":"READY"} x"#, ErrorCode::BadJson, None),
    ] {
        let error = error(line);
        assert_eq!((error.code, error.seq), (code, seq), "{line}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(error(&deep).code, ErrorCode::BadJson);
}

fn name() -> impl Strategy<Value = SessionName> {
    "[a-zA-Z0-9._@+-]{1,63}".prop_filter_map("reserved", |name| SessionName::new(name).ok())
}

fn progress() -> impl Strategy<Value = Progress> {
    (
        any::<Option<u64>>(),
        any::<Option<u64>>(),
        any::<Option<String>>(),
    )
        .prop_map(|(done, total, text)| Progress { done, total, text })
}

fn requests() -> impl Strategy<Value = Request> {
    let some = || proptest::option::of(name());
    prop_oneof![
        (any::<u32>(), any::<Option<String>>())
            .prop_map(|(version, client)| Request::Hello { version, client }),
        (name(), any::<Option<u64>>())
            .prop_map(|(id, timeout_ms)| Request::Subscribe { id, timeout_ms }),
        name().prop_map(|id| Request::Unsubscribe { id }),
        name().prop_map(|id| Request::Preserved { id }),
        (some(), any::<Option<u64>>()).prop_map(|(id, bytes)| Request::Ready { id, bytes }),
        (some(), any::<Option<u64>>(), any::<String>())
            .prop_map(|(id, update, reason)| Request::Refuse { id, update, reason }),
        (some(), progress()).prop_map(|(id, progress)| Request::Progress { id, progress }),
        name().prop_map(|id| Request::Claim { id }),
        name().prop_map(|id| Request::Finished { id }),
        (any::<[Option<u64>; 2]>(), any::<bool>(), any::<bool>()).prop_map(
            |([timeout_ms, expect], dry_run, force)| Request::Update {
                timeout_ms,
                dry_run,
                force,
                expect,
            }
        ),
        name().prop_map(|session| Request::Finish { session }),
        name().prop_map(|session| Request::Discard { session }),
        Just(Request::Status),
        Just(Request::List),
        Just(Request::Handover),
        any::<String>().prop_map(|why| Request::Inhibit { why }),
        Just(Request::Abort),
        Just(Request::Forget),
        Just(Request::Report),
        Just(Request::History),
        Just(Request::Watch),
    ]
}

fn info() -> impl Strategy<Value = SessionInfo> {
    (
        name(),
        any::<Option<String>>(),
        any::<u64>(),
        proptest::option::of(progress()),
    )
        .prop_map(|(session, client, since_ms, progress)| SessionInfo {
            session,
            direction: Direction::Outgoing,
            state: SessionState::Preserving,
            client,
            pid: Some(7),
            uid: None,
            since_ms,
            left_ms: None,
            progress,
            bytes: Some(since_ms),
            error: None,
        })
}

fn report() -> impl Strategy<Value = Report> {
    (any::<u64>(), proptest::collection::vec(name(), 0..4)).prop_map(|(update, names)| Report {
        update,
        outcome: Outcome::Updated,
        reason: None,
        from: Some("7.3.4".into()),
        to: None,
        marks: vec![Mark {
            name: MarkName::Jump,
            stamp: Stamp::default(),
            offset_us: Some(update),
        }],
        sessions: names
            .into_iter()
            .map(|session| SessionReport {
                session,
                client: None,
                state: SessionState::Finished,
                preserve_us: Some(1),
                restore_us: None,
                blackout_us: None,
                error: None,
            })
            .collect(),
        jump_us: None,
        blackout_us: None,
        precision_us: None,
    })
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        (any::<u32>(), any::<String>()).prop_map(|(version, luod)| Event::Hello {
            version,
            luod,
            phase: Phase::Restoring
        }),
        (any::<String>(), proptest::option::of(name())).prop_map(|(cmd, id)| Event::Ok { cmd, id }),
        any::<String>().prop_map(|message| Event::Error {
            code: ErrorCode::LineTooLong,
            message,
            cmd: None,
            id: None
        }),
        (name(), any::<u64>()).prop_map(|(id, update)| Event::PreservationRequest {
            id,
            update,
            deadline_ms: 1,
            dry_run: true
        }),
        (name(), any::<String>()).prop_map(|(id, reason)| Event::Cancelled {
            id,
            update: 1,
            reason
        }),
        proptest::collection::vec(info(), 0..3).prop_map(|sessions| Event::List { sessions }),
        info().prop_map(|info| Event::Change { info }),
        report().prop_map(Event::Report),
        report().prop_map(Event::Result),
    ]
}

proptest! {
    #[test]
    fn requests_survive(body in requests(), seq in any::<Option<u64>>()) {
        let message = Message { seq, body };
        let line = crate::encode(&message).unwrap();
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert_eq!(Message::parse(&line).unwrap(), message);
    }

    #[test]
    fn events_survive(body in events(), seq in any::<Option<u64>>()) {
        let message = Message { seq, body };
        let line = crate::encode(&message).unwrap();
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert_eq!(Message::parse(&line).unwrap(), message);
    }
}
