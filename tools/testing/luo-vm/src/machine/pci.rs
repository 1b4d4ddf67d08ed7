// SPDX-License-Identifier: GPL-2.0

//! The devices of the machines for devices, as QEMU and the log of the kernel show them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{json, Value};

use crate::machine::console::{is_kexec, is_next_program};
use crate::machine::monitor::Monitor;

/// A kind of device.
#[derive(Debug, Clone, Copy)]
pub struct Id {
    vendor: u32,
    device: u32,
}

/// QEMU's `edu`.
pub const EDU: Id = Id {
    vendor: 0x1234,
    device: 0x11e8,
};

/// QEMU's `igb`.
pub const IGB: Id = Id {
    vendor: 0x8086,
    device: 0x10c9,
};

/// QEMU's `nvme`.
pub const NVME: Id = Id {
    vendor: 0x1b36,
    device: 0x0010,
};

/// What the sample driver logs on shutdown while the device copies.
pub const LEFT: &str = "left working by shutdown, copying";
pub const STOPPED: &str = "stopped by shutdown, copying";

/// Asks the QEMU with the monitor at `socket` for the device `id` and the bridges above it; see
/// [`path`].
fn ask(socket: &Path, id: Id) -> Result<Value> {
    let answer = Monitor::connect(socket)?.execute(&json!({"execute": "query-pci"}))?;
    Ok(path(&answer, id))
}

/// The answers of a QEMU about a device and the bridges above it, before and after each kexec.
pub struct Buses {
    monitor: PathBuf,
    id: Id,
    /// The answers, in order; one is missing if the machine had ended before it was asked.
    pub answers: Vec<Value>,
}

impl Buses {
    /// Asks the QEMU with the monitor at `monitor` for the device `id`.
    pub fn new(monitor: PathBuf, id: Id) -> Self {
        Self {
            monitor,
            id,
            answers: Vec::new(),
        }
    }

    /// Takes a line of the console.
    pub fn hear(&mut self, line: &str) {
        if is_kexec(line) || is_next_program(line) {
            self.answers.extend(ask(&self.monitor, self.id));
        }
    }
}

/// The device `id` and the bridges above it in an answer to `query-pci`, without what may change.
fn path(answer: &Value, id: Id) -> Value {
    /// The path to the device among `devices`, from the top.
    fn find(devices: &Value, id: Id) -> Option<Vec<Value>> {
        devices.as_array()?.iter().find_map(|device| {
            if device["id"]["vendor"] == id.vendor && device["id"]["device"] == id.device {
                return Some(vec![device.clone()]);
            }
            let mut below = find(&device["pci_bridge"]["devices"], id)?;
            below.insert(0, device.clone());
            Some(below)
        })
    }
    let buses = answer.as_array().into_iter().flatten();
    let mut path = buses
        .filter_map(|bus| find(&bus["devices"], id))
        .next()
        .unwrap_or_default();
    for device in &mut path {
        // The number of the interrupt is for the kernel; the devices below come next.
        let fields = device.as_object_mut();
        if let Some(fields) = fields {
            fields.remove("irq");
            if let Some(bridge) = fields.get_mut("pci_bridge").and_then(Value::as_object_mut) {
                bridge.remove("devices");
            }
        }
    }
    Value::Array(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn device_is_found_below_bridges() {
        let device = |vendor: u32| {
            json!({
                "id": {"vendor": vendor, "device": EDU.device}, "irq": 11, "regions": [{"address": 0x1000}]
            })
        };
        let bridge = json!({
            "id": {"vendor": 0x1b36},
            "pci_bridge": {"bus": {"number": 1}, "devices": [device(0x8086), device(EDU.vendor)]}
        });
        let answer = json!([{"bus": 0, "devices": [device(0x8086), bridge]}]);
        let path = path(&answer, EDU);
        assert_eq!(path.as_array().map(Vec::len), Some(2));
        assert_eq!(path[0]["pci_bridge"], json!({"bus": {"number": 1}}));
        assert_eq!(path[1]["irq"], Value::Null);
    }
}
