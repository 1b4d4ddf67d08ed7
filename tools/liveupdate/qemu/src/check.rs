// SPDX-License-Identifier: GPL-2.0

//! Checks the command line of a guest for features that do not survive a live update.

use crate::{
    hugepages,
    memory::Backend,
    options::{self, Properties},
};
use serde::Serialize;
use std::{fmt, path::Path};

/// What a finding means for a live update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The guest is resumed; a part of it is not as before.
    Note,
    /// The guest is resumed, but its data may be lost if the update fails. The operator can accept
    /// that.
    Risk,
    /// The guest cannot be resumed, or not with its data.
    Fatal,
}

/// A feature that does not survive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it means for a live update.
    pub severity: Severity,
    /// The problem and its solution.
    pub text: String,
}

impl Finding {
    /// Whether the guest cannot take part in a live update. `forced` is whether its operator accepts
    /// risks.
    pub fn forbids(&self, forced: bool) -> bool {
        match self.severity {
            Severity::Note => false,
            Severity::Risk => !forced,
            Severity::Fatal => true,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Note => "note",
            Severity::Risk => "risk",
            Severity::Fatal => "no",
        };
        write!(f, "{kind}: {}", self.text)
    }
}

fn finding(severity: Severity, text: impl Into<String>) -> Finding {
    Finding {
        severity,
        text: text.into(),
    }
}

fn fatal(text: impl Into<String>) -> Finding {
    finding(Severity::Fatal, text)
}

fn note(text: impl Into<String>) -> Finding {
    finding(Severity::Note, text)
}

fn device(device: &Properties) -> Option<Finding> {
    let driver = device.get("driver").unwrap_or_default();
    let name = device.get("id").unwrap_or(driver);
    match driver {
        "vfio-pci" | "vfio-pci-nohotplug" | "vfio-ap" | "vfio-ccw" | "vfio-platform" => {
            Some(fatal(format!(
                "the device {name} ({driver}) is a device of the host, whose state QEMU cannot save: remove it"
            )))
        }
        "usb-host" | "usb-redir" => Some(note(format!(
            "the device {name} ({driver}) is plugged out and in again"
        ))),
        "ivshmem-plain" | "ivshmem-doorbell" => Some(fatal(format!(
            "the memory of the device {name} ({driver}) is not handed over: remove it"
        ))),
        "nvdimm" | "pc-dimm" | "virtio-mem-pci" | "virtio-pmem-pci" => Some(note(format!(
            "the device {name} ({driver}) has memory of its own: its backend must be among those of --ram-backend"
        ))),
        _ if driver.starts_with("vhost-user-") => Some(vhost_user(&format!("device {name} ({driver})"))),
        _ => None,
    }
}

fn vhost_user(what: &str) -> Finding {
    note(format!(
        "the {what} is implemented by another program, which ends with this kernel: let its service start before that of the guest"
    ))
}

/// A character device of the terminal on which luo-qemu was started, or of a new one.
fn terminal(what: &str, backend: &str) -> Option<Finding> {
    let reason = match backend.strip_prefix("mon:").unwrap_or(backend) {
        "stdio" => "the terminal of luo-qemu, which ends with this kernel",
        "pty" => "a pseudo-terminal, which is another one after an update",
        _ => return None,
    };
    Some(note(format!(
        "the {what} is {reason}: use a socket with server=on,wait=off"
    )))
}

fn disk(option: &str, disk: &Properties) -> Option<Finding> {
    let name = ["id", "node-name", "file", "filename"];
    let name = name.iter().find_map(|key| disk.get(key)).unwrap_or(option);
    let unsafe_cache = disk.get("cache") == Some("unsafe")
        || disk.is_on("cache.no-flush")
        || disk.is_on("file.cache.no-flush");
    if unsafe_cache {
        return Some(finding(Severity::Risk, format!(
            "the disk {name} never waits for its medium (cache=unsafe): what the guest wrote can be lost; use another cache mode"
        )));
    }
    disk.is_on("snapshot").then(|| {
        fatal(format!(
            "the disk {name} has a temporary overlay (snapshot=on), which is lost"
        ))
    })
}

fn chardev(chardev: &Properties) -> Option<Finding> {
    let id = chardev.get("id").unwrap_or("without id");
    let backend = chardev.get("backend").unwrap_or_default();
    if let Some(found) = terminal(&format!("character device {id}"), backend) {
        return Some(found);
    }
    let again = ["reconnect", "reconnect-ms"].iter().any(|key| {
        let time = chardev.get(key);
        time.is_some_and(|time| time != "0")
    });
    let client = backend == "socket" && !chardev.is_on("server");
    (client && !again).then(|| {
        note(format!(
            "the character device {id} is a connection that ends: add reconnect-ms=1000 to it, or let QEMU be its server"
        ))
    })
}

/// Checks the host of a guest with the memory `memory`. `sysfs` is where sysfs is mounted.
pub fn check_host(memory: &[Backend], sysfs: &Path) -> Option<Finding> {
    let usual = memory.iter().any(|backend| backend.pages.is_none());
    let slow = usual && hugepages::is_transparent(sysfs) == Some(false);
    slow.then(|| {
        note(
            "the kernel makes no huge pages of the guest's memory, so that an update takes longer: \
             write advise to /sys/kernel/mm/transparent_hugepage/shmem_enabled before the guest starts",
        )
    })
}

/// Checks the arguments of a guest.
pub fn check(args: &[String]) -> Vec<Finding> {
    let mut found = Vec::new();
    for option in options::options(args) {
        match option.name {
            "incoming" => found.push(fatal("-incoming is set by luo-qemu: remove it")),
            "daemonize" => found.push(fatal(
                "with -daemonize, QEMU is not a child of luo-qemu: remove it",
            )),
            "snapshot" => found.push(fatal(
                "-snapshot creates temporary overlays, which are lost",
            )),
            "serial" | "parallel" | "monitor" | "qmp" | "qmp-pretty" | "debugcon" => {
                found.extend(terminal(&format!("option -{}", option.name), option.value));
            }
            _ => {}
        }
    }
    let devices = options::all(args, &["device"], "driver");
    found.extend(devices.filter_map(|(_, found)| device(&found)));
    for name in ["drive", "blockdev"] {
        let disks = options::all(args, std::slice::from_ref(&name), "driver");
        found.extend(disks.filter_map(|(_, found)| disk(name, &found)));
    }
    let chardevs = options::all(args, &["chardev"], "backend");
    found.extend(chardevs.filter_map(|(_, found)| chardev(&found)));
    for (_, net) in options::all(args, &["netdev", "nic"], "type") {
        if net.get("type") == Some("user") {
            found.push(note(
                "connections through -netdev user end with the old QEMU: use a tap device",
            ));
        }
        if net.get("type") == Some("vhost-user") {
            let id = net.get("id").unwrap_or("without id");
            found.push(vhost_user(&format!("network {id}")));
        }
    }
    for (_, machine) in options::all(args, &["machine", "M"], "type") {
        if machine.get("confidential-guest-support").is_some()
            || machine.get("memory-encryption").is_some()
        {
            found.push(fatal(
                "the memory of the guest is encrypted: it cannot be handed over",
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Vec<Finding> {
        let args: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        check(&args)
    }

    #[test]
    fn ordinary_guests_are_fine() {
        let guest =
            "-machine q35,accel=kvm -cpu host -m 1G -drive file=disk.raw,format=raw,if=virtio \
                     -netdev tap,id=n,ifname=tap0 -device virtio-net-pci,netdev=n \
                     -chardev socket,id=c,path=/x,server=on,wait=off -serial chardev:c -nographic";
        assert_eq!(check_text(guest), []);
    }

    #[test]
    fn risks_can_be_accepted() {
        for (severity, unforced, forced) in [
            (Severity::Note, false, false),
            (Severity::Risk, true, false),
            (Severity::Fatal, true, true),
        ] {
            let found = finding(severity, "");
            assert_eq!(found.forbids(false), unforced);
            assert_eq!(found.forbids(true), forced);
        }
    }

    #[test]
    fn each_obstacle_is_named() {
        use Severity::{Fatal, Note, Risk};
        for (args, what, severity) in [
            ("-device vfio-pci,host=01:00.0,id=gpu", "gpu", Fatal),
            ("-drive file=a.raw,cache=unsafe", "a.raw", Risk),
            (
                "-blockdev driver=file,node-name=d,filename=a,cache.no-flush=on",
                "d ",
                Risk,
            ),
            ("-drive file=a.raw,snapshot=on", "overlay", Fatal),
            ("-daemonize", "-daemonize", Fatal),
            ("-incoming defer", "-incoming", Fatal),
            (
                "-machine q35,confidential-guest-support=sev0",
                "encrypted",
                Fatal,
            ),
            ("-chardev socket,id=c,host=h,port=1", "c ", Note),
            ("-netdev user,id=n", "user", Note),
            ("-chardev pty,id=c", "device c is a pseudo-terminal", Note),
            (
                "-chardev stdio,id=c,mux=on",
                "device c is the terminal",
                Note,
            ),
            ("-serial mon:stdio", "-serial is the terminal", Note),
            ("-monitor pty", "-monitor is a pseudo-terminal", Note),
            (
                "-netdev vhost-user,id=n,chardev=c",
                "network n is implemented",
                Note,
            ),
            (
                "-device vhost-user-blk-pci,id=d,chardev=c",
                "d (vhost-user-blk-pci) is implemented",
                Note,
            ),
        ] {
            let found = check_text(args);
            assert_eq!(found.len(), 1, "{args}: {found:?}");
            assert!(found[0].text.contains(what), "{args}: {found:?}");
            assert_eq!(found[0].severity, severity, "{args}: {found:?}");
        }
    }
}
