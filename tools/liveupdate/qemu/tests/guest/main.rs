// SPDX-License-Identifier: GPL-2.0

//! A guest under the real QEMU, with luod and a kernel in the process of the test. Needs
//! qemu-system-x86_64.

mod carried;
mod clock;
mod disk;
mod held;
mod killed;
mod late;
mod machine;
mod processors;
mod refused;
mod two;

use liveupdate::luod::Member;
use luo_qemu::{guest::Guest, run_dir::State, spec::Spec};
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::Outcome;
use machine::{count, counts_on, jump, result, step_until, update, Machine, LIMIT};
use std::{fs, os::unix::fs::MetadataExt, time::Instant};

#[test]
fn a_guest_survives() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let (mut luod, path, mut member) = machine.start(&world);
    counts_on(&mut member);

    // An update that is aborted.
    let dry = update(&luod, true);
    step_until(&mut member, |member| !member.is_idle());
    step_until(&mut member, |member| member.is_idle());
    assert_eq!(result(dry).outcome, Outcome::DryRun);
    assert_eq!(member.participant_mut().status().unwrap(), "running");
    counts_on(&mut member);

    for updates in 1..=2 {
        let before = jump(luod, member);
        luod = Luod::start_at(&world, own_config(), &path).unwrap();
        member = machine.join(&path);
        assert_eq!(member.restored().len(), 1);
        assert!(
            world.kernel.incoming().is_empty(),
            "the session is finished"
        );
        let after = counts_on(&mut member);
        assert!(after > before, "it was {before} and is {after}");
        assert_eq!(machine.status(), (State::Running, updates));
    }
    member.participant_mut().kill();
}

#[test]
fn a_guest_outlives_its_luo_qemu() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let (luod, path, mut member) = machine.start(&world);
    let before = counts_on(&mut member);
    let adopt = || {
        let mut guest = machine.guest();
        assert!(guest.adopt().unwrap());
        Member::join_at(&path, "vm-g", &["vm-g"], guest).unwrap()
    };

    // As if luo-qemu were killed: it sends nothing to QEMU.
    drop(member);
    member = adopt();
    assert!(!member.participant().is_orphan());
    let after = counts_on(&mut member);
    assert!(after > before, "it was {before} and is {after}");

    // The same while the guest is paused: it must not run before the update is over.
    let operator = update(&luod, false);
    step_until(&mut member, |member| member.participant().is_frozen());
    drop(member);
    luod.wait();
    drop(operator);
    let mut guest = machine.guest();
    assert!(guest.adopt().unwrap());
    assert!(guest.is_orphan());
    assert_eq!(guest.status().unwrap(), "postmigrate");
    let memory = guest.memory_file(0).unwrap();
    let paused = count(&memory);
    guest.resume().unwrap();
    let start = Instant::now();
    while count(&memory) == paused {
        assert!(start.elapsed() < LIMIT, "the guest does not count");
    }
    guest.kill();
    drop(guest);

    // There is no QEMU to take over any more.
    assert!(!machine.guest().adopt().unwrap());
}

#[test]
fn a_guest_that_cannot_go_on_is_kept() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let (luod, path, mut member) = machine.start(&world);
    let before = counts_on(&mut member);
    jump(luod, member);

    let _luod = Luod::start_at(&world, own_config(), &path).unwrap();
    // There is no QEMU on the new host, and then one that ends immediately.
    for program in ["/nonexistent/qemu", "/bin/false"] {
        let directory = machine.directory();
        let spec = Spec::new("g", "".into(), Vec::new(), Vec::new()).unwrap();
        let guest = Guest::new(spec, directory, Some(program.into())).unwrap();
        let error = Member::join_at(&path, "vm-g", &["vm-g"], guest).unwrap_err();
        assert!(
            error.to_string().contains("QEMU") || error.to_string().contains("qemu"),
            "{error}"
        );
        let kept = world.kernel.incoming();
        assert!(kept.iter().any(|name| name == "vm-g"), "{kept:?}");
    }
    let mut member = machine.join(&path);
    assert!(counts_on(&mut member) > before);
    member.participant_mut().kill();
}

#[test]
fn holes_in_huge_pages_are_filled() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let path = luod.path().to_owned();
    drop(machine.join(&path));

    // The memory is of usual pages, and counts as one of huge pages from now on.
    let description = machine.dir.path().join("g/spec.json");
    let mut spec: serde_json::Value =
        serde_json::from_slice(&fs::read(&description).unwrap()).unwrap();
    spec["memory"][0]["pages"] = "2M".into();
    fs::write(&description, spec.to_string()).unwrap();
    let mut guest = machine.guest();
    assert!(guest.adopt().unwrap());
    let mut member = Member::join_at(&path, "vm-g", &["vm-g"], guest).unwrap();
    counts_on(&mut member);
    let memory = member.participant().memory_file(0).unwrap().metadata();
    let memory = memory.unwrap();
    assert!(memory.blocks() * 512 < memory.len());

    let operator = update(&luod, false);
    step_until(&mut member, |member| member.participant().is_frozen());
    let memory = member.participant().memory_file(0).unwrap().metadata();
    let memory = memory.unwrap();
    assert_eq!(memory.blocks() * 512, memory.len());
    luod.wait();
    drop(operator);
    member.participant_mut().kill();
}
