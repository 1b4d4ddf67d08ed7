// SPDX-License-Identifier: GPL-2.0

//! Two guests, one of which cannot take part in an update.

use crate::machine::{counts_on, result, update_with, Machine, LIMIT};
use liveupdate::luod::{Member, SessionName};
use luo_qemu::guest::Guest;
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::Outcome;
use std::{
    thread,
    time::{Duration, Instant},
};

/// Lets both guests take part until something is so.
fn step_both(
    good: &mut Member<Guest>,
    bad: &mut Member<Guest>,
    so: impl Fn(&mut Member<Guest>) -> bool,
) {
    let start = Instant::now();
    while !so(good) {
        assert!(start.elapsed() < LIMIT);
        for member in [&mut *good, &mut *bad] {
            member.step(Some(Duration::from_millis(10))).unwrap();
        }
    }
}

/// An update is aborted, unless it is forced: then it continues without the guest. The session of that
/// guest can be one that the configuration requires.
fn one_cannot_go(required: bool) {
    let machine = Machine::new();
    let mut other = Machine::named("h");
    other.add("-snapshot");
    other.forced = true;
    let world = FakeWorld::new();
    let mut config = own_config();
    if required {
        config.required = vec![SessionName::new("vm-h").unwrap()];
    }
    let luod = Luod::start(&world, config.clone()).unwrap();
    let path = luod.path().to_owned();
    let mut good = machine.join(&path);
    let mut bad = other.join(&path);
    let before = counts_on(&mut good);
    counts_on(&mut bad);

    let operator = update_with(&luod, false, false);
    let waits = thread::spawn(move || result(operator));
    step_both(&mut good, &mut bad, |_| waits.is_finished());
    let report = waits.join().unwrap();
    assert_eq!(report.outcome, Outcome::Aborted);
    assert!(format!("{report:?}").contains("temporary overlays"));
    step_both(&mut good, &mut bad, |_| world.kernel.outgoing().is_empty());
    for member in [&mut good, &mut bad] {
        assert_eq!(member.participant_mut().status().unwrap(), "running");
        counts_on(member);
    }

    let operator = update_with(&luod, false, true);
    step_both(&mut good, &mut bad, |good| good.participant().is_frozen());
    let status = bad.participant_mut().status().unwrap();
    assert_eq!(status, "running", "it was not paused");
    luod.wait();
    drop(operator);
    for mut member in [good, bad] {
        member.participant_mut().kill();
    }

    let luod = Luod::start_at(&world, config, &path).unwrap();
    let has = |name: &str| world.kernel.incoming().iter().any(|one| one == name);
    assert!(has("vm-g"));
    // Its session may have been on the way to it, and be handed over empty: luod discards it.
    let start = Instant::now();
    while has("vm-h") {
        assert!(
            start.elapsed() < LIMIT,
            "the session of the other guest is left"
        );
        thread::sleep(Duration::from_millis(10));
    }
    let mut good = machine.join(&path);
    assert_eq!(good.restored().len(), 1);
    assert!(counts_on(&mut good) > before);
    drop(luod);
    good.participant_mut().kill();
}

#[test]
fn one_of_two_guests_cannot_go() {
    one_cannot_go(false);
}

#[test]
fn a_required_guest_cannot_go() {
    one_cannot_go(true);
}
