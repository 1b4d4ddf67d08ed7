// SPDX-License-Identifier: GPL-2.0

//! Disks of a guest in an update.

use crate::machine::{counts_on, jump, result, step_until, update, Machine};
use liveupdate::luod::Member;
use luo_qemu::guest::Guest;
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::Outcome;
use serde_json::json;
use std::thread;

/// Updates a machine on which a disk of the guest fails to flush, once or always. The update is
/// aborted.
fn abort(luod: &Luod, world: &FakeWorld, once: &str) -> (Machine, Member<Guest>) {
    let mut machine = Machine::new();
    let file = machine.dir.path().join("data");
    std::fs::write(&file, vec![0; 1 << 20]).unwrap();
    machine.add_monitor();
    machine.add(&format!(
        "-blockdev driver=blkdebug,node-name=data,image.driver=file,image.filename={},\
         inject-error.0.event=none,inject-error.0.iotype=flush,inject-error.0.errno=5,\
         inject-error.0.once={once} -device ide-hd,drive=data,bus=ide.1,id=disk",
        file.display()
    ));
    let mut member = machine.join(luod.path());
    counts_on(&mut member);
    // Without a write, there is nothing to flush.
    let write = json!({ "command-line": "qemu-io -d disk \"write 0 4096\"" });
    let mut monitor = machine.monitor();
    monitor.call("human-monitor-command", write).unwrap();

    let operator = update(luod, false);
    let waits = thread::spawn(move || result(operator));
    step_until(&mut member, |_| waits.is_finished());
    let report = waits.join().unwrap();
    assert_eq!(report.outcome, Outcome::Aborted);
    let why = format!("{report:?}");
    assert!(
        why.contains("QEMU cannot save the state of the guest"),
        "{why}"
    );
    step_until(&mut member, |_| world.kernel.outgoing().is_empty());
    (machine, member)
}

#[test]
fn a_disk_that_does_not_flush_aborts_the_update() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let (_machine, mut member) = abort(&luod, &world, "on");
    assert_eq!(member.participant_mut().status().unwrap(), "running");
    counts_on(&mut member);

    // The disk works again.
    jump(luod, member);
}

#[test]
fn a_disk_that_never_flushes_keeps_the_guest_paused() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let (_machine, mut member) = abort(&luod, &world, "off");
    let guest = member.participant_mut();
    assert!(guest.is_orphan(), "it is tried again");
    let error = guest.resume().unwrap_err().to_string();
    assert!(error.contains("QEMU cannot save the state"), "{error}");
    assert!(guest.is_orphan());
    guest.kill();
}
