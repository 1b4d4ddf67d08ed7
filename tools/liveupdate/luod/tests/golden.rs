// SPDX-License-Identifier: GPL-2.0

//! Data of every released luod can be read, and data of this version can be read by the first one.
//!
//! The files in `golden/N` do not change. A luod that writes other data gets a directory of its own.

use luod::registry::{Entry, Lost, Memory, Registry, VERSION};
use luod_protocol::{History, Mark, MarkName, Outcome, SessionName, SessionState, Stamp};
use serde_json::{json, Value};

const REGISTRIES: [&str; 3] = [
    include_str!("golden/1/registry.json"),
    include_str!("golden/2/registry.json"),
    include_str!("golden/3/registry.json"),
];
const MEMORIES: [&str; 1] = [include_str!("golden/1/memory.json")];

/// Removes later additions, which older files do not have.
fn without_null(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_null(value)))
            .collect(),
        Value::Array(list) => list.into_iter().map(without_null).collect(),
        other => other,
    }
}

/// All marks of a registry.
fn before_jump() -> Vec<MarkName> {
    let known = MarkName::KNOWN.iter().copied();
    known.filter(|mark| !mark.is_after_jump()).collect()
}

#[test]
fn registries() {
    for (text, uid) in REGISTRIES.into_iter().zip([None, Some(1000), Some(1000)]) {
        let registry = Registry::parse(text.as_bytes()).unwrap();
        let again = serde_json::to_value(&registry).unwrap();
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(without_null(again), without_null(value));
        assert_eq!((registry.version, registry.update), (1, 7));
        let names: Vec<&str> = registry.sessions.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["vm-1", "cache"]);
        assert_eq!(registry.sessions[0].uid, uid);
        assert_eq!(registry.dropped[0].as_str(), "slow");
        assert_eq!(registry.lost[0].error, "the client was not ready in time");
        let marks: Vec<MarkName> = registry.marks.iter().map(|mark| mark.name).collect();
        assert_eq!(marks, before_jump());
    }
}

#[test]
fn memories() {
    for text in MEMORIES {
        let memory: Memory = serde_json::from_str(text).unwrap();
        let again = serde_json::to_value(&memory).unwrap();
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(without_null(again), without_null(value));
        let report = memory.report.unwrap();
        assert_eq!((memory.update, report.outcome), (7, Outcome::Aborted));
        assert_eq!(report.sessions[9].state, SessionState::Finished);
    }
}

/// The fields that a registry of the first version must have for the first luod.
#[test]
fn the_first_luod_can_read_what_we_write() {
    let name = |name: &str| SessionName::new(name).unwrap();
    let registry = Registry {
        version: VERSION,
        min_reader: Some(VERSION),
        boot_id: "x".into(),
        kernel: "7.3.4".into(),
        update: 7,
        tsc_khz: None,
        marks: before_jump()
            .into_iter()
            .map(|name| Mark::new(name, Stamp::default()))
            .collect(),
        sessions: vec![Entry {
            name: name("vm-1"),
            client: None,
            uid: Some(0),
            ready: Stamp::default(),
            preserve_us: 1,
            bytes: None,
        }],
        dropped: vec![name("slow")],
        lost: vec![Lost {
            name: name("slow"),
            client: None,
            error: "why".into(),
        }],
        history: History::default(),
    };
    let value = serde_json::to_value(&registry).unwrap();
    let stamp = json!({"realtime_us": 0, "monotonic_us": 0});
    // It refuses every other version.
    assert_eq!(value["version"], 1);
    for (field, expected) in [
        ("boot_id", json!("x")),
        ("kernel", json!("7.3.4")),
        ("update", json!(7)),
        ("dropped", json!(["slow"])),
        (
            "lost",
            json!([{"name": "slow", "client": null, "error": "why"}]),
        ),
    ] {
        assert_eq!(value[field], expected, "{field}");
    }
    assert_eq!(value["sessions"][0]["name"], "vm-1");
    assert_eq!(value["sessions"][0]["ready"], stamp);
    assert_eq!(value["sessions"][0]["preserve_us"], 1);
    // The first luod supports no other marks.
    let first = ["requested", "started", "ready", "frozen", "jump"];
    for (mark, name) in value["marks"].as_array().unwrap().iter().zip(first) {
        assert_eq!(*mark, json!({"name": name, "stamp": stamp}));
    }
}
