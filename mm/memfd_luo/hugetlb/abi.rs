// SPDX-License-Identifier: GPL-2.0

//! The data of memfds of huge pages that one kernel hands over to the next.
//!
//! Structures of the formats `hugetlb-memfd-v1` and `hugetlb-v1`, and parsers that convert them to
//! checked values. Like the format of other memfds, which has the array of folios in common, it also
//! compiles for the host.
//!
//! C header: [`include/linux/kho/abi/hugetlb.h`](srctree/include/linux/kho/abi/hugetlb.h)

use super::memfd_abi::{
    pages,
    ArraySer,
    FolioSer,
    FormatError,
    Record,
    Seals,
    UniformLayout,
    MAX_SIZE, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// `struct hugetlb_memfd_luo_ser`: a preserved memfd of huge pages.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct HugetlbMemfdSer {
    /// File position, in bytes.
    pub(crate) pos: u64,
    /// Size of the file, in bytes.
    pub(crate) size: u64,
    /// `F_SEAL_*`.
    pub(crate) seals: u32,
    /// Each huge page has `1 << order` pages.
    pub(crate) order: u16,
    /// [`Self::DMA_TARGET`].
    pub(crate) flags: u16,
    /// Number of entries of the array.
    pub(crate) nr_folios: u64,
    /// The array, of [`FolioSer`].
    pub(crate) folios: ArraySer,
}

impl HugetlbMemfdSer {
    /// A device may write to the memory of the file: until it is finished, its pages must not be
    /// used for anything else.
    pub(crate) const DMA_TARGET: u16 = 1 << 0;
}

/// The largest order of a huge page: with pages of 4 KiB, these have 16 GiB.
const MAX_ORDER: u32 = 22;

/// The checked properties of a preserved memfd of huge pages.
///
/// # Invariants
///
/// `size` and `pos` are at most `i64::MAX`, `order` is at most [`MAX_ORDER`]; there are at most as many
/// folios as the file has huge pages, and as fit into the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HugetlbMemfd {
    pub(crate) size: u64,
    pub(crate) pos: u64,
    pub(crate) seals: Seals,
    pub(crate) order: u32,
    /// Whether a device may write to the memory.
    pub(crate) dma_target: bool,
    pub(crate) nr_folios: u64,
}

impl HugetlbMemfd {
    /// Checks the data of the previous kernel, except the array.
    pub(crate) fn parse(ser: &HugetlbMemfdSer) -> Result<Self, FormatError> {
        if ser.flags & !HugetlbMemfdSer::DMA_TARGET != 0 {
            return Err(FormatError::UnknownFlags);
        }
        let seals = Seals::parse(ser.seals)?;
        let order = u32::from(ser.order);
        if ser.size > MAX_SIZE {
            return Err(FormatError::BadSize);
        }
        if ser.pos > MAX_SIZE {
            return Err(FormatError::BadPosition);
        }
        if order == 0 || order > MAX_ORDER {
            return Err(FormatError::BadOrder);
        }
        let huge_pages = pages(ser.size).div_ceil(1 << order);
        if ser.nr_folios > ser.folios.capacity() || ser.nr_folios > huge_pages {
            return Err(FormatError::BadCount);
        }
        // INVARIANT: Just checked.
        Ok(Self {
            size: ser.size,
            pos: ser.pos,
            seals,
            order,
            dma_target: ser.flags & HugetlbMemfdSer::DMA_TARGET != 0,
            nr_folios: ser.nr_folios,
        })
    }

    /// The pages of the file, none of which has a folio yet.
    pub(crate) const fn layout(&self) -> UniformLayout {
        // By the type invariant, the shift is in range.
        UniformLayout::new(self.size, 1u64.wrapping_shl(self.order))
    }
}

/// `struct hugetlb_hstate_ser`: the huge pages of one size that preserved files have.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct HstateSer {
    nr_pages: u64,
    order: u8,
    _pad: [u8; 7],
}

/// `struct hugetlb_ser`: the huge pages that preserved files have.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct HugetlbSer {
    hstates: [HstateSer; Self::SIZES],
    nr_hstates: u8,
    _pad: [u8; 7],
}

impl HugetlbSer {
    /// The maximum number of sizes of huge pages.
    pub(crate) const SIZES: usize = 4;

    /// Adds `nr` huge pages. Returns whether there is room for their size, and it was changed.
    pub(crate) fn add(&mut self, order: u8, nr: u64) -> bool {
        let used = usize::from(self.nr_hstates);
        let known = self.hstates.iter_mut().take(used);
        if let Some(hstate) = known.into_iter().find(|hstate| hstate.order == order) {
            hstate.nr_pages = hstate.nr_pages.saturating_add(nr);
            return true;
        }
        let Some(hstate) = self.hstates.get_mut(used) else {
            return false;
        };
        hstate.order = order;
        hstate.nr_pages = nr;
        self.nr_hstates = self.nr_hstates.saturating_add(1);
        true
    }

    /// Removes `nr` huge pages that were added.
    pub(crate) fn remove(&mut self, order: u8, nr: u64) {
        if let Some(hstate) = self.hstates.iter_mut().find(|hstate| hstate.order == order) {
            hstate.nr_pages = hstate.nr_pages.saturating_sub(nr);
        }
    }

    /// The sizes of huge pages, as orders, and the number of pages of each size.
    ///
    /// # Errors
    ///
    /// [`FormatError::BadCount`] if there are more sizes than fit; [`FormatError::BadOrder`] if one is
    /// invalid or appears twice.
    pub(crate) fn parse(&self) -> Result<impl Iterator<Item = (u32, u64)> + '_, FormatError> {
        let used = self
            .hstates
            .get(..usize::from(self.nr_hstates))
            .ok_or(FormatError::BadCount)?;
        for (n, hstate) in used.iter().enumerate() {
            let order = hstate.order;
            if order == 0
                || u32::from(order) > MAX_ORDER
                || used.iter().take(n).any(|other| other.order == order)
            {
                return Err(FormatError::BadOrder);
            }
        }
        Ok(used
            .iter()
            .map(|hstate| (u32::from(hstate.order), hstate.nr_pages)))
    }
}

/// Parses an entry of the array. All of them have a folio.
///
/// # Errors
///
/// [`FormatError::BadIndex`] if it has none, and the errors of [`FolioSer::parse`].
pub(crate) fn parse_entry(entry: &FolioSer) -> Result<Record, FormatError> {
    entry.parse()?.ok_or(FormatError::BadIndex)
}
