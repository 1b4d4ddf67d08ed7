// SPDX-License-Identifier: GPL-2.0

//! The command line of luo-qemu, without luod and QEMU.

mod common;

use common::{good, guest, guest_of, luo_qemu};
use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// A process that waits, with an argument by which it is recognized.
fn process(argument: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "read x", argument]);
    command.stdin(Stdio::piped()).spawn().unwrap()
}

/// The id of a process that has ended.
fn ended() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

/// Runs `luo-qemu stop` for a guest whose luo-qemu has the process id `pid`, and kills its QEMU,
/// which has the id `qemu`, without a delay. luo-qemu ends some time later. Returns the exit code
/// of the command.
fn stop(run: &Path, pid: u32, qemu: u32) -> Option<i32> {
    let directory = guest_of(run, pid, qemu);
    let mut command = Command::new(env!("CARGO_BIN_EXE_luo-qemu"));
    command.args(["stop", "g", "--timeout", "0"]);
    let mut stop = command.env("LUO_QEMU_RUN", run).spawn().unwrap();
    sleep(Duration::from_millis(500));
    // It waits until luo-qemu has ended.
    assert_eq!(stop.try_wait().unwrap(), None);
    drop(directory);
    stop.wait().unwrap().code()
}

/// The signal that has ended a process, if one has.
fn signal(mut process: Child) -> Option<i32> {
    // Without a signal, this ends it.
    drop(process.stdin.take());
    process.wait().unwrap().signal()
}

/// The message of a command that fails.
fn bad(run: &Path, arguments: &str) -> String {
    let output = luo_qemu(run, arguments);
    assert!(!output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
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
    let status = good(run.path(), "status g");
    assert!(status.contains("last gap   1500 ms"), "{status}");
    assert!(status.contains("clock lag  1400 ms"), "{status}");
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

#[test]
fn a_guest_is_stopped() {
    let run = tempfile::tempdir().unwrap();
    let argument = format!(
        "unix:{}/g/qmp.sock,server=on,wait=off",
        run.path().display()
    );
    let (luo_qemu, qemu) = (process("g"), process(&argument));
    assert_eq!(stop(run.path(), luo_qemu.id(), qemu.id()), Some(1));
    assert_eq!((signal(luo_qemu), signal(qemu)), (Some(15), Some(9)));

    // QEMU has ended before it is killed.
    let luo_qemu = process("g");
    assert_eq!(stop(run.path(), luo_qemu.id(), ended()), Some(0));
    assert_eq!(signal(luo_qemu), Some(15));

    // luo-qemu was killed, and the one that takes the guest over is not recorded yet.
    let qemu = process(&argument);
    assert_eq!(stop(run.path(), ended(), qemu.id()), Some(1));
    assert_eq!(signal(qemu), Some(9));

    // Other processes have the ids of those that have ended.
    let (first, second) = (process("other"), process("another"));
    assert_eq!(stop(run.path(), first.id(), second.id()), Some(0));
    assert_eq!((signal(first), signal(second)), (None, None));
}
