// SPDX-License-Identifier: GPL-2.0

//! The format of handed over data, `luo-pci-v2`.

use crate::{
    address::Address,
    ops::Device, //
};
use kernel::prelude::*;
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// The root, which the FLB refers to.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RootSer {
    /// The physical address of the [`TableSer`].
    pub(crate) table: u64,
}

/// The devices and bridges, in any order.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct TableSer {
    pub(crate) count: u32,
    pub(crate) reserved: u32,
    pub(crate) devices: [DeviceSer; TableSer::CAPACITY],
}

impl TableSer {
    /// The maximum number of devices and bridges.
    pub(crate) const CAPACITY: usize = 85;

    /// The devices; [`EINVAL`] if their number is too large, or two have the same address.
    pub(crate) fn devices(&self) -> Result<&[DeviceSer]> {
        let count = usize::try_from(self.count)?;
        let devices = self.devices.get(..count).ok_or(EINVAL)?;
        for (at, device) in devices.iter().enumerate() {
            let mut before = devices.iter().take(at);
            if before.any(|other| other.address() == device.address()) {
                return Err(EINVAL);
            }
        }
        Ok(devices)
    }
}

/// A device or a bridge.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
pub(crate) struct DeviceSer {
    domain: u32,
    bdf: u16,
    /// The number of preserved devices that need it: itself, and those below.
    pub(crate) refs: u16,
    /// Vendor and device, as in the configuration space.
    id: u32,
    /// Class and revision, as in the configuration space.
    class: u32,
    command: u16,
    /// The type of the header, and whether there are other functions.
    header: u8,
    reserved: u8,
    /// The rest of the header, from offset 0x10 to 0x3b.
    registers: [u32; 11],
    /// The values of the BARs after all-ones were written to them.
    bar_sizes: [u32; 6],
    /// The same for the BAR of the expansion ROM.
    rom_size: u32,
    /// How requests are routed, see [`Device::routing`].
    routing: u32,
}

static_assert!(size_of::<TableSer>() <= 2 * kernel::page::PAGE_SIZE);

/// Offsets of registers.
mod at {
    pub(super) const ID: u8 = 0x00;
    pub(super) const COMMAND: u8 = 0x04;
    pub(super) const CLASS: u8 = 0x08;
    pub(super) const HEADER: u8 = 0x0c;
    pub(super) const REGISTERS: u8 = 0x10;
}

/// Bits of the command register that may change: the interrupt disable bit.
const COMMAND_MAY_CHANGE: u16 = 0x400;

/// The bits of `registers` of a device that must not differ: BARs, subsystem and ROM.
const DEVICE_BITS: [u32; 11] = [!0, !0, !0, !0, !0, !0, 0, !0, !0, 0, 0];

/// The bits of a bridge that must not differ: BARs, bus numbers, windows and ROM; neither timer
/// nor status.
const BRIDGE_BITS: [u32; 11] = [!0, !0, 0x00ff_ffff, 0x0000_ffff, !0, !0, !0, !0, !0, 0, !0];

impl DeviceSer {
    /// Describes `device`, which one preserved device needs.
    pub(crate) fn of(device: &Device<'_>) -> Self {
        let (bar_sizes, rom_size) = device.bar_sizes();
        Self {
            refs: 1,
            bar_sizes,
            rom_size,
            ..Self::observe(device, device.address())
        }
    }

    /// Reads the description of `device` from the hardware. Does not write to the device.
    fn observe(device: &Device<'_>, address: Address) -> Self {
        let mut registers = [0; 11];
        let mut offset = at::REGISTERS;
        for register in &mut registers {
            *register = device.read(offset);
            offset = offset.wrapping_add(4);
        }
        Self {
            domain: address.domain,
            bdf: address.bdf,
            refs: 0,
            id: device.read(at::ID),
            class: device.read(at::CLASS),
            // CAST: The upper half is the status.
            command: device.read(at::COMMAND) as u16,
            // CAST: The third byte.
            header: (device.read(at::HEADER) >> 16) as u8,
            reserved: 0,
            registers,
            bar_sizes: [0; 6],
            rom_size: 0,
            routing: device.routing(),
        }
    }

    /// Its address.
    pub(crate) fn address(&self) -> Address {
        Address {
            domain: self.domain,
            bdf: self.bdf,
        }
    }

    /// Whether it is a bridge.
    pub(crate) fn is_bridge(&self) -> bool {
        self.header & 0x7f == 1
    }

    /// Records the current values of the registers.
    pub(crate) fn update(&mut self, device: &Device<'_>) {
        let now = Self::observe(device, self.address());
        self.command = now.command;
        self.registers = now.registers;
        self.routing = now.routing;
    }

    /// Compares this with the hardware. Returns the first difference.
    pub(crate) fn mismatch(&self, device: &Device<'_>) -> Option<&'static str> {
        let found = Self::observe(device, self.address());
        if found.id != self.id || found.class != self.class || found.header != self.header {
            return Some("it is another device");
        }
        if (found.command ^ self.command) & !COMMAND_MAY_CHANGE != 0 {
            return Some("its command register has changed");
        }
        let bits = match self.is_bridge() {
            true => BRIDGE_BITS,
            false => DEVICE_BITS,
        };
        let registers = found.registers.iter().zip(&self.registers).zip(&bits);
        for ((found, handed_over), bits) in registers {
            if (found ^ handed_over) & bits != 0 {
                return Some("its header has changed");
            }
        }
        if !self.has_sane_bars() {
            return Some("the size of a BAR is wrong");
        }
        if found.routing != self.routing {
            return Some("its ACS or ARI control has changed");
        }
        if self.is_bridge() && !self.has_sane_buses() {
            return Some("its bus numbers are wrong");
        }
        None
    }

    /// Whether the sizes of BARs are possible for their addresses and types.
    fn has_sane_bars(&self) -> bool {
        let number = match self.is_bridge() {
            true => 2,
            false => 6,
        };
        let mut bars = self.registers.iter().zip(&self.bar_sizes).take(number);
        while let Some((bar, size)) = bars.next() {
            let flags = match size & 1 {
                0 => 0xf,
                _ => 0x3,
            };
            // A BAR of 64 bits has a second half.
            let high = match size & 0x7 {
                0x4 => bars.next(),
                _ => None,
            };
            if *size == 0 {
                continue;
            }
            let mask = size & !flags;
            let sane = match high {
                Some((high_bar, high_mask)) => {
                    fits(join(*high_bar, bar & !flags), join(*high_mask, mask))
                }
                None => fits(join(0, bar & !flags), join(!0, mask)),
            };
            if !sane || bar & flags != size & flags {
                return false;
            }
        }
        true
    }

    fn has_sane_buses(&self) -> bool {
        let [_, _, buses, ..] = self.registers;
        let [primary, secondary, subordinate, _] = buses.to_le_bytes();
        primary == self.address().bus() && secondary > primary && subordinate >= secondary
    }

    /// Returns what the BARs, and that of the ROM, would read after all-ones were written to them.
    pub(crate) fn bar_sizes(&self) -> (&[u32; 6], u32) {
        (&self.bar_sizes, self.rom_size)
    }
}

/// Whether `mask` is that of a size that is a power of two, and `address` is a multiple of this
/// size.
fn fits(address: u64, mask: u64) -> bool {
    let size = (!mask).wrapping_add(1);
    size.is_power_of_two() && address & !mask == 0
}

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
