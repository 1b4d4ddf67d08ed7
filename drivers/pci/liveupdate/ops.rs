// SPDX-License-Identifier: GPL-2.0

//! Devices of the PCI core.
//!
//! Besides [`c_abi`](crate::c_abi), this is the only module of the crate with `unsafe` code.
//!
//! C header: `drivers/pci/liveupdate/core.h`

use crate::address::Address;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

/// Returns whether the previous kernel may have left devices working that are unknown to this one.
pub(crate) fn must_silence() -> bool {
    // SAFETY: Always safe to call.
    unsafe { bindings::liveupdate_must_silence() }
}

/// A device, which may not be registered yet.
///
/// # Invariants
///
/// The pointer is valid for `'a`, and the fields that the PCI core sets before `pci_setup_device()`
/// reads BARs are set.
#[derive(Clone, Copy)]
pub(crate) struct Device<'a> {
    raw: NonNull<bindings::pci_dev>,
    _lives: PhantomData<&'a bindings::pci_dev>,
}

/// A device with a reference.
pub(crate) struct OwnedDevice(Device<'static>);

impl OwnedDevice {
    /// Finds the device at `address`.
    pub(crate) fn find(address: Address) -> Option<Self> {
        // SAFETY: FFI call without safety requirements.
        let raw = unsafe {
            bindings::pci_get_domain_bus_and_slot(
                c_int::try_from(address.domain).ok()?,
                address.bus().into(),
                address.devfn().into(),
            )
        };
        Some(Self(Device {
            // INVARIANT: The device was set up; this object owns the reference.
            raw: NonNull::new(raw)?,
            _lives: PhantomData,
        }))
    }

    /// The device.
    pub(crate) fn get(&self) -> Device<'_> {
        self.0
    }
}

impl Drop for OwnedDevice {
    fn drop(&mut self) {
        // SAFETY: The reference belongs to this object.
        unsafe { bindings::pci_dev_put(self.0.raw.as_ptr()) };
    }
}

impl<'a> Device<'a> {
    /// # Safety
    ///
    /// `raw` must be valid for `'a`, and the PCI core must have begun to set the device up.
    pub(crate) unsafe fn new(raw: *mut bindings::pci_dev) -> Result<Self> {
        // INVARIANT: By the safety requirements.
        Ok(Self {
            raw: NonNull::new(raw).ok_or(EINVAL)?,
            _lives: PhantomData,
        })
    }

    /// The address of the device.
    pub(crate) fn address(&self) -> Address {
        let raw = self.raw.as_ptr();
        // SAFETY: By the type invariant.
        let (domain, bdf) = unsafe {
            (
                bindings::pci_liveupdate_domain(raw),
                bindings::pci_dev_id(raw),
            )
        };
        Address {
            // CAST: Domains are not negative.
            domain: domain as u32,
            bdf,
        }
    }

    /// The bridge above the device.
    pub(crate) fn bridge(&self) -> Option<Device<'a>> {
        // SAFETY: By the type invariant. A bridge exists as long as the devices below it.
        let raw = unsafe { bindings::pci_liveupdate_bridge(self.raw.as_ptr()) };
        Some(Device {
            raw: NonNull::new(raw)?,
            _lives: PhantomData,
        })
    }

    /// Reads four bytes of the configuration space at `offset`, a multiple of four.
    pub(crate) fn read(&self, offset: u8) -> u32 {
        let mut value = !0;
        // SAFETY: By the type invariant; on failure, `value` is set to all-ones.
        unsafe {
            bindings::pci_read_config_dword(self.raw.as_ptr(), c_int::from(offset), &mut value)
        };
        value
    }

    /// Returns how the device routes requests: the ACS control register in the low half, and in the
    /// high half the bit of the device control 2 register by which a bridge forwards requests to
    /// functions above 7 (ARI). Each half is zero if there is no such register.
    pub(crate) fn routing(&self) -> u32 {
        // SAFETY: By the type invariant. The size of the configuration space and the position of the
        // PCI Express capability are set as well.
        unsafe { bindings::pci_liveupdate_routing(self.raw.as_ptr()) }
    }

    /// Fails with [`EOPNOTSUPP`] if the device cannot be preserved.
    pub(crate) fn check(&self) -> Result {
        // SAFETY: By the type invariant.
        to_result(unsafe { bindings::pci_liveupdate_check(self.raw.as_ptr()) })
    }

    /// Sets whether the device is left as it is. If so, the device is resumed, and a reference to
    /// it is held.
    pub(crate) fn hold(&self, hold: bool) {
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_liveupdate_hold(self.raw.as_ptr(), hold) };
    }

    /// Whether this kernel leaves the device as it is.
    pub(crate) fn is_outgoing(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_liveupdate_is_outgoing(self.raw.as_ptr()) }
    }

    /// Sets whether the previous kernel handed the device over. If so, its interrupt line is masked.
    pub(crate) fn set_incoming(&self, incoming: bool) {
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_liveupdate_set_incoming(self.raw.as_ptr(), incoming) };
    }

    /// Clears the bus master bit. Fails with [`ENODEV`] if the device does not answer.
    pub(crate) fn silence(&self) -> Result {
        const COMMAND: u8 = 4;
        const MASTER: u32 = 4;
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_liveupdate_master_off(self.raw.as_ptr()) };
        match self.read(COMMAND) & MASTER {
            0 => Ok(()),
            _ => Err(ENODEV),
        }
    }

    /// Whether the device may write to memory, or let devices below do so: whether its bus master bit
    /// is set. Bridges other than those to PCI buses often cannot clear it, and do not write.
    pub(crate) fn is_master(&self) -> bool {
        const COMMAND: u8 = 4;
        const CLASS: u8 = 8;
        const BRIDGE: u8 = 0x06;
        let [_, _, _, class] = self.read(CLASS).to_le_bytes();
        self.read(COMMAND) & 4 != 0 && (class != BRIDGE || self.is_bridge())
    }

    /// The values that the BARs, and that of the ROM, would have after all-ones were written to
    /// them.
    pub(crate) fn bar_sizes(&self) -> ([u32; 6], u32) {
        let mut sizes = [0; 6];
        let bars: u32 = match self.is_bridge() {
            true => 2,
            false => 6,
        };
        let mut bar: u32 = 0;
        while bar < bars {
            let (size, flags) = self.resource(bar);
            if size != 0 {
                let mask = !size.wrapping_sub(1);
                let at = bar as usize;
                if let Some(low) = sizes.get_mut(at) {
                    // CAST: The low half, and the bits for the type of the BAR.
                    *low = (mask as u32 & !0xf) | (flags & 0xf) as u32;
                    if flags & u64::from(bindings::IORESOURCE_IO) != 0 {
                        // CAST: The low half.
                        *low = (mask as u32 & !0x3) | 1;
                    }
                }
                if flags & u64::from(bindings::IORESOURCE_MEM_64) != 0 {
                    bar = bar.wrapping_add(1);
                    if let Some(high) = sizes.get_mut(at.wrapping_add(1)) {
                        // CAST: The high half is left.
                        *high = (mask >> 32) as u32;
                    }
                }
            }
            bar = bar.wrapping_add(1);
        }
        let (rom, _) = self.resource(bindings::PCI_ROM_RESOURCE);
        let rom = match rom {
            0 => 0,
            // CAST: A ROM is smaller than 4 GiB.
            size => !size.wrapping_sub(1) as u32 & 0xffff_f800,
        };
        (sizes, rom)
    }

    fn is_bridge(&self) -> bool {
        // SAFETY: By the type invariant, this field is set.
        unsafe { (*self.raw.as_ptr()).hdr_type == 1 }
    }

    /// The size and the flags of a resource.
    fn resource(&self, index: u32) -> (u64, u64) {
        // CAST: There are few.
        let index = index as c_int;
        let raw = self.raw.as_ptr();
        // SAFETY: By the type invariant. Callers pass indices of BARs or of the ROM.
        unsafe {
            (
                bindings::pci_resource_len(raw, index),
                (*raw)
                    .resource
                    .get(index as usize)
                    .map_or(0, |resource| resource.flags as u64),
            )
        }
    }
}
