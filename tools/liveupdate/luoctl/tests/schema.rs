// SPDX-License-Identifier: GPL-2.0

//! The output of `luoctl --json`, and the schema that describes it.
//!
//! `golden/N.jsonl` has lines of version N with the definitions in the schema that describe them.
//! These files do not change, except that lines with new members are added.

mod common;
#[path = "../../output/testing/schemas.rs"]
mod schemas;

use common::{start, Client, Output, Root};
use luod::fake::FakeWorld;
use luod_protocol::{Direction, MarkName, Outcome, Phase, SessionState};
use schemas::Schemas;
use serde_json::{json, Value};
use std::{collections::BTreeSet, io::Write, os::unix::net::UnixListener, process::Stdio};

const SCHEMA: &str = include_str!("../luoctl.schema.json");

const GOLDEN: &str = include_str!("golden/1.jsonl");

/// Events of luod, with all values.
const EVENTS: [&str; 3] = [
    include_str!("../../protocol/tests/golden/1/events.jsonl"),
    include_str!("../../protocol/tests/golden/2/events.jsonl"),
    include_str!("../../protocol/tests/golden/3/events.jsonl"),
];

/// Checks an event, and returns the definition. [`None`] if the line is not an event.
#[track_caller]
fn check_event(schemas: &Schemas, line: &Value) -> Option<&'static str> {
    let definition = match line["event"].as_str()? {
        "OK" => "done",
        "STATUS" => "statusEvent",
        "LIST" => "listEvent",
        "PHASE" => "phaseEvent",
        "CHANGE" => "changeEvent",
        "GONE" => "goneEvent",
        "RESULT" => "resultEvent",
        other => panic!("{other}"),
    };
    schemas.check(definition, line);
    Some(definition)
}

#[test]
fn the_schema_is_printed() {
    let root = Root::new();
    assert_eq!(root.run_raw(&root.path("no socket"), &["schema"]), SCHEMA);
}

/// Lines of released versions stay valid.
#[test]
fn golden() {
    let schemas = Schemas::new(SCHEMA);
    schemas.check_golden(GOLDEN);
    // The check finds mistakes.
    for bad in [
        json!({ "version": 2, "error": "why", "exit": 3 }),
        json!({ "version": 1, "error": "why" }),
        json!({ "version": 1, "event": "PHASE", "phase": "lunch", "update": 1 }),
        json!([]),
    ] {
        schemas.refuse(&bad);
    }
    let more = json!({ "version": 1, "error": "why", "exit": 3, "more": 1 });
    schemas.tolerate("error", &more);
}

/// All events of the protocol that luoctl prints.
#[test]
fn events() {
    let (schemas, root) = (Schemas::new(SCHEMA), Root::new());
    let path = root.path("luod.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let printed = ["OK", "STATUS", "LIST", "PHASE", "CHANGE", "GONE", "RESULT"];
    let events = EVENTS.iter().flat_map(|lines| lines.lines());
    let events = events.map(|line| serde_json::from_str(line).unwrap());
    let events: Vec<Value> = events
        .filter(|event: &Value| printed.contains(&event["event"].as_str().unwrap()))
        .collect();
    let mut watch = root.luoctl(&path, &["--json", "watch"]);
    let watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped());
    let watch = watch.spawn().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    for event in &events {
        writeln!(stream, "{event}").unwrap();
    }
    drop(stream);
    let mut lines = Output::of(watch).expect(3).json();
    let end = lines.pop().unwrap();
    schemas.check("error", &end);
    assert_eq!(lines.len(), events.len());
    for (line, mut event) in lines.into_iter().zip(events) {
        check_event(&schemas, &line).unwrap();
        let event = event.as_object_mut().unwrap();
        event.remove("seq");
        event.insert("version".into(), 1.into());
        assert_eq!(line.as_object(), Some(&*event));
    }
}

/// The output of each command.
#[test]
fn commands() {
    let (schemas, root, world) = (Schemas::new(SCHEMA), Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _client = Client::start(luod.path(), "cache");
    let run = |args: &[&str]| root.run(luod.path(), &[&["--json"], args].concat());
    let one = |args: &[&str]| match <[Value; 1]>::try_from(run(args).json()) {
        Ok([line]) => line,
        Err(lines) => panic!("{lines:?}"),
    };
    schemas.check("status", &one(&["status"]));
    schemas.check("list", &one(&["list"]));
    schemas.check("check", &one(&["check"]));
    schemas.check("error", &one(&["report"]));
    schemas.check("error", &one(&["abort"]));
    schemas.check("error", &one(&["discard", "cache", "--yes"]));
    let lines = run(&["kexec", "--dry-run"]).expect(0).json();
    let mut seen = BTreeSet::new();
    for line in &lines {
        seen.extend(check_event(&schemas, line).or_else(|| {
            schemas.check("check", line);
            Some("check")
        }));
    }
    for definition in ["done", "phaseEvent", "changeEvent", "resultEvent"] {
        assert!(seen.contains(definition), "{definition}: {lines:?}");
    }
    schemas.check("report", &one(&["report"]));
}

/// The schema has all words of the protocol.
#[test]
fn words() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let of = |at: &str| -> Vec<String> {
        let words = schema.pointer(at).unwrap_or_else(|| panic!("{at}"));
        serde_json::from_value(words.clone()).unwrap()
    };
    fn all<T: ToString>(known: &[T]) -> Vec<String> {
        known.iter().map(T::to_string).collect()
    }
    assert_eq!(of("/$defs/phase/enum"), all(Phase::KNOWN));
    assert_eq!(of("/$defs/direction/enum"), all(Direction::KNOWN));
    assert_eq!(of("/$defs/state/enum"), all(SessionState::KNOWN));
    assert_eq!(of("/$defs/outcome/enum"), all(Outcome::KNOWN));
    let marks = "/$defs/mark/properties/name/enum";
    assert_eq!(of(marks), all(MarkName::KNOWN));
}
