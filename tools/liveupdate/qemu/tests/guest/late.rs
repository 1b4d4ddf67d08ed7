// SPDX-License-Identifier: GPL-2.0

//! The last steps of an update: the next kernel does not start, or QEMU ends before.

use crate::machine::{
    count, counts_on, jump, pause, result, step_until, update, update_with_other, Machine,
};
use liveupdate::luod::Member;
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::Outcome;
use std::time::{Duration, Instant};

/// The errno of a kernel that does not start.
const EINVAL: i32 = 22;

#[test]
fn a_guest_goes_on_if_the_next_kernel_does_not_start() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let mut member = machine.join(luod.path());
    counts_on(&mut member);
    world.state().kexec_error = Some(EINVAL);
    let operator = update(&luod, false);
    step_until(&mut member, |member| member.participant().is_frozen());
    let status = member.participant_mut().status().unwrap();
    assert_eq!(status, "postmigrate");
    step_until(&mut member, |member| !member.participant().is_frozen());
    assert_eq!(result(operator).outcome, Outcome::Aborted);
    assert_eq!(member.participant_mut().status().unwrap(), "running");
    counts_on(&mut member);
    step_until(&mut member, |_| world.kernel.outgoing().is_empty());

    world.state().kexec_error = None;
    jump(luod, member);
}

/// A guest runs until all other clients are ready or wait for PAUSE as well.
#[test]
fn a_guest_does_not_wait_for_others() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let (luod, _, mut member) = machine.start(&world);
    counts_on(&mut member);
    let (mut other, operator) = update_with_other(&luod);
    step_until(&mut member, |_| world.kernel.outgoing().len() == 3);
    step_until(&mut member, |member| !member.is_idle());
    let end = Instant::now() + Duration::from_millis(300);
    step_until(&mut member, |_| Instant::now() > end);
    assert_eq!(member.participant_mut().status().unwrap(), "running");
    counts_on(&mut member);
    other.client.ready(&other.id).unwrap();
    step_until(&mut member, |member| member.participant().is_frozen());
    assert_eq!(member.participant_mut().status().unwrap(), "postmigrate");
    luod.wait();
    drop((operator, other));
    member.participant_mut().kill();
}

#[test]
fn a_guest_whose_state_is_saved_does_not_need_its_qemu() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let (luod, path, mut member) = machine.start(&world);
    counts_on(&mut member);
    let (mut other, operator) = pause(&luod, &mut member);
    let before = count(&member.participant().memory_file(0).unwrap());
    for process in machine.qemus() {
        process.end();
    }
    // luo-qemu ends when its QEMU has ended.
    step_until(&mut member, |member| {
        member.participant_mut().ended().unwrap() == Some(false)
    });
    drop(member);
    // The next luo-qemu does not start the guest anew, since it is to be handed over.
    let error = Member::join_at(&path, "vm-g", &["vm-g"], machine.guest()).unwrap_err();
    assert!(error.to_string().contains("vm-g"), "{error}");

    other.client.ready(&other.id).unwrap();
    luod.wait();
    drop((operator, other));

    let _luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let mut member = machine.join(&path);
    assert_eq!(member.restored().len(), 1);
    assert!(counts_on(&mut member) > before);
    member.participant_mut().kill();
}
