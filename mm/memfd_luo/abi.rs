// SPDX-License-Identifier: GPL-2.0

//! The data of a memfd that one kernel hands over to the next.
//!
//! Structures of the wire format `memfd-v2`, and parsers that convert them to checked values. It
//! depends only on `core` and `zerocopy`, so that it also compiles for the host, where it is tested
//! and fuzzed; the parent module provides `PAGE_SIZE`.
//!
//! C header: [`include/linux/kho/abi/memfd.h`](srctree/include/linux/kho/abi/memfd.h)

use super::PAGE_SIZE;
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// Why data of the previous kernel was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormatError {
    /// An unknown flag, of the file or of a folio.
    UnknownFlags,
    /// An unknown seal.
    UnknownSeals,
    /// An invalid size.
    BadSize,
    /// An invalid position.
    BadPosition,
    /// More folios than entries in their array, or than pages of the file.
    BadCount,
    /// A folio that lies outside the file, is not aligned to its size, or overlaps another one.
    BadIndex,
    /// A size of huge pages that no kernel has, or a folio of another size than the file's.
    BadOrder,
    /// A size of huge pages that this kernel or machine does not have.
    UnknownOrder,
    /// A folio without content in a file whose folios all have some.
    NoContent,
}

/// `struct kho_vmalloc`: the location of the array of folios.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct ArraySer {
    /// Physical address of the first chunk.
    pub(crate) first: u64,
    /// Number of pages of the array.
    pub(crate) total_pages: u32,
    /// How the array was mapped.
    pub(crate) flags: u16,
    /// The pages are allocated in groups of `1 << order`.
    pub(crate) order: u16,
}

/// `struct memfd_luo_ser`: a preserved memfd.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct MemfdSer {
    /// File position, in bytes.
    pub(crate) pos: u64,
    /// Size of the file, in bytes.
    pub(crate) size: u64,
    /// `F_SEAL_*`.
    pub(crate) seals: u32,
    /// [`Self::DMA_TARGET`]. C kernels ignore flags.
    pub(crate) flags: u32,
    /// Number of entries of the array.
    pub(crate) nr_folios: u64,
    /// The array, of [`FolioSer`].
    pub(crate) folios: ArraySer,
}

/// `struct memfd_luo_folio_ser`: a folio of a preserved memfd.
///
/// C has a bit field in `word`: 52 bits of page frame number, then 12 bits of flags.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct FolioSer {
    word: u64,
    index: u64,
}

impl FolioSer {
    /// Width of the page frame number.
    pub(crate) const PFN_BITS: u32 = 52;
    const PFN_MASK: u64 = (1 << Self::PFN_BITS) - 1;

    /// The folio has data that must not be dropped under memory pressure. All have, so it is written,
    /// but not relied on.
    pub(crate) const DIRTY: u64 = 1 << 0;
    /// The folio has been initialised.
    pub(crate) const UPTODATE: u64 = 1 << 1;

    /// Creates the entry of the folio at `pfn`; excess bits of the page frame number or flags are
    /// lost.
    pub(crate) const fn new(pfn: u64, flags: u64, index: u64) -> Self {
        Self {
            word: (pfn & Self::PFN_MASK) | (flags << Self::PFN_BITS),
            index,
        }
    }

    /// Parses an entry; an entry without a page frame number has no folio.
    pub(crate) fn parse(&self) -> Result<Option<Record>, FormatError> {
        let pfn = self.word & Self::PFN_MASK;
        let flags = self.word >> Self::PFN_BITS;

        if pfn == 0 {
            return Ok(None);
        }
        if flags & !(Self::DIRTY | Self::UPTODATE) != 0 {
            return Err(FormatError::UnknownFlags);
        }
        Ok(Some(Record {
            pfn,
            index: self.index,
            uptodate: flags & Self::UPTODATE != 0,
        }))
    }

    /// Offset in the file, in pages, of an entry that may otherwise be malformed.
    pub(crate) const fn raw_index(&self) -> u64 {
        self.index
    }

    /// The page frame number, if there is one, of an entry that may otherwise be malformed.
    ///
    /// Used to free memory whose content is not needed.
    pub(crate) fn raw_pfn(&self) -> Option<u64> {
        Some(self.word & Self::PFN_MASK).filter(|&pfn| pfn != 0)
    }
}

/// A folio of a preserved memfd, with known flags.
///
/// The index must still be [admitted](Layout::admit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) pfn: u64,
    /// Offset in the file, in pages.
    pub(crate) index: u64,
    pub(crate) uptodate: bool,
}

/// Seals, all of them known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seals(u32);

impl Seals {
    /// No further seals.
    pub(crate) const SEAL: u32 = 0x01;
    /// No shrinking.
    pub(crate) const SHRINK: u32 = 0x02;
    /// No growing.
    pub(crate) const GROW: u32 = 0x04;
    /// No writing.
    pub(crate) const WRITE: u32 = 0x08;
    /// No new writable mappings.
    pub(crate) const FUTURE_WRITE: u32 = 0x10;
    /// No change of the permission to execute.
    pub(crate) const EXEC: u32 = 0x20;

    /// The seals that [`Self::EXEC`] adds if the file may be executed.
    const W_XOR_X: u32 = Self::SHRINK | Self::GROW | Self::WRITE | Self::FUTURE_WRITE;
    /// All seals that the format can express.
    const KNOWN: u32 = Self::SEAL | Self::W_XOR_X | Self::EXEC;

    /// Fails with [`FormatError::UnknownSeals`] if the format does not know one of them.
    pub(crate) const fn parse(bits: u32) -> Result<Self, FormatError> {
        if bits & !Self::KNOWN != 0 {
            return Err(FormatError::UnknownSeals);
        }
        Ok(Self(bits))
    }

    /// The seals as `F_SEAL_*`.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// Permission bits of a memfd with these seals.
    ///
    /// The format does not contain the mode. A memfd that may be executed cannot get [`Self::EXEC`]
    /// without all the seals against writing. If it lacks one of these, it was therefore created
    /// with `MFD_NOEXEC_SEAL` and cannot be executed.
    pub(crate) const fn mode(self) -> u16 {
        if self.0 & Self::EXEC != 0 && self.0 & Self::W_XOR_X != Self::W_XOR_X {
            0o666
        } else {
            0o777
        }
    }
}

/// The largest file (`MAX_LFS_FILESIZE`).
pub(crate) const MAX_SIZE: u64 = i64::MAX as u64;

/// The checked properties of a preserved memfd.
///
/// # Invariants
///
/// `size` and `pos` are at most `i64::MAX`; there are at most `nr_folios` folios, which is at most
/// the number of pages of the file, and at most what fits into the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memfd {
    pub(crate) size: u64,
    pub(crate) pos: u64,
    pub(crate) seals: Seals,
    /// Whether a device may write to the memory.
    pub(crate) dma_target: bool,
    pub(crate) nr_folios: u64,
}

impl Memfd {
    /// Checks the data of the previous kernel, except the array.
    pub(crate) fn parse(ser: &MemfdSer) -> Result<Self, FormatError> {
        if ser.flags & !MemfdSer::DMA_TARGET != 0 {
            return Err(FormatError::UnknownFlags);
        }
        let seals = Seals::parse(ser.seals)?;
        if ser.size > MAX_SIZE {
            return Err(FormatError::BadSize);
        }
        if ser.pos > MAX_SIZE {
            return Err(FormatError::BadPosition);
        }
        if ser.nr_folios > ser.capacity() || ser.nr_folios > pages(ser.size) {
            return Err(FormatError::BadCount);
        }
        // INVARIANT: Just checked.
        Ok(Self {
            size: ser.size,
            pos: ser.pos,
            seals,
            dma_target: ser.is_dma_target(),
            nr_folios: ser.nr_folios,
        })
    }

    /// The pages of the file, none of which has a folio yet.
    pub(crate) const fn layout(&self) -> Layout {
        Layout::new(self.size)
    }
}

impl MemfdSer {
    /// A device may write to the memory of the file: until it is finished, the folios must stay
    /// where they are, and must not be used for anything else.
    pub(crate) const DMA_TARGET: u32 = 1 << 0;

    /// Whether a device may write to the memory; see [`Self::DMA_TARGET`].
    pub(crate) const fn is_dma_target(&self) -> bool {
        self.flags & Self::DMA_TARGET != 0
    }

    /// Number of entries that fit into the array.
    pub(crate) const fn capacity(&self) -> u64 {
        self.folios.capacity()
    }
}

impl ArraySer {
    /// Number of entries that fit into the array.
    pub(crate) const fn capacity(&self) -> u64 {
        // CAST: Lossless.
        (self.total_pages as u64).saturating_mul((PAGE_SIZE / size_of::<FolioSer>()) as u64)
    }
}

/// Number of pages that `size` bytes need.
pub(crate) const fn pages(size: u64) -> u64 {
    // CAST: Lossless.
    size.div_ceil(PAGE_SIZE as u64)
}

/// The pages of a file that have a folio.
///
/// Folios are handed over in the order of the file, so that one number is sufficient.
///
/// # Invariants
///
/// No admitted folio extends beyond `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    next: u64,
    pages: u64,
}

impl Layout {
    /// The pages of a file of `size` bytes, none of which has a folio yet.
    pub(crate) const fn new(size: u64) -> Self {
        // INVARIANT: No folio is admitted.
        Self {
            next: 0,
            pages: pages(size),
        }
    }

    /// Admits a folio of `nr` pages at `index`.
    ///
    /// Fails with [`FormatError::BadIndex`] if it starts beyond the end of the file, is not aligned
    /// to its size, or starts before the end of the previous one.
    pub(crate) fn admit(&mut self, index: u64, nr: u64) -> Result<(), FormatError> {
        let mask = nr.wrapping_sub(1);
        let aligned = nr != 0 && nr & mask == 0 && index & mask == 0;
        match index.checked_add(nr) {
            Some(end) if aligned && index >= self.next && index < self.pages => {
                // INVARIANT: This folio ends at `end`, all others before it starts.
                self.next = end;
                Ok(())
            }
            _ => Err(FormatError::BadIndex),
        }
    }
}

/// The pages of a file whose folios all have the same size and all have content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UniformLayout {
    layout: Layout,
    nr_pages: u64,
}

impl UniformLayout {
    /// The pages of a file of `size` bytes, none of which has a folio yet. Folios must have `nr_pages`
    /// pages.
    pub(crate) const fn new(size: u64, nr_pages: u64) -> Self {
        Self {
            layout: Layout::new(size),
            nr_pages,
        }
    }

    /// Admits a folio of `nr` pages.
    ///
    /// # Errors
    ///
    /// [`FormatError::BadOrder`] if it has another size, [`FormatError::NoContent`], and the errors of
    /// [`Layout::admit`].
    pub(crate) fn admit(&mut self, record: &Record, nr: u64) -> Result<(), FormatError> {
        if nr != self.nr_pages {
            return Err(FormatError::BadOrder);
        }
        if !record.uptodate {
            return Err(FormatError::NoContent);
        }
        self.layout.admit(record.index, nr)
    }
}
