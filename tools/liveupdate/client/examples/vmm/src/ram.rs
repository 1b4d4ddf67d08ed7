// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The RAM of the guest: a memfd, which is mapped by this process.

use liveupdate::luod::Result;
use rustix::{
    fs::{memfd_create, MemfdFlags},
    mm::{madvise, Advice},
};
use std::fs::File;
use vm_memory::{FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

/// The maximum size. Above it are the interrupt controllers.
pub const MAX: u64 = 3 << 30;
/// The minimum size with which a kernel starts.
const MIN: u64 = 64 << 20;

/// Mapped RAM, from the guest's address 0.
pub struct Ram {
    /// The file, which is preserved in an update.
    pub file: File,
    /// The mapping.
    pub memory: GuestMemoryMmap,
}

impl Ram {
    /// New RAM of `size` bytes, all zero.
    ///
    /// # Errors
    ///
    /// If the size is not supported, or there is no memory.
    pub fn new(size: u64, huge: bool) -> Result<Self> {
        let file = File::from(memfd_create("guest-ram", MemfdFlags::CLOEXEC)?);
        file.set_len(size)?;
        Self::map(file, size, huge)
    }

    /// Maps the RAM in `file`. `huge` asks for huge pages: the kernel hands over each of them as
    /// fast as a small one.
    ///
    /// # Errors
    ///
    /// If the file does not have `size` bytes, or this is no valid size.
    pub fn map(file: File, size: u64, huge: bool) -> Result<Self> {
        if file.metadata()?.len() != size {
            return Err(format!("the RAM of the guest does not have {size} bytes").into());
        }
        if !(MIN..=MAX).contains(&size) || size % 4096 != 0 {
            return Err(format!("a guest cannot have {size} bytes of RAM").into());
        }
        let len = usize::try_from(size)?;
        let offset = FileOffset::new(file.try_clone()?, 0);
        let range = (GuestAddress(0), len, Some(offset));
        let memory = GuestMemoryMmap::from_ranges_with_files([range])?;
        let ram = Self { file, memory };
        if huge {
            let start = ram.start()?;
            // SAFETY: The mapping has `len` bytes, and this advice does not change contents.
            unsafe { madvise(start.cast(), len, Advice::LinuxHugepage)? };
        }
        Ok(ram)
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.memory.iter().map(GuestMemoryRegion::len).sum()
    }

    /// The start of the mapping.
    ///
    /// # Errors
    ///
    /// None in practice: the mapping is not empty.
    pub fn start(&self) -> Result<*mut u8> {
        Ok(self.memory.get_host_address(GuestAddress(0))?)
    }
}
