// SPDX-License-Identifier: GPL-2.0

//! The data of memfds of huge pages that one kernel hands over to the next.
//!
//! Structures of the formats `hugetlb-memfd-v1` and `hugetlb-v2`, and parsers that convert them to
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

    /// Whether a device may write to the memory; see [`Self::DMA_TARGET`].
    pub(crate) const fn is_dma_target(&self) -> bool {
        self.flags & Self::DMA_TARGET != 0
    }
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
            dma_target: ser.is_dma_target(),
            nr_folios: ser.nr_folios,
        })
    }

    /// The pages of the file, none of which has a folio yet.
    pub(crate) const fn layout(&self) -> UniformLayout {
        // By the type invariant, the shift is in range.
        UniformLayout::new(self.size, 1u64.wrapping_shl(self.order))
    }
}

/// `struct hugetlb_count_ser`: the huge pages of one size on one node that preserved files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct CountSer {
    pub(crate) nr_pages: u64,
    pub(crate) node: u16,
    pub(crate) order: u8,
    _pad: [u8; 5],
}

/// The size and the node of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) order: u8,
    pub(crate) node: u16,
}

impl CountSer {
    const fn kind(&self) -> Kind {
        Kind {
            order: self.order,
            node: self.node,
        }
    }
}

/// `struct hugetlb_ser`: the huge pages that preserved files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct HugetlbSer {
    pub(crate) nr_counts: u64,
    pub(crate) counts: [CountSer; Self::COUNTS],
}

impl HugetlbSer {
    /// The maximum number of sizes and nodes.
    pub(crate) const COUNTS: usize = 63;

    /// The counts that are used.
    fn used(&self) -> Option<&[CountSer]> {
        self.counts.get(..usize::try_from(self.nr_counts).ok()?)
    }

    /// Adds `nr` huge pages. Returns whether there is room for their kind, and it was changed.
    pub(crate) fn add(&mut self, kind: Kind, nr: u64) -> bool {
        let used = self.used().map_or(0, <[_]>::len);
        let known = self.counts.iter_mut().take(used);
        if let Some(count) = known.into_iter().find(|count| count.kind() == kind) {
            count.nr_pages = count.nr_pages.saturating_add(nr);
            return true;
        }
        let Some(count) = self.counts.get_mut(used) else {
            return false;
        };
        *count = CountSer {
            nr_pages: nr,
            node: kind.node,
            order: kind.order,
            _pad: [0; 5],
        };
        self.nr_counts = self.nr_counts.saturating_add(1);
        true
    }

    /// Removes `nr` huge pages that were added.
    pub(crate) fn remove(&mut self, kind: Kind, nr: u64) {
        let Some(used) = self.used() else {
            return;
        };
        let (Some(at), Some(&last)) = (
            used.iter().position(|count| count.kind() == kind),
            used.last(),
        ) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(at) {
            count.nr_pages = count.nr_pages.saturating_sub(nr);
            if count.nr_pages == 0 {
                // The entry is free for another kind.
                *count = last;
                self.nr_counts = self.nr_counts.saturating_sub(1);
            }
        }
    }

    /// The kinds of huge pages, and the number of pages of each.
    ///
    /// # Errors
    ///
    /// [`FormatError::BadCount`] if there are more kinds than fit; [`FormatError::BadOrder`] if one is
    /// invalid or appears twice.
    pub(crate) fn parse(&self) -> Result<impl Iterator<Item = (Kind, u64)> + '_, FormatError> {
        let used = self.used().ok_or(FormatError::BadCount)?;
        for (n, count) in used.iter().enumerate() {
            let kind = count.kind();
            if kind.order == 0
                || u32::from(kind.order) > MAX_ORDER
                || used.iter().take(n).any(|other| other.kind() == kind)
            {
                return Err(FormatError::BadOrder);
            }
        }
        Ok(used.iter().map(|count| (count.kind(), count.nr_pages)))
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
