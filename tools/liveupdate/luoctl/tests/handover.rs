// SPDX-License-Identifier: GPL-2.0

//! `luoctl handover`, which luod-handover.service calls.

mod common;

use common::{start, wait, Client, Root};
use luod::fake::{own_config, FakeWorld, Luod};
use std::{collections::BTreeMap, path::Path};

const HANDOVER: &[&str] = &["handover"];

#[test]
fn nothing_happens_unless_there_is_a_kexec() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _client = Client::start(luod.path(), "cache");
    let said = root.run(luod.path(), HANDOVER).expect(0);
    assert!(said.out.is_empty() && said.err.is_empty(), "{said:?}");
    root.run(luod.path(), &["report"])
        .expect(1)
        .says("no update");
    root.run(Path::new("/nonexistent"), HANDOVER)
        .expect(3)
        .says("is it running?");
}

#[test]
fn who_is_not_ready_is_named() {
    let (root, world) = (Root::new(), FakeWorld::new());
    world.state().store = Some(BTreeMap::new());
    world.state().by_manager = true;
    for (update, fault) in [(1, Some("no time")), (2, None)] {
        let luod = start(&world);
        let path = luod.path().to_owned();
        let good = Client::start(&path, "good");
        let other = Client::with_fault(&path, "other", fault);
        wait(|| root.run(&path, &["list"]).out.contains("other"));
        world.state().kexec_under_way = true;
        let code = i32::from(fault.is_some());
        let said = root.run(&path, HANDOVER).expect(code);
        let said = said.says(&format!("update {update}: jump"));
        let lost = said
            .err
            .contains("session other is lost: the client refuses: no time");
        assert_eq!(lost, fault.is_some(), "{said:?}");
        // The handover has already been done.
        root.run(&path, HANDOVER).expect(0).says("jump");
        luod.terminate();
        drop((good, other));
        world.boot();
        assert_eq!(world.kernel.updates(), update);

        let luod = Luod::start_at(&world, own_config(), &path).unwrap();
        let good = Client::start(&path, "good");
        let other = fault.is_none().then(|| Client::start(&path, "other"));
        wait(|| {
            let said = root.run(&path, &["status"]).out;
            said.contains("incoming:   0")
        });
        let report = root.run(&path, &["report"]).expect(0);
        let report = report.says("updated").says("session good: finished");
        let lost = report
            .out
            .contains("session other: dropped, the client refuses: no time");
        assert_eq!(lost, fault.is_some(), "{report:?}");
        drop((good, other, luod));
    }
}

#[test]
fn without_an_image() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    world.state().kexec_under_way = true;
    world.state().image_loaded = Some(false);
    root.run(luod.path(), HANDOVER)
        .expect(1)
        .says("no kernel is loaded");
}

/// The update that started this kernel ends while the next one begins: its result is not that of the next
/// one.
#[test]
fn the_result_of_the_last_update_is_another_one() {
    let (root, world) = (Root::new(), FakeWorld::new());
    world.state().store = Some(BTreeMap::new());
    world.state().by_manager = true;
    let luod = start(&world);
    let path = luod.path().to_owned();
    let clients = ["good", "other"].map(|name| Client::start(&path, name));
    wait(|| root.run(&path, &["list"]).out.contains("other"));
    world.state().kexec_under_way = true;
    root.run(&path, HANDOVER).expect(0);
    luod.terminate();
    drop(clients);
    world.boot();

    let _luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let _good = Client::start(&path, "good");
    wait(|| root.run(&path, &["list"]).out.contains("subscribed"));
    // The session of the other client is discarded, which ends the last update.
    world.state().by_manager = false;
    world.state().kexec_error = Some(22);
    root.run(&path, &["kexec", "--yes", "--force"])
        .expect(7)
        .says("cannot start the next kernel");
}
