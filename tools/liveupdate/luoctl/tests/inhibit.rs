// SPDX-License-Identifier: GPL-2.0

//! `luoctl inhibit`.

mod common;

use common::{start, wait, Root};
use luod::fake::{own_config, FakeWorld, Luod};
use std::path::Path;

#[test]
fn no_update_starts() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let path = luod.path().to_owned();
    let go = root.path("go");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; exit 9",
        go.display()
    );
    let inhibit = ["inhibit", "a backup", "--", "sh", "-c", &script];
    let mut child = root.luoctl(&path, &inhibit).spawn().unwrap();
    let says = |path: &Path, what: &str| root.run(path, &["status"]).out.contains(what);
    wait(|| says(&path, "inhibited:  a backup (sh pid"));
    let dry_run = ["kexec", "--dry-run", "--expect", "0"];
    root.run(&path, &dry_run)
        .expect(1)
        .says("inhibits updates: a backup; wait for its end");
    // luod is restarted.
    drop(luod);
    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    wait(|| says(&path, "inhibited:  a backup"));
    root.put("go", "");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    wait(|| !says(&path, "inhibited:"));
    root.run(luod.path(), &dry_run).expect(0);
}

#[test]
fn failures() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let run = |args: &[&str]| root.run(luod.path(), args);
    run(&["inhibit", "why"]).expect(2);
    run(&["inhibit", "why", "--", "/nonexistent/program"])
        .expect(1)
        .says("cannot run /nonexistent/program");
    run(&["inhibit", "why", "--", "sh", "-c", "kill -TERM $$"]).expect(143);
    let nowhere = Path::new("/nonexistent/luod.sock");
    // The command must not run without protection.
    let flag = root.path("flag");
    let touch = ["inhibit", "why", "--", "touch", flag.to_str().unwrap()];
    root.run(nowhere, &touch).expect(3);
    assert!(!flag.exists());
}
