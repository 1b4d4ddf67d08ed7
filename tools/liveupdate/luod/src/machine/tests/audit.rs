// SPDX-License-Identifier: GPL-2.0

//! The log names the user of each action.

use super::{after::update_on, *};
use crate::audit as ids;
use std::{cell::RefCell, fmt, sync::Once};
use tracing::{field, Subscriber};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    registry,
};

type Fields = BTreeMap<String, String>;

thread_local! {
    static EVENTS: RefCell<Vec<Fields>> = const { RefCell::new(Vec::new()) };
}

/// Keeps all events of each thread, like the journal.
struct Journal;

struct Visitor<'a>(&'a mut Fields);

impl field::Visit for Visitor<'_> {
    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &field::Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Visitor(&mut fields));
        EVENTS.with_borrow_mut(|events| events.push(fields));
    }
}

impl Journal {
    /// Runs a function, and returns the logged events.
    ///
    /// There is one subscriber for all threads of the test: with one for each test, an event that
    /// another thread logs for the first time could be cached as disabled.
    fn of(run: impl FnOnce()) -> Vec<Fields> {
        static SUBSCRIBER: Once = Once::new();

        SUBSCRIBER.call_once(|| {
            tracing::subscriber::set_global_default(registry().with(Self)).unwrap();
        });
        EVENTS.take();
        run();
        EVENTS.take()
    }
}

/// Expects one event with these fields.
#[track_caller]
fn logged(events: &[Fields], id: &str, fields: &[(&str, &str)]) {
    let found = events.iter().filter(|event| {
        event.get("message_id").is_some_and(|found| found == id)
            && fields
                .iter()
                .all(|(name, value)| event.get(*name).is_some_and(|found| found == value))
    });
    assert_eq!(found.count(), 1, "{id} {fields:?}: {events:#?}");
}

#[test]
fn who_updates_and_aborts() {
    let events = Journal::of(|| {
        let mut luod = Luod::new();
        let a = luod.subscriber("a");
        let operator = luod.update("");
        luod.session(a, "a");
        luod.send(operator, r#"{"cmd":"ABORT"}"#);
        luod.update(r#","force":true"#);
        luod.send(a, r#"{"cmd":"REFUSE","id":"a","reason":"not now"}"#);
        // A request that is not permitted is not logged.
        let vm = luod.connect_as(1000);
        luod.error(vm, r#"{"cmd":"ABORT"}"#);
    });
    let who = [("uid", "0"), ("pid", "100")];
    let with = |more: &[(&'static str, &'static str)]| [&who[..], more].concat();
    logged(
        &events,
        ids::UPDATE,
        &with(&[("update", "1"), ("force", "false")]),
    );
    logged(&events, ids::ABORT, &with(&[("update", "1")]));
    logged(&events, ids::ABORTED, &[("update", "1")]);
    logged(
        &events,
        ids::UPDATE,
        &with(&[("update", "2"), ("force", "true")]),
    );
    logged(
        &events,
        ids::DROPPED,
        &with(&[("update", "2"), ("session", "a")]),
    );
    logged(&events, ids::JUMP, &[("update", "2")]);
    assert!(!events
        .iter()
        .any(|event| event.get("uid").is_some_and(|uid| uid == "1000")));
}

#[test]
fn who_claims_finishes_and_discards() {
    let events = Journal::of(|| {
        let mut luod = update_on(Luod::new(), &["a", "b", "c", "d"]);
        luod.restore("a");
        let b = luod.connect();
        luod.send(b, r#"{"cmd":"CLAIM","id":"b"}"#);
        drop(luod.claimed(b, "b"));
        let operator = luod.connect();
        luod.send(operator, r#"{"cmd":"FINISH","session":"b"}"#);
        luod.send(operator, r#"{"cmd":"DISCARD","session":"c"}"#);
        luod.update(r#","force":true"#);
        let mut luod = luod.next_kernel();
        assert!(luod.states().is_empty());
    });
    for (id, session) in [
        (ids::CLAIMED, "a"),
        (ids::CLAIMED, "b"),
        (ids::FINISHED, "a"),
        (ids::FINISHED, "b"),
        (ids::DISCARDED, "c"),
    ] {
        let fields = [
            ("session", session),
            ("update", "1"),
            ("uid", "0"),
            ("pid", "100"),
        ];
        logged(&events, id, &fields);
    }
    logged(&events, ids::UPDATED, &[("update", "1")]);
    logged(&events, ids::DISCARDED, &[("session", "d")]);
    // The text contains the same information.
    let text = |part: &str| {
        let found = events.iter().any(|event| event["message"].contains(part));
        assert!(found, "{part}: {events:#?}");
    };
    text("the session a is finished by the user 0, process 100");
    text("the session c is discarded by the user 0, process 100: its contents are lost");
}

/// A session without which a forced update has continued is handed over if its client holds it, and
/// then discarded.
#[test]
fn what_was_left_out() {
    let events = Journal::of(|| {
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
        let luod = Luod::on(world);
        assert_eq!(luod.world.kernel.incoming(), ["b", "luod-internal"]);
    });
    let fields = [("session", "a"), ("update", "1")];
    logged(&events, ids::DROPPED, &[("session", "a"), ("uid", "0")]);
    logged(&events, ids::DISCARDED, &fields);
}

#[test]
fn what_is_unknown() {
    let events = Journal::of(|| {
        let world = FakeWorld::with_own_clock();
        world.kernel.break_device(Some(5));
        let mut luod = Luod::on(world);
        for _ in 0..100 {
            luod.pass(Duration::from_secs(10));
        }
        luod.world.kernel.break_device(None);
        luod.pass(Duration::from_secs(10));
    });
    // It is logged once, not at each retry.
    logged(&events, ids::UNKNOWN, &[]);
    logged(&events, ids::KNOWN, &[]);
}
