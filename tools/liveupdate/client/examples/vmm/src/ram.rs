// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The RAM of the guest: a file, which is mapped by this process.

use clap::ValueEnum;
use kvm_bindings::kvm_create_guest_memfd;
use kvm_ioctls::VmFd;
use liveupdate::luod::Result;
use rustix::{
    fs::{fallocate, memfd_create, FallocateFlags, MemfdFlags},
    mm::{madvise, Advice},
};
use std::{
    fs::File,
    os::fd::{FromRawFd, OwnedFd},
};
use vm_memory::{FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

/// The maximum size. Above it are the interrupt controllers.
pub const MAX: u64 = 3 << 30;
/// The minimum size with which a kernel starts.
const MIN: u64 = 64 << 20;

/// `GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED`: this process maps all of it.
const SHARED: u64 = 3;

/// What the RAM consists of. The values are part of the format of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A memfd, with pages of any size.
    Memfd,
    /// A memfd, with huge pages where the kernel has some. It hands over a huge page as fast as a
    /// small one.
    Transparent,
    /// A memfd with huge pages of 2 MiB from the pool of the host (hugepages=).
    Hugetlb,
    /// A guest_memfd, which belongs to a VM.
    GuestMemfd,
}

impl Kind {
    /// Returns the kind that has this number in the state.
    pub fn from_number(number: u32) -> Option<Self> {
        let mut kinds = Self::value_variants().iter();
        kinds.find(|kind| **kind as u32 == number).copied()
    }

    /// Creates a file of `size` bytes. If it is of one of the last two kinds, all of its memory is
    /// allocated, since the guest cannot get more while the file is preserved.
    fn create(self, vm: &VmFd, size: u64) -> Result<File> {
        let (flags, fill) = match self {
            Self::Memfd | Self::Transparent => (MemfdFlags::empty(), false),
            Self::Hugetlb => (MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, true),
            Self::GuestMemfd => {
                let request = kvm_create_guest_memfd {
                    size,
                    flags: SHARED,
                    ..Default::default()
                };
                let fd = vm
                    .create_guest_memfd(request)
                    .map_err(|error| format!("KVM provides no guest_memfd: {error}"))?;
                // SAFETY: The descriptor is new.
                let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
                fallocate(&file, FallocateFlags::KEEP_SIZE, 0, size)?;
                return Ok(file);
            }
        };
        let file = File::from(memfd_create("guest-ram", MemfdFlags::CLOEXEC | flags)?);
        file.set_len(size)?;
        if fill {
            fallocate(&file, FallocateFlags::empty(), 0, size).map_err(|error| {
                format!("there are not enough huge pages (see vm.nr_hugepages): {error}")
            })?;
        }
        Ok(file)
    }
}

/// Mapped RAM, from the guest's address 0.
pub struct Ram {
    /// The file, which is preserved in an update.
    pub file: File,
    /// The mapping.
    pub memory: GuestMemoryMmap,
    /// What the file is.
    pub kind: Kind,
}

impl Ram {
    /// New RAM of `size` bytes for a VM, all zero.
    ///
    /// # Errors
    ///
    /// If the size or the kind is not supported, or there is no memory.
    pub fn new(vm: &VmFd, size: u64, kind: Kind) -> Result<Self> {
        Self::map(kind.create(vm, size)?, size, kind)
    }

    /// Maps the RAM in `file`.
    ///
    /// # Errors
    ///
    /// If the file does not have `size` bytes, or this is no valid size.
    pub fn map(file: File, size: u64, kind: Kind) -> Result<Self> {
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
        let ram = Self { file, memory, kind };
        if kind == Kind::Transparent {
            let start = ram.start()?;
            // SAFETY: The mapping has `len` bytes, and this advice does not change contents.
            unsafe { madvise(start.cast(), len, Advice::LinuxHugepage)? };
        }
        Ok(ram)
    }

    /// Allocates all of the RAM.
    ///
    /// # Errors
    ///
    /// If there is not enough memory.
    pub fn populate(&self) -> Result {
        let len = usize::try_from(self.size())?;
        // SAFETY: The mapping has `len` bytes, and this advice does not change contents.
        unsafe { madvise(self.start()?.cast(), len, Advice::LinuxPopulateWrite)? };
        Ok(())
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
