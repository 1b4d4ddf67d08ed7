// SPDX-License-Identifier: GPL-2.0

//! The output of `luoctl --json`, and the schema that describes it.
//!
//! `golden/N.jsonl` has lines of version N with the definitions in the schema that describe them.
//! These files do not change, except that lines with new members are added.

mod common;

use common::{start, Client, Output, Root};
use jsonschema::Validator;
use luod::fake::FakeWorld;
use luod_protocol::{Direction, MarkName, Outcome, Phase, SessionState};
use serde_json::{json, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    os::unix::net::UnixListener,
    process::Stdio,
};

const SCHEMA: &str = include_str!("../luoctl.schema.json");

const GOLDEN: &str = include_str!("golden/1.jsonl");

/// Events of luod, with all values.
const EVENTS: [&str; 3] = [
    include_str!("../../protocol/tests/golden/1/events.jsonl"),
    include_str!("../../protocol/tests/golden/2/events.jsonl"),
    include_str!("../../protocol/tests/golden/3/events.jsonl"),
];

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

fn close(schema: &mut Value) {
    if let Value::Object(schema) = schema {
        schema.insert("unevaluatedProperties".into(), false.into());
    }
}

/// Lets objects have only members that the schema describes.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(members)) = map.get_mut("properties") {
                members.values_mut().for_each(close);
            }
            if let Some(items) = map.get_mut("items") {
                close(items);
            }
            map.values_mut().for_each(strict);
        }
        Value::Array(values) => values.iter_mut().for_each(strict),
        _ => {}
    }
}

/// The schema, and that of each kind of line.
struct Schemas {
    all: Validator,
    lines: BTreeMap<String, Validator>,
}

impl Schemas {
    fn new() -> Self {
        let schema = schema();
        let all = jsonschema::validator_for(&schema).unwrap();
        let mut lines = BTreeMap::new();
        for case in schema["anyOf"].as_array().unwrap() {
            let name = case["$ref"].as_str().unwrap();
            let mut one = json!({ "$ref": name, "$defs": schema["$defs"] });
            strict(&mut one);
            close(&mut one);
            let name = name.strip_prefix("#/$defs/").unwrap().to_owned();
            lines.insert(name, jsonschema::validator_for(&one).unwrap());
        }
        Self { all, lines }
    }

    #[track_caller]
    fn check(&self, definition: &str, line: &Value) {
        for validator in [&self.all, &self.lines[definition]] {
            let errors = validator.iter_errors(line).map(|error| error.to_string());
            let errors: Vec<String> = errors.collect();
            assert!(errors.is_empty(), "{definition}: {errors:?}: {line}");
        }
    }

    /// Checks an event, and returns the definition. [`None`] if the line is not an event.
    #[track_caller]
    fn check_event(&self, line: &Value) -> Option<&'static str> {
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
        self.check(definition, line);
        Some(definition)
    }
}

#[test]
fn it_is_a_schema() {
    assert!(jsonschema::meta::is_valid(&schema()));
    let root = Root::new();
    assert_eq!(root.run_raw(&root.path("no socket"), &["schema"]), SCHEMA);
}

/// Lines of released versions stay valid.
#[test]
fn golden() {
    let schemas = Schemas::new();
    let mut left: BTreeSet<&str> = schemas.lines.keys().map(String::as_str).collect();
    for line in GOLDEN.lines() {
        let golden: Value = serde_json::from_str(line).unwrap();
        let definition = golden["definition"].as_str().unwrap();
        schemas.check(definition, &golden["line"]);
        left.remove(definition);
    }
    assert!(left.is_empty(), "{left:?}");
    // The check finds mistakes.
    for bad in [
        json!({ "version": 2, "error": "why", "exit": 3 }),
        json!({ "version": 1, "error": "why" }),
        json!({ "version": 1, "event": "PHASE", "phase": "lunch", "update": 1 }),
        json!([]),
    ] {
        assert!(!schemas.all.is_valid(&bad), "{bad}");
    }
    let more = json!({ "version": 1, "error": "why", "exit": 3, "more": 1 });
    assert!(schemas.all.is_valid(&more));
    assert!(!schemas.lines["error"].is_valid(&more));
}

/// All events of the protocol that luoctl prints.
#[test]
fn events() {
    let (schemas, root) = (Schemas::new(), Root::new());
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
        schemas.check_event(&line).unwrap();
        let event = event.as_object_mut().unwrap();
        event.remove("seq");
        event.insert("version".into(), 1.into());
        assert_eq!(line.as_object(), Some(&*event));
    }
}

/// The output of each command.
#[test]
fn commands() {
    let (schemas, root, world) = (Schemas::new(), Root::new(), FakeWorld::new());
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
        seen.extend(schemas.check_event(line).or_else(|| {
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
    let schema = schema();
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
