// SPDX-License-Identifier: GPL-2.0

//! Configuration spaces of PCI devices, and the bits in them that may change while a device keeps
//! working.

use crate::support::error::{At, Result};
use std::{fs, path::Path};

/// The type of the header, in the fourth register.
const HEADER: usize = 0x0c;
const HEADER_TYPE: u32 = 0x007f_0000;
const BRIDGE: u32 = 0x0001_0000;

/// The pointer to the first capability, and the first extended one.
const FIRST: usize = 0x34;
const FIRST_EXTENDED: usize = 0x100;

/// The length of a register.
const REGISTER: usize = 4;

/// Bits that may change: the offset of a register, and its bits.
type Bits = (usize, u32);

/// In all headers: the status, the interrupt disable bit, and the number of the interrupt.
const OF_HEADER: [Bits; 2] = [(0x04, 0xffff_0400), (0x3c, 0xff)];

/// In the header of a bridge: the secondary status.
const OF_BRIDGE: [Bits; 1] = [(0x1c, 0xffff_0000)];

/// In capabilities, by their number: the status of PCI Express; the event of power management; MSI
/// and MSI-X, which each kernel sets up.
const OF_CAPABILITIES: [(u32, &[Bits]); 4] = [
    (0x01, &[(0x04, 0x8000)]),
    (
        0x05,
        &[(0x00, 0xffff_0000), (0x04, !0), (0x08, !0), (0x0c, !0)],
    ),
    (
        0x10,
        &[
            (0x08, 0xffff_0000),
            (0x10, 0xffff_0000),
            (0x18, 0xffff_0000),
            (0x20, !0),
            (0x30, 0xffff_0000),
        ],
    ),
    (0x11, &[(0x00, 0xc000_0000)]),
];

/// The same for extended capabilities: the status and the log of errors.
const OF_EXTENDED: [(u32, &[Bits]); 1] = [(
    0x01,
    &[
        (0x04, !0),
        (0x10, !0),
        (0x18, 0x1f),
        (0x1c, !0),
        (0x20, !0),
        (0x24, !0),
        (0x28, !0),
        (0x30, !0),
        (0x34, !0),
    ],
)];

/// The registers of a configuration space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSpace(Vec<u32>);

impl ConfigSpace {
    /// Reads all registers from a file of sysfs.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).at(path.display())?;
        let registers = bytes.chunks_exact(REGISTER);
        let number = |bytes: &[u8]| Some(u32::from_le_bytes(*bytes.first_chunk()?));
        Ok(Self(registers.filter_map(number).collect()))
    }

    /// Parses the text that [`Self::to_text`] returns.
    pub fn from_text(text: &str) -> Result<Self> {
        let number = |word| Ok(u32::from_str_radix(word, 16)?);
        let numbers: Result<_> = text.split_whitespace().map(number).collect();
        Ok(Self(numbers?))
    }

    /// Returns the registers as numbers, in a text.
    pub fn to_text(&self) -> String {
        let numbers: Vec<String> = self.0.iter().map(|value| format!("{value:x}")).collect();
        numbers.join(" ")
    }

    fn register(&self, at: usize) -> u32 {
        self.0.get(at / REGISTER).copied().unwrap_or_default()
    }

    /// The number and the offset of each capability.
    fn capabilities(&self) -> Vec<(u32, usize)> {
        let mut found = Vec::new();
        let mut at = self.register(FIRST) as usize & 0xfc;
        // There is room for 48.
        while at != 0 && found.len() < 48 {
            let head = self.register(at);
            found.push((head & 0xff, at));
            at = (head >> 8) as usize & 0xfc;
        }
        found
    }

    /// The number and the offset of each extended capability.
    fn extended(&self) -> Vec<(u32, usize)> {
        let mut found = Vec::new();
        let mut at = FIRST_EXTENDED;
        // There is room for 480.
        while at >= FIRST_EXTENDED && found.len() < 480 {
            let head = self.register(at);
            found.push((head & 0xffff, at));
            at = (head >> 20) as usize & 0xffc;
        }
        found
    }

    /// The bits that may change.
    fn may_change(&self) -> Vec<Bits> {
        let mut bits = OF_HEADER.to_vec();
        if self.register(HEADER) & HEADER_TYPE == BRIDGE {
            bits.extend(OF_BRIDGE);
        }
        let mut add = |found: Vec<(u32, usize)>, known: &[(u32, &[Bits])]| {
            for (number, start) in found {
                let of_this = known.iter().filter(|(known, _)| *known == number);
                let registers = of_this.flat_map(|(_, registers)| registers.iter());
                bits.extend(registers.map(|(at, mask)| (start + at, *mask)));
            }
        };
        add(self.capabilities(), &OF_CAPABILITIES);
        add(self.extended(), &OF_EXTENDED);
        bits
    }

    /// Describes the registers that differ between `self` and `later`; empty if they agree.
    pub fn changes(&self, later: &Self) -> Vec<String> {
        let may_change = self.may_change();
        let len = self.0.len().max(later.0.len());
        let offsets = (0..len).map(|register| register * REGISTER);
        let changed = offsets.filter_map(|at| {
            let here = may_change.iter().filter(|(other, _)| *other == at);
            let ignored = here.fold(0, |all, (_, bits)| all | bits);
            let (before, after) = (self.register(at), later.register(at));
            ((before ^ after) & !ignored != 0)
                .then(|| format!("{at:#x} was {before:#x} and is {after:#x}"))
        });
        changed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bridge with MSI-X at 0x40 and AER at 0x100.
    fn bridge() -> ConfigSpace {
        let mut registers = vec![0; 1024];
        for (at, value) in [
            (0x04, 0x0010_0106),
            (0x0c, 0x0001_0000),
            (0x34, 0x40),
            (0x40, 0x8000_0011),
            (0x100, 0x0001_0001),
        ] {
            registers[at / REGISTER] = value;
        }
        ConfigSpace(registers)
    }

    #[test]
    fn text_is_read_again() {
        let space = bridge();
        assert_eq!(ConfigSpace::from_text(&space.to_text()).unwrap(), space);
        assert!(ConfigSpace::from_text("0 x").is_err());
    }

    #[test]
    fn changes_are_found() {
        let before = bridge();
        let change = |at: usize, bits: u32| {
            let mut after = before.clone();
            after.0[at / REGISTER] ^= bits;
            before.changes(&after)
        };
        // Status, interrupts, and errors may change.
        for (at, bits) in [
            (0x04, 0xf000_0400),
            (0x1c, 0x4000_0000),
            (0x40, 0x8000_0000),
            (0x104, 1),
        ] {
            assert_eq!(change(at, bits), Vec::<String>::new(), "{at:#x}");
        }
        // The bus master bit, a mask of errors, and a register without a capability may not.
        assert_eq!(change(0x04, 4), ["0x4 was 0x100106 and is 0x100102"]);
        assert_eq!(change(0x108, 1).len(), 1);
        assert_eq!(change(0xf00, 1).len(), 1);
    }
}
