// SPDX-License-Identifier: GPL-2.0

//! The data of a file of vfio-pci that one kernel hands over to the next.
//!
//! The structures of the format `vfio-pci-v2`, and a parser that converts them to checked values. It
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

/// The maximum number of ranges of these files that are mapped, after adjacent ones are joined.
pub(crate) const MAX_RANGES: usize = 170;

/// Why data of the previous kernel was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormatError {
    /// An unknown flag.
    UnknownFlags,
    /// A size of the configuration space that no device has.
    BadSize,
    /// More files or ranges than the structures have room for.
    BadCount,
    /// An empty range, one of an unknown file, or ranges in the wrong order.
    BadRange,
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
    /// Number of elements of [`StateSer::ranges`].
    pub(crate) nr_ranges: u16,
    pub(crate) _pad: u16,
    /// Physical address of a [`StateSer`].
    pub(crate) state: u64,
    /// Tokens of the files to whose memory the device may write.
    pub(crate) memories: [u64; MAX_MEMORIES],
}

impl VfioPciSer {
    /// The device can be reset.
    pub(crate) const RESET_WORKS: u16 = 1 << 0;

    /// Replaces the ranges in `state`. `sorted` must be sorted. Returns [`None`] if there are too many;
    /// the data is incomplete then.
    pub(crate) fn set_ranges(
        &mut self,
        state: &mut StateSer,
        sorted: impl Iterator<Item = RangeSer>,
    ) -> Option<()> {
        self.nr_ranges = 0;
        for range in join(sorted) {
            *state.ranges.get_mut(usize::from(self.nr_ranges))? = range;
            self.nr_ranges = self.nr_ranges.saturating_add(1);
        }
        Some(())
    }
}

/// A mapped part of a file. The order is by file and start.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout, //
)]
#[repr(C)]
pub(crate) struct RangeSer {
    /// The index of the file in [`VfioPciSer::memories`].
    pub(crate) memory: u64,
    /// The first byte.
    pub(crate) start: u64,
    /// The byte after the last one.
    pub(crate) end: u64,
}

/// Joins ranges that overlap or are adjacent. `sorted` must be sorted.
fn join(sorted: impl Iterator<Item = RangeSer>) -> impl Iterator<Item = RangeSer> {
    let mut rest = sorted.peekable();
    core::iter::from_fn(move || {
        let mut range = rest.next()?;
        while let Some(next) =
            rest.next_if(|next| next.memory == range.memory && next.start <= range.end)
        {
            range.end = range.end.max(next.end);
        }
        Some(range)
    })
}

/// Returns whether all bytes of the ranges `wanted` are in those of `sorted`. Both must be sorted.
pub(crate) fn covers(sorted: impl Iterator<Item = RangeSer>, wanted: &[RangeSer]) -> bool {
    let mut joined = join(sorted).peekable();
    wanted.iter().all(|wanted| {
        let is_before = |range: &RangeSer| (range.memory, range.end) < (wanted.memory, wanted.end);
        while joined.next_if(is_before).is_some() {}
        let range = joined.peek();
        range.is_some_and(|range| range.memory == wanted.memory && range.start <= wanted.start)
    })
}

/// What does not fit into [`VfioPciSer`].
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct StateSer {
    /// The configuration space of the device as user space reads it.
    pub(crate) config: [u8; CONFIG],
    /// The memory that was mapped when the file was frozen.
    pub(crate) ranges: [RangeSer; MAX_RANGES],
    pub(crate) _pad: [u64; 2],
}

/// The checked properties of a preserved file of vfio-pci.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct VfioPci<'a> {
    pub(crate) reset_works: bool,
    /// 256 or 4096.
    pub(crate) cfg_size: u16,
    pub(crate) config: &'a [u8; CONFIG],
    /// Tokens.
    pub(crate) memories: &'a [u64],
    pub(crate) ranges: &'a [RangeSer],
}

impl<'a> VfioPci<'a> {
    /// Checks the data of the previous kernel, except the address.
    pub(crate) fn parse(ser: &'a VfioPciSer, state: &'a StateSer) -> Result<Self, FormatError> {
        if ser.flags & !VfioPciSer::RESET_WORKS != 0 || ser._pad != 0 {
            return Err(FormatError::UnknownFlags);
        }
        if !matches!(ser.cfg_size, 256 | 4096) {
            return Err(FormatError::BadSize);
        }
        let memories = ser.memories.get(..usize::from(ser.nr_memories));
        let ranges = state.ranges.get(..usize::from(ser.nr_ranges));
        let (Some(memories), Some(ranges)) = (memories, ranges) else {
            return Err(FormatError::BadCount);
        };
        let is_valid =
            |range: &RangeSer| range.memory < ser.nr_memories.into() && range.start < range.end;
        let mut pairs = ranges.iter().zip(ranges.iter().skip(1));
        if !ranges.iter().all(is_valid) || pairs.any(|(range, next)| range > next) {
            return Err(FormatError::BadRange);
        }
        Ok(Self {
            reset_works: ser.flags & VfioPciSer::RESET_WORKS != 0,
            cfg_size: ser.cfg_size,
            config: &state.config,
            memories,
            ranges,
        })
    }
}
