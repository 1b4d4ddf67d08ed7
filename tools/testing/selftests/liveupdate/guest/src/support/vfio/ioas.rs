// SPDX-License-Identifier: GPL-2.0

//! An address space of iommufd for devices without an IOMMU: it pins memory and returns the
//! physical addresses.

use super::ioctl::{call, GetPa};
use crate::support::error::{At, Result};
use iommufd_bindings::{
    iommu_ioas_alloc, iommu_ioas_map, iommu_ioas_map_file, iommu_ioas_unmap,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE,
};
use std::{
    fs::File,
    ops::Range,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

const DEVICE: &str = "/dev/iommu";

/// The device may read and write the memory, at the address that is asked for.
const FLAGS: u32 = iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
    | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE
    | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE;

/// An address space.
pub struct Ioas {
    iommufd: File,
    id: u32,
}

impl Ioas {
    /// Creates an address space in a new iommufd.
    pub fn new() -> Result<Self> {
        let iommufd = File::options().read(true).write(true).open(DEVICE);
        let iommufd = iommufd.at(DEVICE)?;
        let mut alloc = iommu_ioas_alloc {
            size: size_of::<iommu_ioas_alloc>() as u32,
            ..Default::default()
        };
        call(&iommufd, &mut alloc).at("IOMMU_IOAS_ALLOC")?;
        Ok(Self {
            iommufd,
            id: alloc.out_ioas_id,
        })
    }

    /// Another descriptor of the same address space.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            iommufd: self.iommufd.try_clone().at("duplicate an iommufd")?,
            id: self.id,
        })
    }

    /// Its number in the iommufd.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Maps `length` bytes of this program at the address `iova`.
    pub fn map_memory(&self, start: u64, length: u64, iova: u64) -> Result {
        let mut map = iommu_ioas_map {
            size: size_of::<iommu_ioas_map>() as u32,
            flags: FLAGS,
            ioas_id: self.id,
            user_va: start,
            length,
            iova,
            ..Default::default()
        };
        call(&self.iommufd, &mut map).at("IOMMU_IOAS_MAP")
    }

    /// Ends a mapping.
    pub fn unmap(&self, iova: u64, length: u64) -> Result {
        let mut unmap = iommu_ioas_unmap {
            size: size_of::<iommu_ioas_unmap>() as u32,
            ioas_id: self.id,
            iova,
            length,
        };
        call(&self.iommufd, &mut unmap).at("IOMMU_IOAS_UNMAP")
    }

    /// Maps the bytes `area` of a memfd at the address `iova`.
    pub fn map(&self, memfd: impl AsFd, area: Range<u64>, iova: u64) -> Result {
        let mut map = iommu_ioas_map_file {
            size: size_of::<iommu_ioas_map_file>() as u32,
            flags: FLAGS,
            ioas_id: self.id,
            fd: memfd.as_fd().as_raw_fd(),
            start: area.start,
            length: area.end - area.start,
            iova,
        };
        call(&self.iommufd, &mut map).at("IOMMU_IOAS_MAP_FILE")
    }

    /// The physical address of `iova`, and the number of the next `length` bytes that follow it in
    /// physical memory. A device must be attached.
    pub fn physical(&self, iova: u64, length: u64) -> Result<(u64, u64)> {
        let mut get = GetPa {
            size: size_of::<GetPa>() as u32,
            ioas_id: self.id,
            iova,
            length,
            ..Default::default()
        };
        call(&self.iommufd, &mut get).at("IOMMU_IOAS_NOIOMMU_GET_PA")?;
        Ok((get.out_phys, get.length))
    }
}

impl AsFd for Ioas {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.iommufd.as_fd()
    }
}
