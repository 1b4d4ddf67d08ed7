// SPDX-License-Identifier: GPL-2.0

//! A guest that its operator has paused stays paused.

use crate::machine::{abort, count, counts_on, jump, step_until, update, Machine};
use liveupdate::luod::Member;
use luo_qemu::guest::Guest;
use luod::fake::{own_config, FakeWorld, Luod};
use serde_json::json;
use std::{thread::sleep, time::Duration};

/// Long enough that a guest that runs counts on.
const WHILE: Duration = Duration::from_millis(200);

fn operator(machine: &Machine, command: &str) {
    machine.monitor().call(command, json!({})).unwrap();
}

/// The counter of a guest that is paused.
fn stands_still(member: &Member<Guest>) -> u32 {
    let memory = member.participant().memory_file(0).unwrap();
    let before = count(&memory);
    sleep(WHILE);
    assert_eq!(count(&memory), before, "the guest counts");
    before
}

#[test]
fn a_paused_guest_stays_paused() {
    let mut machine = Machine::new();
    machine.add_monitor();
    let world = FakeWorld::new();
    let (luod, path, mut member) = machine.start(&world);
    counts_on(&mut member);
    operator(&machine, "stop");
    let paused = stands_still(&member);

    // After an update that was aborted, and one that was not.
    abort(&luod, &mut member);
    assert_eq!(stands_still(&member), paused);
    // Its status shows this.
    member.participant_mut().watch().unwrap();
    assert_eq!(machine.record().does(), "paused");
    assert_eq!(jump(luod, member), paused);
    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let mut member = machine.join(&path);
    assert_eq!(member.restored().len(), 1);
    assert_eq!(member.participant_mut().status().unwrap(), "paused");
    assert_eq!(stands_still(&member), paused);

    // The operator resumes it, also after an update that was aborted, and then it runs in the next
    // kernel.
    abort(&luod, &mut member);
    operator(&machine, "cont");
    let before = counts_on(&mut member);
    assert!(before > paused, "it was {paused} and is {before}");
    member.participant_mut().watch().unwrap();
    assert_eq!(machine.record().does(), "running");
    jump(luod, member);
    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let mut member = machine.join(&path);
    assert!(counts_on(&mut member) > before);
    drop(luod);
    member.participant_mut().kill();
}

#[test]
fn the_next_luo_qemu_leaves_it_paused() {
    let mut machine = Machine::new();
    machine.add_monitor();
    let world = FakeWorld::new();
    let (luod, _, mut member) = machine.start(&world);
    counts_on(&mut member);
    operator(&machine, "stop");
    let paused = stands_still(&member);

    // luo-qemu is killed in an update, which never comes to its end.
    let operator = update(&luod, false);
    step_until(&mut member, |member| member.participant().is_frozen());
    drop(member);
    luod.wait();
    drop(operator);
    let mut guest = machine.guest();
    assert!(guest.adopt().unwrap());
    assert!(guest.is_orphan());
    guest.resume().unwrap();
    let memory = guest.memory_file(0).unwrap();
    sleep(WHILE);
    assert_eq!(count(&memory), paused);
    guest.kill();
}
