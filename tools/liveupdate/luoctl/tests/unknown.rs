// SPDX-License-Identifier: GPL-2.0

//! luoctl while luod cannot read the sessions of the previous kernel.

mod common;

use common::{start, wait, Root};
use liveupdate::OutgoingSession;
use luod::fake::FakeWorld;
use rustix::fs::{memfd_create, MemfdFlags};

/// The registry that luod finds.
fn damaged(world: &FakeWorld) {
    let device = world.kernel.open().unwrap();
    let session: OutgoingSession = device.create_session("luod-internal").unwrap();
    let file = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&file, b"{\"version\":99}").unwrap();
    session.preserve(&file, 0).unwrap();
    world.kernel.kexec();
}

#[test]
fn it_is_shown_and_can_be_given_up() {
    let (root, world) = (Root::new(), FakeWorld::new());
    damaged(&world);
    let luod = start(&world);
    let path = luod.path().to_owned();
    root.run(&path, &["status"])
        .expect(0)
        .says("phase:      unknown")
        .says("problem:    the sessions of the last update cannot be found")
        .says("start a newer luod");
    let json = root.run(&path, &["--json", "status"]).expect(0).json();
    assert_eq!(json[0]["phase"], "unknown");
    assert!(json[0]["problem"].as_str().unwrap().contains("version 99"));
    root.run(&path, &["kexec", "--dry-run", "--yes"])
        .expect(1)
        .says("try-again");
    root.run(&path, &["discard", "a", "--yes"])
        .expect(1)
        .says("try-again");
    root.run(&path, &["discard", "--yes"]).expect(2);
    root.run(&path, &["discard", "a", "--unknown", "--yes"])
        .expect(2);
    root.run(&path, &["discard", "--unknown"]).expect(8);
    root.run(&path, &["discard", "--unknown", "--yes"])
        .expect(0);
    root.run(&path, &["status"])
        .expect(0)
        .says("phase:      idle");
    root.run(&path, &["discard", "--unknown", "--yes"])
        .expect(1)
        .says("wrong-state");
}

#[test]
fn it_passes() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let device = world.kernel.open().unwrap();
    let luod = start(&world);
    let path = luod.path().to_owned();
    root.run(&path, &["status"])
        .expect(0)
        .says("phase:      unknown");
    drop(device);
    wait(|| {
        let json = root.run(&path, &["--json", "status"]).expect(0).json();
        json[0]["phase"] == "idle"
    });
}
