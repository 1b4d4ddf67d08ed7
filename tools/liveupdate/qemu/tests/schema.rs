// SPDX-License-Identifier: GPL-2.0

//! The output of `luo-qemu --json`, and the schema that describes it.
//!
//! `golden/N.jsonl` has lines of version N with the definitions in the schema that describe them.
//! These files do not change, except that lines with new members are added.

mod common;
#[path = "../../output/testing/schemas.rs"]
mod schemas;

use common::{good, guest, guest_of, luo_qemu};
use schemas::Schemas;
use serde_json::{json, Value};
use std::path::Path;

const SCHEMA: &str = include_str!("../luo-qemu.schema.json");

#[test]
fn the_schema_is_printed() {
    assert_eq!(good(Path::new("/nonexistent"), "schema"), SCHEMA);
}

/// Lines of released versions stay valid.
#[test]
fn golden() {
    let schemas = Schemas::new(SCHEMA);
    schemas.check_golden(include_str!("golden/1.jsonl"));
    // The check finds mistakes.
    for bad in [
        json!({ "version": 2, "guests": [] }),
        json!({ "version": 1, "findings": [] }),
        json!({ "version": 1, "survives": true, "findings": [{ "severity": "yes", "text": "" }] }),
        json!([]),
    ] {
        schemas.refuse(&bad);
    }
    schemas.tolerate("list", &json!({ "version": 1, "guests": [], "more": 1 }));
}

/// The line of a command, which the definition describes, and whether the command has succeeded.
#[track_caller]
fn line(run: &Path, arguments: &str, definition: &str) -> (Value, bool) {
    let output = luo_qemu(run, arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{arguments}: {text}");
    assert!(output.stderr.is_empty(), "{arguments}: {:?}", output.stderr);
    let line = serde_json::from_str(&text).unwrap();
    Schemas::new(SCHEMA).check(definition, &line);
    (line, output.status.success())
}

#[test]
fn guests() {
    let run = tempfile::tempdir().unwrap();
    let none = json!({ "version": 1, "guests": [] });
    assert_eq!(line(run.path(), "list --json", "list"), (none, true));
    let (failed, good) = line(run.path(), "status g --json", "error");
    assert!(!good);
    assert_eq!(failed["exit"], 1);
    let why = failed["error"].as_str().unwrap();
    assert!(why.starts_with("there is no guest g"), "{why}");

    let _directory = guest(run.path());
    let mut expected = json!({
        "name": "g",
        "state": "restoring",
        "pid": std::process::id(),
        "qemu": 7,
        "updates": 3,
        "gap_us": 1_500_000,
        "lag_us": 1_400_000,
        "arguments": ["-drive", "file=a.raw,cache=unsafe"],
    });
    let list = json!({ "version": 1, "guests": [expected] });
    assert_eq!(line(run.path(), "list --json", "list"), (list, true));
    expected["version"] = 1.into();
    let status = line(run.path(), "status g --json", "status");
    assert_eq!(status, (expected, true));

    // QEMU has not answered yet.
    let run = tempfile::tempdir().unwrap();
    let _directory = guest_of(run.path(), 1, 0);
    let (status, _) = line(run.path(), "status g --json", "status");
    assert_eq!(status.get("qemu"), None);
}

#[test]
fn checks() {
    let run = tempfile::tempdir().unwrap();
    let (found, good) = line(run.path(), "check --json -- qemu -serial pty", "check");
    assert!(good);
    assert_eq!(found["survives"], true);
    assert!(severities(&found).contains(&"note"));

    let arguments = "check --json -- qemu -snapshot -serial pty";
    let (found, good) = line(run.path(), arguments, "check");
    assert!(!good);
    assert_eq!(found["survives"], false);
    // The host may be worth a note as well.
    let severities = severities(&found);
    assert_eq!(severities.iter().filter(|one| **one == "fatal").count(), 1);
    assert!(severities.contains(&"note"));

    line(run.path(), "check --json g", "error");
    let _directory = guest(run.path());
    let (found, _) = line(run.path(), "check --json g", "check");
    assert_eq!(found["findings"][0]["severity"], "risk");
}

fn severities(check: &Value) -> Vec<&str> {
    let findings = check["findings"].as_array().unwrap().iter();
    findings
        .map(|one| one["severity"].as_str().unwrap())
        .collect()
}
