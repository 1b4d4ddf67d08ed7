// SPDX-License-Identifier: GPL-2.0

//! The command line of luo-qemu, without luod and QEMU.

use luo_qemu::run_dir::{Record, RunDir, State};
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output},
};

fn luo_qemu(run: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_luo-qemu"))
        .args(arguments.split_whitespace())
        .env("LUO_QEMU_RUN", run)
        .output()
        .unwrap()
}

/// The output of a command that succeeds.
fn good(run: &Path, arguments: &str) -> String {
    let output = luo_qemu(run, arguments);
    assert!(output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a command that fails.
fn bad(run: &Path, arguments: &str) -> String {
    let output = luo_qemu(run, arguments);
    assert!(!output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A guest that seems to be running.
fn guest(run: &Path) -> RunDir {
    let directory = RunDir::take_in(run, "g").unwrap();
    let arguments = ["-drive", "file=a.raw,cache=unsafe"];
    let record = Record {
        name: "g".into(),
        pid: std::process::id(),
        qemu: 7,
        state: State::Restoring,
        held: false,
        updates: 3,
        gap_us: Some(1_500_000),
        lag_us: Some(1_400_000),
        paused_us: 0,
        stopped: None,
        memory: vec![4],
        state_fd: 5,
        arguments: arguments.map(str::to_owned).to_vec(),
    };
    directory.write(&record).unwrap();
    directory
}

#[test]
fn guests_are_listed() {
    let run = tempfile::tempdir().unwrap();
    assert_eq!(good(run.path(), "list").lines().count(), 1);
    assert!(bad(run.path(), "status g").contains("there is no guest g; `luo-qemu list`"));
    let directory = guest(run.path());
    let list = good(run.path(), "list");
    let line: Vec<_> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line, ["g", "restoring", "7", "3", "1500"]);
    let list: Value = serde_json::from_str(&good(run.path(), "list --json")).unwrap();
    assert_eq!(list[0]["state"], "restoring");
    let status = good(run.path(), "status g");
    assert!(status.contains("last gap   1500 ms"), "{status}");
    assert!(status.contains("clock lag  1400 ms"), "{status}");
    let status: Value = serde_json::from_str(&good(run.path(), "status g --json")).unwrap();
    assert_eq!(status["updates"], 3);
    assert!(bad(run.path(), "start g").contains("the guest g is running already"));
    // luo-qemu has ended: its status is of no use.
    drop(directory);
    // A child that another test starts may have the lock for a moment.
    let is_empty = || good(run.path(), "list").lines().count() == 1;
    assert!((0..100).any(|_| is_empty()));
}

#[test]
fn arguments_are_checked() {
    let run = tempfile::tempdir().unwrap();
    assert!(good(run.path(), "check -- qemu -m 1G").starts_with("yes: "));
    let said = bad(run.path(), "check -- qemu -snapshot");
    assert!(said.contains("no: -snapshot"), "{said}");
    // A note is no failure.
    good(run.path(), "check -- qemu -serial pty");
    let output = luo_qemu(run.path(), "check --json -- qemu -snapshot -serial pty");
    assert!(!output.status.success());
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = found.as_array().unwrap().iter();
    // The host may be worth a note as well.
    let severities: Vec<_> = found.map(|one| one["severity"].as_str().unwrap()).collect();
    assert_eq!(severities.iter().filter(|one| **one == "fatal").count(), 1);
    assert!(severities.contains(&"note"));
    let _directory = guest(run.path());
    let said = bad(run.path(), "check g");
    assert!(said.contains("a.raw"), "{said}");
}

#[test]
fn what_cannot_run_is_refused() {
    let run = tempfile::tempdir().unwrap();
    let socket = run.path().join("luod");
    let tail = format!("--socket {} -- /nonexistent/qemu", socket.display());
    let said = bad(run.path(), &format!("run g {tail} -snapshot"));
    assert!(said.contains("(--force starts it)"), "{said}");
    let said = bad(run.path(), &format!("run g --force {tail} -snapshot"));
    assert!(said.contains("luod at"), "{said}");
    let said = bad(run.path(), &format!("run g/h {tail}"));
    assert!(said.contains("not a valid name"), "{said}");
    let said = bad(run.path(), &format!("run g --hugepages 4M {tail}"));
    assert!(said.contains("use those of 2M or 1G"), "{said}");
    let said = bad(run.path(), "start g --replace a=b");
    assert!(said.contains("does not name two absolute paths"), "{said}");
    let said = bad(
        run.path(),
        &format!("start g --replace /a=/b --socket {}", socket.display()),
    );
    assert!(
        said.contains("the guest g: ") && said.contains("luod at"),
        "{said}"
    );
}
