// SPDX-License-Identifier: GPL-2.0

//! Writes to configuration spaces, in the trace of QEMU.

/// The event that QEMU is to log.
pub const WRITES: &str = "pci_cfg_write";

/// The name of bridges in QEMU.
pub const BRIDGE: &str = "pcie-pci-bridge";
/// See [`BRIDGE`].
pub const PORT: &str = "pcie-root-port";

/// The name of another device, which is not preserved.
pub const BESIDE: &str = "pci-testdev";

/// A write to a configuration space.
#[derive(Debug, PartialEq, Eq)]
pub struct Write {
    /// The register.
    pub offset: u32,
    /// The value.
    pub value: u32,
}

impl Write {
    const COMMAND: u32 = 0x04;
    /// The first BAR.
    pub const BAR: u32 = 0x10;
    const DECODES: u32 = 0x02;
    const INTERRUPTS_DISABLE: u32 = 0x400;
    const MASTER: u32 = 0x04;
    /// In the control of a bridge: resets the devices below it.
    const BUS_RESET: u32 = 0x40;
    const MSIX_ENABLE: u32 = 0x8000;
    /// In the control register of a link: the interrupts of the port itself.
    const LINK_INTERRUPTS: u32 = 0xc00;
    /// In the control register of a slot: its power is off.
    const SLOT_OFF: u32 = 0x400;

    /// Reads `pci_cfg_write NAME BUS:DEVICE.FUNCTION @OFFSET <- VALUE`, for the device called `name`.
    pub fn parse(line: &str, name: &str) -> Option<Self> {
        let rest = line.split_once("pci_cfg_write ")?.1;
        let rest = rest.strip_prefix(name)?.strip_prefix(' ')?;
        let (offset, value) = rest.split_once('@')?.1.split_once(" <- ")?;
        let number =
            |text: &str| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
        Some(Self {
            offset: number(offset)?,
            value: number(value)?,
        })
    }

    /// Whether this is a write to the command register.
    pub fn is_command(&self) -> bool {
        self.offset == Self::COMMAND
    }

    /// Whether this write and `other`, both to the command register, differ in more than the
    /// interrupt disable bit.
    pub fn changes_more_than_interrupts(&self, other: &Self) -> bool {
        (self.value ^ other.value) & 0xffff & !Self::INTERRUPTS_DISABLE != 0
    }

    /// Whether it sets the bus master bit.
    pub fn sets_master(&self) -> bool {
        self.offset == Self::COMMAND && self.value & Self::MASTER != 0
    }

    /// Whether it clears the bus master bit.
    pub fn clears_master(&self) -> bool {
        self.offset == Self::COMMAND && self.value & Self::MASTER == 0
    }

    /// Whether it clears the bus master bit and changes no other relevant bit.
    pub fn silences(&self) -> bool {
        self.clears_master() && self.value & Self::DECODES != 0
    }

    /// Whether it may disturb the device called `name`: whether it is anything else than a write to
    /// the command register that keeps decoding and DMA, or to a register that does not matter.
    pub fn disturbs(&self, name: &str) -> bool {
        let harmless = match (name, self.offset) {
            (_, Self::COMMAND) => {
                let kept = Self::DECODES | Self::MASTER;
                self.value & kept == kept
            }
            // The timer of conventional PCI, and the number of the interrupt.
            (_, 0x0d | 0x3c) => true,
            // The secondary status, and the control of a bridge without a reset.
            (BRIDGE | PORT, 0x1e) => true,
            (BRIDGE | PORT, 0x3e) => self.value & Self::BUS_RESET == 0,
            (PORT, 0x64) => self.value & !Self::LINK_INTERRUPTS == 0,
            // MSI-X of the port itself.
            (PORT, 0x4a) => true,
            // MSI-X of the card is turned off; the program sets it up again.
            ("igb", 0x72) => self.value & Self::MSIX_ENABLE == 0,
            // The status of the port, of the link, of the slot and of errors below.
            (PORT, 0x5e | 0x66 | 0x6e | 0x74 | 0x104 | 0x110 | 0x130) => true,
            // The interrupts of the port for the slot and for errors below.
            (PORT, 0x6c) => self.value & Self::SLOT_OFF == 0,
            (PORT, 0x70 | 0x12c) => true,
            // No ARI, as before.
            (PORT, 0x7c) => self.value == 0,
            _ => false,
        };
        !harmless
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_read() {
        let line = "pci_cfg_write edu 02:00.0 @0x4 <- 0x103";
        let write = Write::parse(line, "edu").unwrap();
        assert_eq!((write.offset, write.value), (4, 0x103));
        assert!(write.clears_master() && write.disturbs("edu") && write.silences());
        let line = "pci_cfg_write edu 02:00.0 @0x4 <- 0x100";
        assert!(!Write::parse(line, "edu").unwrap().silences());
        let line = "pci_cfg_write edu 02:00.0 @0x4 <- 0x103";
        assert_eq!(Write::parse(line, "pcie-root-port"), None);
        let line = "12@1.5:pci_cfg_write edu 02:00.0 @0x4 <- 0x506";
        assert!(!Write::parse(line, "edu").unwrap().disturbs("edu"));
        let line = "pci_cfg_write edu 02:00.0 @0x10 <- 0xffffffff";
        assert!(Write::parse(line, "edu").unwrap().disturbs("edu"));
        let line = "pci_cfg_write edu 02:00.0 @0x3c <- 0xb";
        assert!(!Write::parse(line, "edu").unwrap().disturbs("edu"));
        let line = "pci_cfg_write pcie-root-port 00:01.0 @0x3e <- 0x43";
        assert!(Write::parse(line, PORT).unwrap().disturbs(PORT));
        let line = "pci_cfg_write pcie-root-port 00:01.0 @0x64 <- 0x20";
        assert!(Write::parse(line, PORT).unwrap().disturbs(PORT));
    }
}
