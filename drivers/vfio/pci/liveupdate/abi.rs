// SPDX-License-Identifier: GPL-2.0

//! The data of a file of vfio-pci that one kernel hands over to the next.
//!
//! The structure of the format `vfio-pci-v1`, and a parser that converts it to checked values. It
//! depends only on `core` and `zerocopy`, so that it also compiles for the host, where it is tested.

use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// The maximum number of files to whose memory a device can write.
pub(crate) const MAX_MEMORIES: usize = 32;

/// The maximum number of bytes of configuration space.
pub(crate) const CONFIG: usize = 4096;

/// Why data of the previous kernel was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormatError {
    /// An unknown flag.
    UnknownFlags,
    /// A size of the configuration space that no device has.
    BadSize,
    /// More files than the structure has room for.
    BadCount,
}

/// A preserved file of vfio-pci.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct VfioPciSer {
    /// Domain of the device.
    pub(crate) domain: u32,
    /// Bus, device and function.
    pub(crate) bdf: u16,
    /// [`Self::RESET_WORKS`].
    pub(crate) flags: u16,
    /// Bytes of the configuration space.
    pub(crate) cfg_size: u16,
    /// Number of elements of `memories`.
    pub(crate) nr_memories: u16,
    pub(crate) _pad: u32,
    /// Physical address of a [`ConfigSer`].
    pub(crate) config: u64,
    /// Tokens of the files to whose memory the device may write.
    pub(crate) memories: [u64; MAX_MEMORIES],
}

impl VfioPciSer {
    /// The device can be reset.
    pub(crate) const RESET_WORKS: u16 = 1 << 0;
}

/// The configuration space of a device as user space reads it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ConfigSer(pub(crate) [u8; CONFIG]);

/// The checked properties of a preserved file of vfio-pci.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct VfioPci<'a> {
    pub(crate) reset_works: bool,
    /// 256 or 4096.
    pub(crate) cfg_size: u16,
    /// Tokens.
    pub(crate) memories: &'a [u64],
}

impl<'a> VfioPci<'a> {
    /// Checks the data of the previous kernel, except the address.
    pub(crate) fn parse(ser: &'a VfioPciSer) -> Result<Self, FormatError> {
        if ser.flags & !VfioPciSer::RESET_WORKS != 0 || ser._pad != 0 {
            return Err(FormatError::UnknownFlags);
        }
        if !matches!(ser.cfg_size, 256 | 4096) {
            return Err(FormatError::BadSize);
        }
        let memories = ser.memories.get(..usize::from(ser.nr_memories));
        Ok(Self {
            reset_works: ser.flags & VfioPciSer::RESET_WORKS != 0,
            cfg_size: ser.cfg_size,
            memories: memories.ok_or(FormatError::BadCount)?,
        })
    }
}
