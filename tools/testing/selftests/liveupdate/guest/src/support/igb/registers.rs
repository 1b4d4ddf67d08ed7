// SPDX-License-Identifier: GPL-2.0

//! Registers and bits of the 82576, with the names of its data sheet; those of queue 0.

/// A value with these bits.
const fn bits<const N: usize>(bits: [u32; N]) -> u32 {
    let mut value = 0;
    let mut at = 0;
    while at < N {
        value |= 1 << bits[at];
        at += 1;
    }
    value
}

pub const CTRL: u32 = 0x0000;
/// Sets the link up.
pub const CTRL_SLU: u32 = 1 << 6;
pub const CTRL_RST: u32 = 1 << 26;

pub const STATUS: u32 = 0x0008;
/// The link is up.
pub const STATUS_LU: u32 = 1 << 1;

pub const CTRL_EXT: u32 = 0x0018;
/// A driver is loaded.
pub const CTRL_EXT_DRV_LOAD: u32 = 1 << 28;

pub const MDIC: u32 = 0x0020;
/// Writes the control register of the PHY: starts autonegotiation. QEMU's link is down until then.
pub const MDIC_AUTONEG: u32 = bits([26, 21, 12, 9]);

/// Reading it clears all causes.
pub const ICR: u32 = 0x00c0;
pub const IMS: u32 = 0x00d0;
pub const IMC: u32 = 0x00d8;
/// In these, a descriptor of a received frame was written.
pub const ICR_RXDW: u32 = 1 << 7;

pub const RCTL: u32 = 0x0100;
/// On, for all unicast, multicast and broadcast frames, without their checksum.
pub const RCTL_PROMISCUOUS: u32 = bits([1, 3, 4, 15, 26]);

pub const TCTL: u32 = 0x0400;
pub const TCTL_EN: u32 = 1 << 1;
/// Pads short frames.
pub const TCTL_PSP: u32 = 1 << 3;

pub const GPIE: u32 = 0x1514;
/// Several vectors of MSI-X, chosen by IVAR.
pub const GPIE_MSIX: u32 = 1 << 4;

pub const EIMS: u32 = 0x1524;
pub const EIMC: u32 = 0x1528;
pub const EIAC: u32 = 0x152c;
/// The first vector in these.
pub const VECTOR: u32 = 1;

pub const IVAR0: u32 = 0x1700;
/// Received frames of queue 0 raise the first vector.
pub const IVAR_VALID: u32 = 1 << 7;

pub const RDBAL: u32 = 0x2800;
pub const RDBAH: u32 = 0x2804;
pub const RDLEN: u32 = 0x2808;
pub const SRRCTL: u32 = 0x280c;
/// Descriptors of the advanced kind with one buffer; the low bits have its size in KiB.
pub const SRRCTL_ADVANCED: u32 = 1 << 25;
pub const RDH: u32 = 0x2810;
pub const RDT: u32 = 0x2818;
pub const RXDCTL: u32 = 0x2828;

pub const TDBAL: u32 = 0x3800;
pub const TDBAH: u32 = 0x3804;
pub const TDLEN: u32 = 0x3808;
pub const TDH: u32 = 0x3810;
pub const TDT: u32 = 0x3818;
pub const TXDCTL: u32 = 0x3828;

/// In RXDCTL and TXDCTL.
pub const QUEUE_ENABLE: u32 = 1 << 25;

/// In the status of a descriptor: the device is done with it.
pub const DESCRIPTOR_DONE: u32 = 1;

/// In a descriptor of a frame to be sent: data, of the advanced kind, the end of a frame, with a
/// checksum, and the status is to be reported.
pub const SEND_COMMAND: u32 = bits([20, 21, 24, 25, 27, 29]);
/// The position of the length of the frame.
pub const SEND_LENGTH_SHIFT: u32 = 14;
