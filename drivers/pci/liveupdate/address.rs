// SPDX-License-Identifier: GPL-2.0

//! The address of a device.

use kernel::fmt;

/// The domain, and the number of the bus, the device and the function in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) domain: u32,
    /// The number of the bus is in the upper byte.
    pub(crate) bdf: u16,
}

impl Address {
    /// The number of the bus.
    pub(crate) fn bus(self) -> u8 {
        // CAST: The upper byte, which has 8 bits.
        (self.bdf >> 8) as u8
    }

    /// The number of the device and the function.
    pub(crate) fn devfn(self) -> u8 {
        // CAST: Discards the upper byte.
        self.bdf as u8
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, devfn) = (self.bus(), self.devfn());
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{}",
            self.domain,
            bus,
            devfn >> 3,
            devfn & 7
        )
    }
}
