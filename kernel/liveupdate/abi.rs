// SPDX-License-Identifier: GPL-2.0

//! The data that one kernel hands over to the next.
//!
//! This module contains the structures of the wire format, and parsers that convert untrusted bytes
//! to checked values. It depends only on `core` and `zerocopy`, so that it also compiles for the
//! host, where it is tested and fuzzed; the parent module provides `PAGE_SIZE`.
//!
//! C headers: [`include/linux/kho/abi/luo.h`](srctree/include/linux/kho/abi/luo.h),
//! [`include/linux/kho/abi/block.h`](srctree/include/linux/kho/abi/block.h)

use super::PAGE_SIZE;
use core::{
    cmp::Ordering,
    marker::PhantomData,
    mem::size_of,
    ops::Deref, //
};
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// Why data of the previous kernel was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParseError {
    /// There is less memory than the format needs.
    Truncated,
    /// The format has another version.
    Incompatible,
    /// A number of entries that is 0 or exceeds the memory.
    BadCount,
    /// A string that is empty or not terminated.
    BadString,
    /// An address of memory that was not preserved, or that was already claimed.
    BadAddress,
    /// A list with more blocks than any kernel writes.
    TooLong,
}

/// A null-terminated string in a field of fixed size.
///
/// # Invariants
///
/// The first byte is not null, the last byte is null, and all bytes after the first null byte are
/// null. Strings are therefore equal exactly if their fields are equal byte by byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FixedStr<const N: usize>([u8; N]);

impl<const N: usize> FixedStr<N> {
    /// Size of the field, with the terminator.
    pub(crate) const LEN: usize = N;

    /// Parses a field; bytes after the terminator are ignored.
    ///
    /// Fails with [`ParseError::BadString`] if the string is empty or has no terminator.
    pub(crate) fn parse(raw: &[u8; N]) -> Result<Self, ParseError> {
        let mut field = [0; N];
        let mut terminated = false;
        for (dst, &src) in field.iter_mut().zip(raw) {
            if src == 0 {
                terminated = true;
                break;
            }
            *dst = src;
        }
        if !terminated || field.first().is_none_or(|&first| first == 0) {
            return Err(ParseError::BadString);
        }
        // INVARIANT: All bytes before the terminator, of which there is at least one, were copied;
        // the rest is still null.
        Ok(Self(field))
    }

    /// The field as it is handed over.
    pub(crate) const fn field(&self) -> &[u8; N] {
        &self.0
    }

    /// The string without its terminator.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or(&[])
    }

    /// Numbers in the order of the strings. Looking up a name spends most of its time on
    /// comparisons.
    fn words(&self) -> impl Iterator<Item = u64> + '_ {
        const LEN: usize = size_of::<u64>();
        const { assert!(N % LEN == 0) };

        let word = |bytes: &[u8]| {
            bytes
                .first_chunk()
                .map_or(0, |word| u64::from_be_bytes(*word))
        };
        self.0.chunks_exact(LEN).map(word)
    }
}

impl<const N: usize> Ord for FixedStr<N> {
    /// The order of the strings.
    fn cmp(&self, other: &Self) -> Ordering {
        self.words().cmp(other.words())
    }
}

impl<const N: usize> PartialOrd for FixedStr<N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The name of a session.
pub(crate) type Name = FixedStr<64>;

/// Identifies the format of a file's or an FLB's data, and its handler.
pub(crate) type Compatible = FixedStr<48>;

/// `struct luo_ser`: the root of the data that LUO hands over.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct LuoSer {
    pub(crate) compatible: [u8; 8],
    pub(crate) liveupdate_num: u64,
    pub(crate) sessions_pa: u64,
    pub(crate) flbs_pa: u64,
}

impl LuoSer {
    /// The version of the format that this file describes.
    pub(crate) const COMPATIBLE: [u8; 8] = *b"luo-v5\0\0";

    /// Parses the root, which must be complete and of this version.
    pub(crate) fn parse(bytes: &[u8]) -> Result<&Self, ParseError> {
        let (this, _) = Self::ref_from_prefix(bytes).map_err(|_| ParseError::Truncated)?;
        if FixedStr::parse(&this.compatible)?.field() != &Self::COMPATIBLE {
            return Err(ParseError::Incompatible);
        }
        Ok(this)
    }
}

/// The number of live updates, from a kernel without other data to hand over.
///
/// A separate entry: kernels without support ignore it, and it does not depend on the version of
/// the root.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct CountSer {
    version: u64,
    pub(crate) liveupdate_num: u64,
}

impl CountSer {
    const VERSION: u64 = 1;

    /// The value to hand over.
    pub(crate) const fn new(liveupdate_num: u64) -> Self {
        Self {
            version: Self::VERSION,
            liveupdate_num,
        }
    }

    /// Parses the entry, which must be complete and of this version.
    pub(crate) fn parse(bytes: &[u8]) -> Result<&Self, ParseError> {
        let (this, _) = Self::ref_from_prefix(bytes).map_err(|_| ParseError::Truncated)?;
        if this.version != Self::VERSION {
            return Err(ParseError::Incompatible);
        }
        Ok(this)
    }
}

/// The action that a kernel must take if it does not understand data, in addition to keeping the
/// memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// It must silence all devices before it frees memory.
    Silenced,
    /// It must not continue.
    Fatal,
}

/// The policy for data of one name.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
pub(crate) struct PolicySer {
    name: [u8; 48],
    policy: u32,
    flags: u32,
}

impl PolicySer {
    const FATAL: u32 = 1;
    const SILENCED: u32 = 2;
    /// In `flags`: the name is that of an FLB, which must be in the page of all FLBs.
    const FLB: u32 = 1;

    pub(crate) fn new(name: &Compatible, policy: Policy, is_flb: bool) -> Self {
        Self {
            name: *name.field(),
            policy: match policy {
                Policy::Silenced => Self::SILENCED,
                Policy::Fatal => Self::FATAL,
            },
            flags: if is_flb { Self::FLB } else { 0 },
        }
    }

    /// The name of a handler or an FLB.
    pub(crate) fn name(&self) -> Result<Compatible, ParseError> {
        Compatible::parse(&self.name)
    }

    /// The policy. An unknown policy is fatal.
    pub(crate) fn policy(&self) -> Policy {
        match self.policy {
            Self::SILENCED => Policy::Silenced,
            _ => Policy::Fatal,
        }
    }

    /// Whether the name is that of an FLB.
    pub(crate) fn is_flb(&self) -> bool {
        self.flags & Self::FLB != 0
    }
}

/// A separate entry in the Kexec Handover tree: the names of data that must be understood. It exists
/// if there are any. Kernels that do not support it ignore it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct PolicyPage {
    version: u64,
    count: u64,
    entries: [PolicySer; Self::CAPACITY],
    reserved: [u8; 48],
}

impl PolicyPage {
    const VERSION: u64 = 1;
    /// The maximum number of names.
    pub(crate) const CAPACITY: usize = 72;

    /// Replaces the content. Ignores names that do not fit.
    pub(crate) fn fill(&mut self, entries: impl Iterator<Item = PolicySer>) {
        self.version = Self::VERSION;
        self.count = 0;
        for (to, from) in self.entries.iter_mut().zip(entries) {
            *to = from;
            self.count = self.count.saturating_add(1);
        }
    }

    /// Parses the page, which must be complete and of this version.
    pub(crate) fn parse(bytes: &[u8]) -> Result<&[PolicySer], ParseError> {
        let (this, _) = Self::ref_from_prefix(bytes).map_err(|_| ParseError::Truncated)?;
        if this.version != Self::VERSION {
            return Err(ParseError::Incompatible);
        }
        let count = usize::try_from(this.count).map_err(|_| ParseError::BadCount)?;
        this.entries.get(..count).ok_or(ParseError::BadCount)
    }
}

/// `struct luo_file_set_ser`: the list of files of a session.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
pub(crate) struct FileSetSer {
    pub(crate) files: u64,
    pub(crate) count: u64,
}

impl FileSetSer {
    /// A session without files.
    pub(crate) const EMPTY: Self = Self { files: 0, count: 0 };
}

/// `struct luo_session_ser`: one session.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct SessionSer {
    pub(crate) name: [u8; 64],
    pub(crate) file_set: FileSetSer,
}

/// `struct luo_file_ser`: one file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
pub(crate) struct FileSer {
    pub(crate) compatible: [u8; 48],
    pub(crate) data: u64,
    pub(crate) token: u64,
}

/// `struct luo_flb_ser`: one FLB.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
pub(crate) struct FlbSer {
    pub(crate) name: [u8; 48],
    pub(crate) data: u64,
    pub(crate) count: u64,
}

/// `struct luo_flb_header_ser`: the beginning of the page of all FLBs.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FlbHeader {
    pgcnt: u64,
    count: u64,
}

impl FlbHeader {
    /// The number of entries in the page, which has room for them.
    fn count(&self) -> Result<usize, ParseError> {
        usize::try_from(self.count)
            .ok()
            .filter(|&count| count <= FlbPage::CAPACITY)
            .ok_or(ParseError::BadCount)
    }

    /// The offsets in the page of the entries that are in use.
    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = usize>, ParseError> {
        let offsets = (size_of::<Self>()..).step_by(size_of::<FlbSer>());
        Ok(offsets.take(self.count()?))
    }
}

/// The page of all FLBs.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FlbPage {
    header: FlbHeader,
    entries: [FlbSer; FlbPage::CAPACITY],
    unused: [u8; PAGE_SIZE - size_of::<FlbHeader>() - FlbPage::CAPACITY * size_of::<FlbSer>()],
}

impl FlbPage {
    /// The maximum number of FLBs.
    pub(crate) const CAPACITY: usize = (PAGE_SIZE - size_of::<FlbHeader>()) / size_of::<FlbSer>();

    /// Replaces the entries by those of `states`; there is room for [`Self::CAPACITY`] of them.
    pub(crate) fn fill(&mut self, states: impl Iterator<Item = FlbSer>) {
        self.header.pgcnt = 1;
        self.header.count = 0;
        for (entry, state) in self.entries.iter_mut().zip(states) {
            *entry = state;
            self.header.count = self.header.count.wrapping_add(1);
        }
    }

    /// Parses the page: the entries that are in use.
    pub(crate) fn parse(bytes: &[u8]) -> Result<&[FlbSer], ParseError> {
        let (this, _) = Self::ref_from_prefix(bytes).map_err(|_| ParseError::Truncated)?;
        let count = this.header.count()?;
        this.entries.get(..count).ok_or(ParseError::BadCount)
    }
}

/// `struct kho_block_header_ser`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct BlockHeader {
    next: u64,
    count: u64,
}

/// One page of a list of entries.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Block {
    header: BlockHeader,
    payload: [u64; (PAGE_SIZE - size_of::<BlockHeader>()) / 8],
}

/// Types of list entries.
pub(crate) trait Entry:
    FromBytes + IntoBytes + Immutable + KnownLayout<PointerMetadata = ()>
{
}

impl Entry for SessionSer {}
impl Entry for FileSer {}

impl Block {
    /// The maximum number of blocks of a list; the C implementation refuses longer ones.
    pub(crate) const MAX: usize = 10_000;

    /// The number of `T`s in a block.
    pub(crate) const fn capacity<T>() -> usize {
        (PAGE_SIZE - size_of::<BlockHeader>()) / size_of::<T>()
    }

    /// Sets the address of the next block, or 0.
    pub(crate) fn set_next(&mut self, next: u64) {
        self.header.next = next;
    }

    /// Sets the number of entries to `count`, and returns the entries for writing.
    ///
    /// Returns [`None`] if there is no room for that many.
    pub(crate) fn entries_mut<T: Entry>(&mut self, count: usize) -> Option<&mut [T]> {
        let (entries, _) =
            <[T]>::mut_from_prefix_with_elems(self.payload.as_mut_bytes(), count).ok()?;
        // CAST: `usize` has at most 64 bits.
        self.header.count = count as u64;
        Some(entries)
    }

    /// Parses a block: its entries, of which there is at least one, and the next block's address.
    pub(crate) fn parse<T: Entry>(bytes: &[u8]) -> Result<(&[T], u64), ParseError> {
        let (block, _) = Self::ref_from_prefix(bytes).map_err(|_| ParseError::Truncated)?;
        let count = usize::try_from(block.header.count)
            .ok()
            .filter(|&count| count != 0 && count <= Self::capacity::<T>())
            .ok_or(ParseError::BadCount)?;
        let (entries, _) = <[T]>::ref_from_prefix_with_elems(block.payload.as_bytes(), count)
            .map_err(|_| ParseError::BadCount)?;
        Ok((entries, block.header.next))
    }
}

/// The source of the blocks of a list.
pub(crate) trait Memory {
    /// Claimed memory.
    type Page: Deref<Target = [u8]>;

    /// Claims the page at the physical address `pa`.
    ///
    /// Fails with [`ParseError::BadAddress`] if the page was not preserved or is already claimed.
    /// This detects lists with a cycle, and lists that share a block.
    fn claim(&self, pa: u64) -> Result<Self::Page, ParseError>;

    /// Keeps memory reserved that is not part of a list: it may belong to another file, and a device may
    /// write to it.
    fn keep(&self, page: Self::Page);
}

/// Reads a list of `T`s, block by block.
///
/// Reading can be interrupted at any entry and continued later; the block that is being read, and
/// only that one, is owned by the reader.
pub(crate) struct ListReader<T, M: Memory> {
    memory: M,
    next: u64,
    page: Option<M::Page>,
    pos: usize,
    blocks: usize,
    _entries: PhantomData<fn() -> T>,
}

impl<T: Entry, M: Memory> ListReader<T, M> {
    /// Starts to read the list whose first block is at `head`; 0 is an empty list.
    pub(crate) fn new(memory: M, head: u64) -> Self {
        Self {
            memory,
            next: head,
            page: None,
            pos: 0,
            blocks: 0,
            _entries: PhantomData,
        }
    }

    /// Returns the current entry, or [`None`] at the end of the list.
    ///
    /// An error is permanent: the rest of the list cannot be read, and the next call returns
    /// [`None`].
    pub(crate) fn peek(&mut self) -> Result<Option<&T>, ParseError> {
        let at_end = match self.page.as_deref() {
            Some(bytes) => self.pos >= Block::parse::<T>(bytes)?.0.len(),
            None => true,
        };
        if at_end {
            self.page = None;
            self.pos = 0;
            let pa = core::mem::replace(&mut self.next, 0);
            if pa == 0 {
                return Ok(None);
            }
            if self.blocks >= Block::MAX {
                return Err(ParseError::TooLong);
            }
            let page = self.memory.claim(pa)?;
            match Block::parse::<T>(&page) {
                Ok((_, next)) => self.next = next,
                Err(err) => {
                    self.memory.keep(page);
                    return Err(err);
                }
            }
            self.blocks = self.blocks.saturating_add(1);
            self.page = Some(page);
        }
        let Some(bytes) = self.page.as_deref() else {
            return Ok(None);
        };
        Ok(Block::parse::<T>(bytes)?.0.get(self.pos))
    }

    /// Advances to the next entry.
    pub(crate) fn advance(&mut self) {
        self.pos = self.pos.saturating_add(1);
    }
}
