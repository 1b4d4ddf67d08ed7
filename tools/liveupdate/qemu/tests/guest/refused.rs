// SPDX-License-Identifier: GPL-2.0

//! Guests that cannot take part in an update, although their QEMU would.

use crate::machine::{counts_on, jump, result, step_until, update, Machine};
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::Outcome;
use std::{fs, thread};

/// A machine with one more disk, with the properties `properties`.
fn machine(properties: &str) -> Machine {
    let mut machine = Machine::new();
    let file = machine.dir.path().join("data");
    fs::write(&file, vec![0; 1 << 20]).unwrap();
    let file = file.display();
    machine.add(&format!(
        "-drive file={file},format=raw,if=ide,index=1,{properties}"
    ));
    machine
}

/// An update that the guest of `machine` refuses. Returns the reason.
fn refuse(machine: &Machine) -> String {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let mut member = machine.join(luod.path());
    counts_on(&mut member);
    let operator = update(&luod, false);
    let waits = thread::spawn(move || result(operator));
    step_until(&mut member, |_| waits.is_finished());
    let report = waits.join().unwrap();
    assert_eq!(report.outcome, Outcome::Aborted);
    assert_eq!(member.participant_mut().status().unwrap(), "running");
    counts_on(&mut member);
    assert!(world.kernel.outgoing().is_empty(), "nothing is left");
    member.participant_mut().kill();
    format!("{report:?}")
}

#[test]
fn a_risk_must_be_accepted() {
    let mut machine = machine("cache=unsafe");
    let why = refuse(&machine);
    assert!(why.contains("never waits for its medium"), "{why}");

    machine.forced = true;
    let world = FakeWorld::new();
    let mut luod = Luod::start(&world, own_config()).unwrap();
    let path = luod.path().to_owned();
    let mut member = machine.join(&path);
    // The next luo-qemu knows that it was accepted.
    machine.forced = false;
    for _ in 0..2 {
        counts_on(&mut member);
        jump(luod, member);
        luod = Luod::start_at(&world, own_config(), &path).unwrap();
        member = machine.join(&path);
    }
    counts_on(&mut member);
    member.participant_mut().kill();
}

#[test]
fn what_is_lost_for_certain_cannot_be_accepted() {
    let mut machine = machine("snapshot=on");
    machine.forced = true;
    let why = refuse(&machine);
    assert!(why.contains("temporary overlay"), "{why}");
}
