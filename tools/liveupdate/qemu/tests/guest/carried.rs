// SPDX-License-Identifier: GPL-2.0

//! Properties of a guest that an update does not change.

use crate::machine::{counts_on, step_until, update, Machine};
use liveupdate::luod::Member;
use luo_qemu::{guest::Guest, qmp::Qmp};
use luod::fake::{own_config, FakeWorld, Luod};
use serde_json::{json, Value};
use std::{collections::BTreeMap, fs, os::unix::fs::FileExt, path::PathBuf};

/// The address at which the test writes into the memory of the guest, which does not use
/// it.
const PATTERN: u64 = 0x80_0000;

/// The memory backends of the guest, as QEMU sees them: the size, and whether it is shared.
fn memory(monitor: &mut Qmp) -> Vec<(u64, bool)> {
    let found = monitor.call("query-memdev", json!({})).unwrap();
    let one = |memory: &Value| (memory["size"].as_u64().unwrap(), memory["share"] == true);
    found.as_array().unwrap().iter().map(one).collect()
}

/// The working directory and the environment of the QEMU of a machine.
fn place(machine: &Machine) -> (PathBuf, Vec<u8>) {
    let process = PathBuf::from(format!("/proc/{}", machine.qemu()));
    let environment = fs::read(process.join("environ")).unwrap();
    (fs::read_link(process.join("cwd")).unwrap(), environment)
}

#[test]
fn memory_monitors_and_environment_are_the_same() {
    let mut machine = Machine::new();
    // -m 16M is replaced: the last one applies.
    machine.add("-m 32M -object memory-backend-ram,id=a,size=16M");
    machine.add("-object memory-backend-memfd,id=b,size=16M,seal=on");
    machine.add("-numa node,memdev=a -numa node,memdev=b");
    machine.add_monitor();
    let directory = machine.dir.path().canonicalize().unwrap();
    let environment = BTreeMap::from([("A".to_owned(), "b = c".to_owned())]);
    machine.place = Some((directory.clone(), environment));
    let world = FakeWorld::new();
    let (luod, path, mut member) = machine.start(&world);
    counts_on(&mut member);
    let mut monitor = machine.monitor();
    assert_eq!(memory(&mut monitor), [(16 << 20, true); 2]);
    let before = place(&machine);
    assert!(
        before == (directory, b"A=b = c\0".to_vec()),
        "another place"
    );
    let file = |member: &Member<Guest>, at| member.participant().memory_file(at).unwrap();
    for at in 0..2 {
        let pattern = [b'a' + at as u8; 4096];
        file(&member, at).write_all_at(&pattern, PATTERN).unwrap();
    }

    // The operator's monitor is not disturbed by an update, and sees it.
    let operator = update(&luod, false);
    step_until(&mut member, |member| member.participant().is_frozen());
    assert_eq!(monitor.status().unwrap(), "postmigrate");
    luod.wait();
    drop(operator);
    member.participant_mut().kill();
    drop((member, monitor));

    // The next luo-qemu is started in another place.
    machine.place = None;
    let _luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let mut member = machine.join(&path);
    assert_eq!(member.restored().len(), 1);
    counts_on(&mut member);
    assert!(place(&machine) == before, "another place");
    let mut monitor = machine.monitor();
    assert_eq!(monitor.status().unwrap(), "running");
    assert_eq!(memory(&mut monitor), [(16 << 20, true); 2]);
    for at in 0..2 {
        let mut found = [0; 4096];
        file(&member, at)
            .read_exact_at(&mut found, PATTERN)
            .unwrap();
        assert!(found == [b'a' + at as u8; 4096], "other memory");
    }
    member.participant_mut().kill();
}
