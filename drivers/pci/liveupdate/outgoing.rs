// SPDX-License-Identifier: GPL-2.0

//! Devices that this kernel preserves.

use crate::{
    abi::{
        DeviceSer,
        TableSer, //
    },
    address::Address,
    ops::Device, //
};
use kernel::{
    kho::Preserved,
    prelude::*,
    sync::{
        new_mutex,
        Mutex, //
    }, //
};

/// The preserved devices and the bridges above them, each of which is held.
#[pin_data]
pub(crate) struct Devices {
    #[pin]
    table: Mutex<Preserved<TableSer>>,
}

impl Devices {
    /// There are no devices at first.
    pub(crate) fn new(table: Preserved<TableSer>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            table <- new_mutex!(table, "pci_liveupdate_table"),
        })
    }

    /// Preserves a device, and the bridges above it.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the device or a bridge cannot be preserved, [`ENOSPC`] if there are too many.
    pub(crate) fn add(&self, device: Device<'_>) -> Result {
        let mut table = self.table.lock();
        let mut next = Some(device);
        while let Some(at) = next {
            if let Err(err) = table.add(&at) {
                // Those below it.
                let mut next = Some(device);
                while let Some(below) = next.filter(|below| below.address() != at.address()) {
                    table.remove(&below);
                    next = below.bridge();
                }
                return Err(err);
            }
            next = at.bridge();
        }
        Ok(())
    }

    /// Undoes [`Self::add`].
    pub(crate) fn remove(&self, device: Device<'_>) {
        let mut table = self.table.lock();
        let mut next = Some(device);
        while let Some(at) = next {
            next = at.bridge();
            table.remove(&at);
        }
    }

    /// Records the registers of a device for the last time, if it is preserved.
    pub(crate) fn update(&self, device: Device<'_>) {
        if let Some(ser) = self.table.lock().find(device.address()) {
            ser.update(&device);
        }
    }
}

impl TableSer {
    fn find(&mut self, address: Address) -> Option<&mut DeviceSer> {
        // CAST: `u32` fits.
        let mut devices = self.devices.iter_mut().take(self.count as usize);
        devices.find(|ser| ser.address() == address)
    }

    fn add(&mut self, device: &Device<'_>) -> Result {
        device.check()?;
        if let Some(ser) = self.find(device.address()) {
            // The device may have been removed, and another one discovered at its address.
            if !device.is_outgoing() {
                return Err(EBUSY);
            }
            ser.refs = ser.refs.checked_add(1).ok_or(EOVERFLOW)?;
            return Ok(());
        }
        // CAST: `u32` fits.
        let free = self.devices.get_mut(self.count as usize).ok_or(ENOSPC)?;
        *free = DeviceSer::of(device);
        self.count = self.count.wrapping_add(1);
        device.hold(true);
        Ok(())
    }

    fn remove(&mut self, device: &Device<'_>) {
        let Some(ser) = self.find(device.address()) else {
            return;
        };
        ser.refs = ser.refs.saturating_sub(1);
        if ser.refs != 0 {
            return;
        }
        let last = self.count.saturating_sub(1);
        // CAST: `u32` fits.
        if let Some(moved) = self.devices.get(last as usize).copied() {
            if let Some(ser) = self.find(device.address()) {
                *ser = moved;
            }
            self.count = last;
        }
        device.hold(false);
    }
}
