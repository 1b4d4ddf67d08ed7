// SPDX-License-Identifier: GPL-2.0

//! The units of systemd.

use std::collections::BTreeMap;

const LUOD: &str = include_str!("../units/luod.service");
const HANDOVER: &str = include_str!("../units/luod-handover.service");
const VARLINK: &str = include_str!("../units/luod-varlink.service");

/// The settings of a unit; repeated settings are joined.
fn settings(unit: &str) -> BTreeMap<&str, String> {
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    let mut settings = BTreeMap::<&str, String>::new();
    for (name, value) in lines.filter_map(|line| line.split_once('=')) {
        let known = settings.entry(name).or_default();
        known.push_str(value);
    }
    settings
}

/// The services that only connect to luod have no more privileges than it.
#[test]
fn clients_are_as_hardened_as_luod() {
    is_as_hardened_as_luod(&settings(HANDOVER));
    is_as_hardened_as_luod(&settings(VARLINK));
}

#[track_caller]
fn is_as_hardened_as_luod(unit: &BTreeMap<&str, String>) {
    let luod = settings(LUOD);
    let hardening = [
        "CapabilityBoundingSet",
        "DevicePolicy",
        "IPAddressDeny",
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "NoNewPrivileges",
        "Private",
        "Protect",
        "Restrict",
        "SystemCall",
        "UMask",
    ];
    let mut compared = 0;
    for (name, value) in luod {
        let is_hardening = hardening.iter().any(|prefix| name.starts_with(prefix));
        if !is_hardening || name.starts_with("Restart") {
            continue;
        }
        let other = unit.get(name).unwrap_or_else(|| panic!("no {name}="));
        match name {
            // It needs fewer privileges.
            "CapabilityBoundingSet" => assert_eq!(other, ""),
            "SystemCallFilter" => assert_eq!(other, "@system-service"),
            _ => assert_eq!(*other, value, "{name}"),
        }
        compared += 1;
    }
    assert!(compared >= 20, "{compared}");
    assert!(!unit.contains_key("DeviceAllow"));
}

/// It is active before the boot is complete: its order only applies to the stop.
#[test]
fn the_handover_waits_for_no_boot_job() {
    let luod = settings(LUOD);
    let starts = &luod["ExecStartPost"];
    assert!(
        starts.contains("--no-block --job-mode=ignore-dependencies start luod-handover.service")
    );
    // It does not depend on a job that waits for others.
    for pulls in ["Wants", "Requires", "BindsTo", "Upholds"] {
        let pulled = luod.get(pulls);
        assert!(!pulled.is_some_and(|units| units.contains("handover")));
    }
    let handover = settings(HANDOVER);
    assert!(!handover.contains_key("WantedBy"));
    assert!(handover["After"].contains("luod.service multi-user.target"));
}

/// Services and scopes are stopped after luod has asked all clients.
#[test]
fn what_is_stopped_later() {
    for drop_in in [
        include_str!("../units/service.d/luod-handover.conf"),
        include_str!("../units/scope.d/luod-handover.conf"),
    ] {
        assert_eq!(settings(drop_in)["Before"], "luod-handover.service");
    }
}

/// The metrics have the name that the textfile collector reads, in the only writable directory.
#[test]
fn the_metrics_are_written_where_they_are_read() {
    let service = settings(include_str!("../units/luod-metrics.service"));
    let dir = &service["ConditionPathIsDirectory"];
    let expected = format!("/usr/bin/luoctl metrics --output {dir}/luod.prom");
    assert_eq!(service["ExecStart"], expected);
    assert_eq!(service["ReadWritePaths"], format!("-{dir}"));
    assert_eq!(service["UMask"], "0022");
    let timer = settings(include_str!("../units/luod-metrics.timer"));
    assert_eq!(timer["WantedBy"], "timers.target");
}

/// Hooks run outside of the sandbox of luod, also while the machine shuts down.
#[test]
fn the_service_for_hooks() {
    let hooks = settings(include_str!("../units/luod-hooks@.service"));
    assert_eq!(hooks["ExecStart"], "/usr/sbin/luod --run-hooks /etc/luod");
    assert_eq!(hooks["StandardInput"], "file:/run/luod/hooks-%i.json");
    assert_eq!(
        hooks["StandardOutput"],
        "truncate:/run/luod/hooks-%i.result"
    );
    assert_eq!(hooks["DefaultDependencies"], "no");
    assert_eq!(hooks["Slice"], "system.slice");
    assert_eq!(hooks["TimeoutStartSec"], "infinity");
    assert_eq!(hooks["TimeoutStopSec"], "5");
    assert!(!hooks.contains_key("Conflicts"));
}
