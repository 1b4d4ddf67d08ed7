// SPDX-License-Identifier: GPL-2.0

//! Devices that the previous kernel handed over.

use crate::{
    abi::{
        DeviceSer,
        RootSer,
        TableSer, //
    },
    address::Address,
    ops::{
        Device,
        OwnedDevice, //
    },
};
use kernel::{
    kho::{
        Claimed,
        PhysAddr, //
    },
    liveupdate::dma,
    prelude::*,
    sync::atomic::{
        ordering::{
            Full,
            Relaxed, //
        },
        Atomic, //
    }, //
};

/// The progress of a device.
mod state {
    /// It was not found yet.
    pub(super) const UNKNOWN: u32 = 0;
    /// It matches its description, and was left as it is.
    pub(super) const CHECKED: u32 = 1;
    /// A driver has taken it over.
    pub(super) const TAKEN_OVER: u32 = 2;
    /// Its bus master bit was cleared, or is being cleared.
    pub(super) const SILENCED: u32 = 3;
    /// Its file was finished: it is an ordinary device.
    pub(super) const FINISHED: u32 = 4;
}

struct Entry {
    ser: DeviceSer,
    state: Atomic<u32>,
}

/// All of them; none if the data of the previous kernel could not be read. Dropping this silences
/// those that no driver has taken over.
pub(crate) struct Devices(KVec<Entry>);

impl Devices {
    /// Reads the descriptions of the previous kernel.
    pub(crate) fn read(root: &RootSer) -> Self {
        let entries = Self::try_read(root).unwrap_or_else(|err| {
            pr_emerg!(
                "cannot read which devices the previous kernel left working: error {}; all are \
                 silenced\n",
                err.to_errno()
            );
            KVec::new()
        });
        Self(entries)
    }

    fn try_read(root: &RootSer) -> Result<KVec<Entry>> {
        let table = PhysAddr::new(root.table).ok_or(EINVAL)?;
        let table = Claimed::<TableSer>::new(table)?;
        let mut entries = KVec::new();
        for ser in table.devices()? {
            let entry = Entry {
                ser: *ser,
                state: Atomic::new(state::UNKNOWN),
            };
            entries.push(entry, GFP_KERNEL)?;
        }
        Ok(entries)
    }

    fn find(&self, address: Address) -> Option<&Entry> {
        let mut entries = self.0.iter();
        entries.find(|entry| entry.ser.address() == address)
    }

    /// Decides what to do with a device that was just discovered, before anything was written to it.
    pub(crate) fn discover(&self, device: &Device<'_>) {
        let address = device.address();
        let Some(entry) = self.find(address) else {
            // The previous kernel has silenced all devices that it does not describe.
            discover_unknown(device);
            return;
        };
        // The device was removed after its file was finished, and is discovered again.
        if entry.state.load(Relaxed) == state::FINISHED {
            return;
        }
        let mismatch = entry.ser.mismatch(device);
        match mismatch.or_else(|| self.bridge_mismatch(device)) {
            None => {
                pr_info!("{}: left working by the previous kernel\n", address);
                entry.state.store(state::CHECKED, Relaxed);
                device.set_incoming(true);
            }
            Some(why) => {
                if silence(device, address, why).is_ok() {
                    entry.state.store(state::SILENCED, Relaxed);
                }
            }
        }
    }

    /// Checks the bridge above a device. Returns the reason if it must not be used.
    fn bridge_mismatch(&self, device: &Device<'_>) -> Option<&'static str> {
        let bridge = device.bridge()?;
        match self.checked(bridge.address()) {
            Some(_) => None,
            None => Some("the bridge above it is not as described"),
        }
    }

    /// Returns the description of a device that was left as it is.
    pub(crate) fn checked(&self, address: Address) -> Option<&DeviceSer> {
        let entry = self.find(address)?;
        let state = entry.state.load(Relaxed);
        (state == state::CHECKED || state == state::TAKEN_OVER).then_some(&entry.ser)
    }

    /// Records that a driver takes the device over.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if it was not handed over, [`ENODEV`] if it is not there, was silenced, or was
    /// finished.
    pub(crate) fn take_over(&self, address: Address) -> Result {
        let entry = self.find(address).ok_or(ENOENT)?;
        match entry.change(state::CHECKED, state::TAKEN_OVER) {
            Ok(()) | Err(state::TAKEN_OVER) => Ok(()),
            Err(_) => Err(ENODEV),
        }
    }

    /// Makes a device whose file is finished an ordinary one. The device is silenced first if no
    /// driver has taken it over, or if `stop` is set.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if it was not handed over, [`ENODEV`] if it cannot be reached: it may still write
    /// to memory.
    pub(crate) fn finish(&self, address: Address, stop: bool) -> Result {
        let Some(entry) = self.find(address) else {
            // Without a table, all devices were silenced when they were discovered.
            if !self.0.is_empty() {
                out_of_control(address, "it is not described");
            }
            return Err(ENOENT);
        };
        entry.silence()?;
        if stop {
            entry.silence_from(&[state::TAKEN_OVER], "its memory is not mapped")?;
        }
        entry.release();
        Ok(())
    }
}

impl Entry {
    /// Changes the state from `old` to `new`; fails with the current state if that is not `old`.
    fn change(&self, old: u32, new: u32) -> Result<(), u32> {
        self.state.cmpxchg(old, new, Full).map(drop)
    }

    /// Makes the device an ordinary one.
    fn release(&self) {
        self.state.store(state::FINISHED, Relaxed);
        if let Some(device) = OwnedDevice::find(self.ser.address()) {
            device.get().set_incoming(false);
        }
    }

    /// Silences the device, unless a driver has taken it over. Afterwards, no driver can take it
    /// over.
    fn silence(&self) -> Result {
        let states = [state::UNKNOWN, state::CHECKED];
        self.silence_from(&states, "no driver has taken it over")
    }

    /// Silences the device if it is in one of `states`.
    fn silence_from(&self, states: &[u32], why: &str) -> Result {
        let mut states = states.iter();
        if !states.any(|old| self.change(*old, state::SILENCED).is_ok()) {
            return Ok(());
        }
        let address = self.ser.address();
        let Some(device) = OwnedDevice::find(address) else {
            out_of_control(address, "it is not there");
            return Err(ENODEV);
        };
        silence(&device.get(), address, why)
    }
}

/// Silences a device that was just discovered, and that the previous kernel does not describe, if it
/// may write to memory.
pub(crate) fn discover_unknown(device: &Device<'_>) {
    if device.is_master() {
        // Logs its errors.
        let _ = silence(device, device.address(), "nothing is known about it");
    }
}

/// Clears the bus master bit of a device; [`ENODEV`] if it does not answer.
fn silence(device: &Device<'_>, address: Address, why: &str) -> Result {
    let result = device.silence();
    match result {
        Ok(()) => pr_err!("{}: silenced: {}\n", address, why),
        Err(_) => out_of_control(address, why),
    }
    result
}

/// Logs that a device cannot be silenced, and lets the memory to which devices write stay reserved.
fn out_of_control(address: Address, why: &str) {
    pr_emerg!(
        "{}: cannot be silenced ({}): it may still write to memory, which stays reserved\n",
        address,
        why
    );
    dma::set_out_of_control();
}

impl Drop for Devices {
    fn drop(&mut self) {
        for entry in &self.0 {
            // Bridges do not write to memory by themselves.
            if !entry.ser.is_bridge() {
                // Logs its errors.
                let _ = entry.silence();
            }
            entry.release();
        }
    }
}
