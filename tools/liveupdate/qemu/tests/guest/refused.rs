// SPDX-License-Identifier: GPL-2.0

//! Guests that cannot take part in an update, although their QEMU would, and guests that the next
//! host refuses.

use crate::machine::{counts_on, jump, result, step_until, update, Machine};
use liveupdate::luod::Member;
use luo_qemu::{guest::Guest, moved::Moved, spec::Spec};
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::Outcome;
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
};

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
    // luod may have sent the session before it received the refusal: nothing is left of the
    // session.
    step_until(&mut member, |_| world.kernel.outgoing().is_empty());
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
    let (mut luod, path, mut member) = machine.start(&world);
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

/// A QEMU that is a shell script: `change`, then the real one.
fn wrapper(directory: &Path, name: &str, change: &str) -> PathBuf {
    let path = directory.join(name);
    let text = format!("#!/bin/sh\n{change}\nexec qemu-system-x86_64 \"$@\"\n");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

/// `luo-qemu start` with a program, and with paths that have moved.
fn start(
    machine: &Machine,
    luod: &Luod,
    program: &Path,
    moved: Option<Moved>,
) -> io::Result<Member<Guest>> {
    let spec = Spec::new("g", PathBuf::new(), Vec::new(), Vec::new()).unwrap();
    let program = Some(program.to_owned());
    let mut guest = Guest::new(spec, machine.directory(), program).unwrap();
    guest.replace(moved.into_iter().collect());
    Member::join_at(luod.path(), "vm-g", &["vm-g"], guest)
}

#[test]
fn another_qemu_resumes_what_the_first_one_refuses() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let (luod, path, mut member) = machine.start(&world);
    let before = counts_on(&mut member);
    jump(luod, member);

    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let is_kept = || world.kernel.incoming().iter().any(|name| name == "vm-g");
    let directory = machine.dir.path();
    // A QEMU that has another machine under the name.
    let change =
        "for a; do shift; case $a in pc,*) a=q35,${a#pc,};; esac; set -- \"$@\" \"$a\"; done";
    let other = wrapper(directory, "other", change);
    let error = start(&machine, &luod, &other, None).unwrap_err();
    assert!(error.to_string().contains("QEMU"), "{error}");
    assert!(is_kept(), "the session is kept");
    assert!(machine.qemus().is_empty());

    // The disk has moved.
    let good = wrapper(directory, "good", "");
    let new = directory.join("new");
    fs::create_dir(&new).unwrap();
    fs::rename(directory.join("disk"), new.join("disk")).unwrap();
    start(&machine, &luod, &good, None).unwrap_err();
    let moved = |old: &str| {
        let (old, new) = (directory.join(old), new.join(old));
        let moved = format!("{}={}", old.display(), new.display());
        Some(moved.parse().unwrap())
    };
    let error = start(&machine, &luod, &good, moved("dis")).unwrap_err();
    assert!(error.to_string().contains("has no path"), "{error}");
    assert!(is_kept(), "the session is kept");
    let mut member = start(&machine, &luod, &good, moved("disk")).unwrap();
    assert!(!is_kept(), "the session is finished");
    assert!(counts_on(&mut member) > before);

    // The next update needs neither.
    jump(luod, member);
    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let mut member = machine.join(&path);
    counts_on(&mut member);
    drop(luod);
    member.participant_mut().kill();
}
