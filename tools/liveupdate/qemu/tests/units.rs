// SPDX-License-Identifier: GPL-2.0

//! The unit of guests.

use std::collections::BTreeMap;

/// The settings of the unit; the last one of a name applies.
fn settings() -> BTreeMap<&'static str, &'static str> {
    let unit = include_str!("../units/luo-qemu@.service");
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).collect()
}

/// QEMU inherits the limits of the service.
#[test]
fn limits_are_high_enough_for_a_guest() {
    let unit = settings();
    assert_eq!(unit["LimitMEMLOCK"], "infinity");
    assert_eq!(unit["LimitNOFILE"], "65536");
    assert_eq!(unit["TasksMax"], "infinity");
}

/// A session is kept until the guest can be resumed, and QEMU outlives luo-qemu.
#[test]
fn guests_are_not_given_up() {
    let unit = settings();
    assert_eq!(unit["Type"], "notify");
    assert_eq!(unit["Restart"], "on-failure");
    assert_eq!(unit["StartLimitIntervalSec"], "0");
    assert_eq!(unit["TimeoutStartSec"], "infinity");
    assert_eq!(unit["KillMode"], "process");
}

/// Guests are resumed with the first units, and stopped after luod has asked them.
#[test]
fn guests_do_not_wait_for_the_machine() {
    let unit = settings();
    assert_eq!(unit["DefaultDependencies"], "no");
    assert_eq!(unit["WantedBy"], "sysinit.target");
    assert_eq!(unit["Before"], "luod-handover.service");
    assert!(unit["After"].contains("luod.socket"));
}
