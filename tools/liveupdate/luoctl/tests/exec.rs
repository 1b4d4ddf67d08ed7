// SPDX-License-Identifier: GPL-2.0

//! `luoctl exec`.

mod common;

use common::{start, wait, Background, Output, Root};
use luod::fake::{own_config, FakeWorld, Luod};
use std::{os::unix::process::ExitStatusExt, process::Stdio};

/// Succeeds if the session came along as documented.
const CHECK: &str = r#"test -e /proc/self/fd/3 && test "$LISTEN_FDS $LISTEN_FDNAMES" = "1 job" \
    && test "$LISTEN_PID" = $$ && test "$LUO_SESSION_FD" = 3 && test ! -e /proc/self/fd/4"#;

#[test]
fn a_session_of_a_command() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let path = luod.path().to_owned();
    let once = root.path("once");
    // Fails the first time.
    let script = format!(
        "{CHECK} || exit 9; test -e {0} || {{ touch {0}; exit 5; }}",
        once.display()
    );
    let args = ["exec", "job", "--preserve", "--", "sh", "-c", &script];
    let mut command = root.luoctl(&path, &args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait(|| root.run(&path, &["list"]).out.contains("subscribed"));
    root.run(&path, &["kexec", "--yes"])
        .expect(7)
        .says("the command has failed with the exit code 5");
    root.run(&path, &["kexec", "--yes"]).expect(0);
    luod.wait();
    Output::of(child).expect(0);
    assert_eq!(world.kernel.updates(), 1);

    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let run = |args: &[&str]| root.run(luod.path(), args);
    let states = |state: &str| run(&["list"]).out.contains(state);
    run(&["exec", "job", "--preserve", "--", "true"])
        .expect(1)
        .says("session job of the previous kernel is not finished");
    // A command that fails leaves the session to the next one.
    run(&["exec", "job", "--finish", "--", "false"]).expect(1);
    wait(|| states("unclaimed"));
    run(&["exec", "job", "--", "sh", "-c", CHECK]).expect(0);
    wait(|| states("unclaimed"));
    // The fake kernel is not in the process of luoctl.
    run(&["exec", "job", "--finish", "--", "sh", "-c", CHECK])
        .expect(1)
        .says("cannot finish a session");
    wait(|| states("unclaimed"));
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done",
        root.path("go").display()
    );
    let mut child = root.luoctl(luod.path(), &["exec", "job", "--", "sh", "-c", &script]);
    let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    wait(|| states("claimed ") && !states("unclaimed"));
    run(&["finish", "job", "--yes"]).expect(0);
    root.put("go", "");
    Output::of(child.unwrap()).expect(0);
    assert!(states("finished"));
    run(&["exec", "job", "--", "true"])
        .expect(1)
        .says("no session job");
}

/// What a command did besides preserving files is taken back if it has succeeded, and the next kernel
/// is not started.
#[test]
fn an_update_that_is_cancelled() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let run = |args: &[&str]| root.run(luod.path(), args);
    let [fails, did, undone] = ["fails", "did", "undone"].map(|name| root.path(name));
    root.put("fails", "");
    let (fails, did) = (fails.display(), did.display());
    let script = format!("test ! -e {fails} && touch {did}");
    let undo = format!("echo x >> {}; exit 3", undone.display());
    let args = [
        "exec",
        "job",
        "--preserve",
        "--undo",
        &undo,
        "--",
        "sh",
        "-c",
        &script,
    ];
    let _child = Background::start(&root, luod.path(), &args);
    // Fails after the first command has run.
    let later = format!("test -e {fails} || while ! rm {did}; do sleep 0.05; done; exit 1");
    let other = ["exec", "other", "--preserve", "--", "sh", "-c", &later];
    let _other = Background::start(&root, luod.path(), &other);
    let list = || run(&["list"]).out;
    let subscribed = || list().matches("subscribed").count() == 2;
    wait(subscribed);
    // The command has failed: there is nothing to take back.
    run(&["kexec", "--yes"]).expect(7);
    wait(subscribed);
    assert!(!undone.exists());
    root.remove("fails");
    for times in 1..3 {
        run(&["kexec", "--yes"]).expect(7);
        wait(subscribed);
        wait(|| std::fs::read_to_string(&undone).is_ok_and(|text| text.lines().count() == times));
    }
}

/// A command that hangs until it is terminated must not keep luoctl from the next update, although
/// that begins before the command has ended.
#[test]
fn a_command_that_does_not_end() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let run = |args: &[&str]| root.run(luod.path(), args);
    let (runs, ends) = (root.path("runs"), root.path("ends"));
    let script = format!(
        "trap 'echo >> {}; sleep 0.5; exit 4' TERM; echo >> {}; while :; do sleep 0.05; done",
        ends.display(),
        runs.display()
    );
    let args = ["exec", "job", "--preserve", "--", "sh", "-c", &script];
    let child = Background::start(&root, luod.path(), &args);
    wait(|| run(&["list"]).out.contains("subscribed"));
    run(&["kexec", "--yes", "--timeout", "1"]).expect(7);
    wait(|| ends.exists());
    // The operator ends luoctl while the command runs.
    std::fs::remove_file(&runs).unwrap();
    run(&["kexec", "--yes", "--detach"]).expect(0);
    wait(|| runs.exists());
    child.terminate();
    assert_eq!(child.end().code(), Some(4));
    wait(|| run(&["status"]).out.contains("phase:      idle"));
    assert_eq!(world.kernel.updates(), 0);
}

/// After a command has ended, signals end luoctl.
#[test]
fn signals_between_updates() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let run = |args: &[&str]| root.run(luod.path(), args);
    let args = ["exec", "job", "--preserve", "--", "false"];
    let child = Background::start(&root, luod.path(), &args);
    wait(|| run(&["list"]).out.contains("subscribed"));
    run(&["kexec", "--yes"]).expect(7);
    // It has received the result: luoctl waits again.
    wait(|| run(&["list"]).out.contains("subscribed"));
    child.terminate();
    assert_eq!(child.end().signal(), Some(15));
}

#[test]
fn failures() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let run = |args: &[&str]| root.run(luod.path(), args);
    run(&["exec", "job"]).expect(2);
    run(&["exec", "a b", "--", "true"]).expect(2);
    run(&["exec", "job", "--preserve", "--finish", "--", "true"]).expect(2);
    run(&["exec", "job", "--undo", "true", "--", "true"]).expect(2);
    run(&["exec", "job", "--", "true"]).expect(1);
    let nowhere = std::path::Path::new("/nonexistent/luod.sock");
    root.run(nowhere, &["exec", "job", "--", "true"]).expect(3);
}
