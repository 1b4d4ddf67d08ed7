// SPDX-License-Identifier: GPL-2.0

//! A session is finished only after the virtual processors have run.

use crate::machine::{Machine, LIMIT};
use luo_qemu::processors::Processors;
use std::time::{Duration, Instant};

#[test]
fn processors_run_when_the_guest_is_resumed() {
    let mut machine = Machine::new();
    // The boot sector never starts the second one, which waits from the beginning.
    machine.add("-S -smp 2");
    machine.add_monitor();
    let mut guest = machine.guest();
    guest.launch(None).unwrap();
    let mut monitor = machine.monitor();
    let processors = |monitor: &mut _| Processors::new(monitor, machine.qemu()).unwrap();

    // QEMU's threads may still be busy with its start.
    let start = Instant::now();
    let error = loop {
        match processors(&mut monitor).wait(&mut monitor, Duration::ZERO) {
            Err(error) => break error,
            Ok(_) => assert!(start.elapsed() < LIMIT, "they run"),
        }
    };
    let none = "none of its 2 processors has run, QEMU says prelaunch";
    assert_eq!(error.to_string(), none);

    let resumed = processors(&mut monitor);
    monitor.resume().unwrap();
    assert_eq!(resumed.wait(&mut monitor, LIMIT).unwrap(), None);
    guest.kill();
}
