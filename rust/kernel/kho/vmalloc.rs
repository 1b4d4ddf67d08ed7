// SPDX-License-Identifier: GPL-2.0

//! Arrays that are handed over.
//!
//! KHO describes an array by a [`Descriptor`] of fixed size: a list of chunks, each a page with the
//! addresses of further pages, which contain the elements. It is intended for `vmalloc()` memory,
//! and C maps all pages contiguously. This module does not map them: a [`PreservedArray`] grows
//! page by page, and a [`ClaimedArray`] is read page by page, and claims each page right before
//! reading it. The former therefore needs no memory in advance, and the latter none at all.
//!
//! C headers: [`include/linux/kexec_handover.h`](srctree/include/linux/kexec_handover.h),
//! [`include/linux/kho/abi/kexec_handover.h`](srctree/include/linux/kho/abi/kexec_handover.h)

use super::{
    list::ClaimedList,
    ClaimedFolio,
    Handover,
    PhysAddr,
    Preserved, //
};
use crate::{
    alloc::KVVec,
    bindings,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};
use core::marker::PhantomData;
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// Number of addresses in a chunk.
const CHUNK_LEN: usize = PAGE_SIZE / size_of::<u64>() - 1;

/// `KHO_VMALLOC_ALLOC`: the next kernel may treat the area like one of `vmalloc()`.
const FLAG_ALLOC: u16 = 0x1;
/// `KHO_VMALLOC_HUGE_VMAP`: the area may be mapped with huge pages.
const FLAG_HUGE_VMAP: u16 = 0x2;

/// Describes an array that is handed over (`struct kho_vmalloc`).
///
/// The default value describes no array. A descriptor of another kernel can have any value;
/// [`ClaimedArray::new`] checks it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Descriptor {
    /// Physical address of the first chunk, or 0.
    pub first: u64,
    /// Number of pages of the array.
    pub total_pages: u32,
    /// How the array was mapped.
    pub flags: u16,
    /// Each address represents `1 << order` pages.
    pub order: u16,
}

static_assert!(size_of::<Descriptor>() == size_of::<bindings::kho_vmalloc>());
static_assert!(
    core::mem::offset_of!(Descriptor, total_pages)
        == core::mem::offset_of!(bindings::kho_vmalloc, total_pages)
);
static_assert!(
    core::mem::offset_of!(Descriptor, flags) == core::mem::offset_of!(bindings::kho_vmalloc, flags)
);
static_assert!(
    core::mem::offset_of!(Descriptor, order) == core::mem::offset_of!(bindings::kho_vmalloc, order)
);

impl Descriptor {
    /// Returns whether this kernel knows all flags, so that it can read a well-formed array.
    pub const fn has_known_flags(&self) -> bool {
        self.flags & !(FLAG_ALLOC | FLAG_HUGE_VMAP) == 0
    }
}

/// `struct kho_vmalloc_chunk`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Chunk {
    next: u64,
    pages: [u64; CHUNK_LEN],
}

static_assert!(size_of::<Chunk>() == PAGE_SIZE);

/// A page of elements.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Page([u64; PAGE_SIZE / size_of::<u64>()]);

impl Page {
    fn elements<T: Handover>(&self) -> &[T] {
        // Cannot fail: the size of the page is a multiple of that of `T`, see `Layout`.
        <[T]>::ref_from_bytes(self.as_bytes()).unwrap_or(&[])
    }

    fn elements_mut<T: Handover>(&mut self) -> &mut [T] {
        <[T]>::mut_from_bytes(self.as_mut_bytes()).unwrap_or(&mut [])
    }
}

/// The number of `T` in a page. Elements do not cross page boundaries.
struct PerPage<T>(PhantomData<T>);

impl<T> PerPage<T> {
    const LEN: usize = {
        assert!(size_of::<T>() != 0 && PAGE_SIZE % size_of::<T>() == 0);
        assert!(align_of::<T>() <= align_of::<u64>());
        PAGE_SIZE / size_of::<T>()
    };
}

/// The pages of a [`PreservedArray`], independent of the type of its elements.
///
/// # Invariants
///
/// The chunks contain the addresses of all pages, in order. Each chunk but the last is full, and
/// contains the address of the next chunk.
struct PreservedPages {
    pages: KVVec<Preserved<Page>>,
    chunks: KVVec<Preserved<Chunk>>,
}

impl PreservedPages {
    const fn new() -> Self {
        // INVARIANT: Trivially true without pages.
        Self {
            pages: KVVec::new(),
            chunks: KVVec::new(),
        }
    }

    /// Appends a zeroed page. If this fails, nothing has changed.
    fn add(&mut self) -> Result {
        // Steps that can fail precede the insertion of the page.
        self.pages.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let page = Preserved::<Page>::new_zeroed()?;
        let slot = self.pages.len() % CHUNK_LEN;

        if slot == 0 {
            self.chunks.reserve(1, GFP_KERNEL_ACCOUNT)?;
            let chunk = Preserved::<Chunk>::new_zeroed()?;
            // INVARIANT: The last chunk is full, as the number of pages is a multiple of its size.
            if let Some(last) = self.chunks.last_mut() {
                last.next = chunk.phys().get();
            }
            self.chunks.push(chunk, GFP_KERNEL_ACCOUNT)?;
        }
        // INVARIANT: The address of this page is stored after those of all others.
        if let Some(entry) = self.chunks.last_mut().and_then(|c| c.pages.get_mut(slot)) {
            *entry = page.phys().get();
        }
        self.pages.push(page, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    fn descriptor(&self) -> Descriptor {
        match self.chunks.first() {
            None => Descriptor::default(),
            Some(first) => Descriptor {
                first: first.phys().get(),
                // No machine has 2^32 pages of elements.
                total_pages: u32::try_from(self.pages.len()).unwrap_or(u32::MAX),
                flags: FLAG_ALLOC,
                order: 0,
            },
        }
    }
}

/// An array that is preserved for the next kernel. It can only grow.
///
/// Dropping it unpreserves and frees the memory, and may sleep.
///
/// Before the kexec, the caller must only hand over the
/// [descriptor](Self::descriptor).
///
/// # Invariants
///
/// There are at least as many pages as `len` elements need.
///
/// # Examples
///
/// ```
/// use kernel::{kho::{self, vmalloc::PreservedArray}, page::PAGE_SIZE};
///
/// if kho::is_enabled() {
///     let mut array = PreservedArray::<u64>::new();
///     assert_eq!(array.descriptor().first, 0);
///     for i in 0..200 {
///         array.reserve(&[5 * i, 5 * i + 1, 5 * i + 2, 5 * i + 3, 5 * i + 4])?.append();
///     }
///     assert_eq!(array.len(), 1000);
///     assert!(array.iter().copied().eq(0..1000));
///     assert_eq!(array.descriptor().total_pages as usize, 8000usize.div_ceil(PAGE_SIZE));
///     assert_ne!(array.descriptor().first, 0);
///
///     array.reserve(&[7, 500, 2000])?.merge(|&x| x);
///     assert_eq!(array.len(), 1003);
///     assert!(array.iter().is_sorted());
///     assert_eq!(array.iter().sum::<u64>(), 1000 * 999 / 2 + 7 + 500 + 2000);
/// }
/// # Ok::<(), Error>(())
/// ```
pub struct PreservedArray<T> {
    pages: PreservedPages,
    len: usize,
    _elements: PhantomData<T>,
}

impl<T: Handover> PreservedArray<T> {
    /// Creates an array without elements, which needs no memory.
    pub const fn new() -> Self {
        // INVARIANT: No pages are needed.
        Self {
            pages: PreservedPages::new(),
            len: 0,
            _elements: PhantomData,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Allocates room for `elements`. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; the array is unchanged then.
    pub fn reserve<'a>(&'a mut self, elements: &'a [T]) -> Result<Reserved<'a, T>> {
        let len = self.len.checked_add(elements.len()).ok_or(ENOMEM)?;
        while self.pages.pages.len() < len.div_ceil(PerPage::<T>::LEN) {
            self.pages.add()?;
        }
        // INVARIANT: There are enough pages for `len` elements.
        Ok(Reserved {
            array: self,
            elements,
            len,
        })
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let page = self.pages.pages.get_mut(index / PerPage::<T>::LEN)?;
        page.elements_mut().get_mut(index % PerPage::<T>::LEN)
    }

    /// Iterates over the elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages
            .pages
            .iter()
            .flat_map(|page| page.elements())
            .take(self.len)
    }

    /// The descriptor to hand over to the next kernel.
    ///
    /// It changes when elements are added.
    pub fn descriptor(&self) -> Descriptor {
        self.pages.descriptor()
    }
}

impl<T: Handover> Default for PreservedArray<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Room in a [`PreservedArray`], and the elements for it.
///
/// # Invariants
///
/// The array has enough pages for `len` elements, the sum of the existing and the new ones.
#[must_use = "the array only grows by `append()` or `merge()`"]
pub struct Reserved<'a, T> {
    array: &'a mut PreservedArray<T>,
    elements: &'a [T],
    len: usize,
}

impl<T: Handover + Copy> Reserved<'_, T> {
    /// Appends the elements.
    pub fn append(self) {
        let mut rest = self.elements;
        let mut place = self.array.len;
        while !rest.is_empty() {
            let page = self.array.pages.pages.get_mut(place / PerPage::<T>::LEN);
            let room = page.and_then(|page| {
                let elements = page.elements_mut::<T>();
                elements.get_mut(place % PerPage::<T>::LEN..)
            });
            // By the type invariant, there is room.
            let Some(room) = room else { break };
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            for (slot, element) in room.iter_mut().zip(now) {
                *slot = *element;
            }
            place = place.saturating_add(now.len());
            rest = later;
        }
        // INVARIANT: By the type invariant.
        self.array.len = self.len;
    }

    /// Inserts the elements. Both the elements and the array must be sorted by `key`; the result is
    /// sorted.
    pub fn merge<K: Ord>(self, key: impl Fn(&T) -> K) {
        // Begins at the end, so that no element is overwritten before it is moved.
        let mut place = self.len;
        let mut old = self.array.len;
        let mut new = self.elements;
        while let Some((&last_new, rest)) = new.split_last() {
            let last_old = old
                .checked_sub(1)
                .and_then(|index| self.array.get_mut(index))
                .copied();
            let element = match last_old {
                Some(last_old) if key(&last_old) > key(&last_new) => {
                    old = old.saturating_sub(1);
                    last_old
                }
                _ => {
                    new = rest;
                    last_new
                }
            };
            place = place.saturating_sub(1);
            if let Some(slot) = self.array.get_mut(place) {
                *slot = element;
            }
        }
        // INVARIANT: By the type invariant.
        self.array.len = self.len;
    }
}

/// An array that the previous kernel handed over, which is read from beginning to end.
///
/// A page is claimed when its first element is read. Dropping the object claims and frees all
/// remaining pages. The caller must handle memory to which the elements refer.
///
/// # Invariants
///
/// All pages before the current one have been claimed, and are in `done`.
///
/// # Examples
///
/// ```
/// use kernel::kho::vmalloc::{ClaimedArray, Descriptor};
///
/// // No array has no elements.
/// let mut none = ClaimedArray::<u64>::new(&Descriptor::default(), 0)?;
/// assert_eq!(none.read(&mut [0; 8]), Ok(0));
/// assert_eq!(ClaimedArray::<u64>::new(&Descriptor::default(), 1).err(), Some(EINVAL));
///
/// // A page has room for 512 elements.
/// let one = Descriptor { first: 0, total_pages: 1, flags: 1, order: 0 };
/// assert!(ClaimedArray::<u64>::new(&one, 512).is_ok());
/// assert_eq!(ClaimedArray::<u64>::new(&one, 513).err(), Some(EINVAL));
///
/// // The memory does not exist, which is reported once.
/// let mut lost = ClaimedArray::<u64>::new(&one, 1)?;
/// assert_eq!(lost.read(&mut [0; 8]), Err(EINVAL));
/// assert_eq!(lost.read(&mut [0; 8]), Ok(0));
///
/// let odd = Descriptor { flags: 0x8000, ..one };
/// assert_eq!(ClaimedArray::<u64>::new(&odd, 1).err(), Some(EOPNOTSUPP));
/// let large = Descriptor { order: 64, ..one };
/// assert_eq!(ClaimedArray::<u64>::new(&large, 1).err(), Some(EINVAL));
/// # Ok::<(), Error>(())
/// ```
pub struct ClaimedArray<T> {
    /// The current chunk, and the index of its next entry.
    chunk: Option<(ClaimedFolio, usize)>,
    next_chunk: Option<PhysAddr>,
    /// The rest of an entry whose memory consists of several pieces, and its number of pages.
    rest: Option<(PhysAddr, u64)>,
    /// The current piece, and the index of its next element.
    piece: Option<(ClaimedFolio, usize)>,
    /// Chunks and pieces that have been read.
    done: ClaimedList,
    /// Pages of the descriptor that are not claimed yet.
    pages: u64,
    elements: u64,
    /// Number of pages of an address in a chunk.
    entry_pages: u64,
    _elements: PhantomData<T>,
}

impl<T: Handover + Copy> ClaimedArray<T> {
    /// Prepares reading an array of `len` elements. Claims nothing.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the array is too small for `len` elements or the descriptor is inconsistent,
    /// [`EOPNOTSUPP`] if it has unknown flags. Nothing is freed in these cases.
    pub fn new(descriptor: &Descriptor, len: u64) -> Result<Self> {
        let pages = u64::from(descriptor.total_pages);

        if !descriptor.has_known_flags() {
            return Err(EOPNOTSUPP);
        }
        let order = u32::from(descriptor.order);
        let entry_pages = 1u64.checked_shl(order).ok_or(EINVAL)?;
        if order > bindings::MAX_PAGE_ORDER || pages.saturating_mul(PerPage::<T>::LEN as u64) < len
        {
            return Err(EINVAL);
        }
        // INVARIANT: The current page is the first one.
        Ok(Self {
            chunk: None,
            next_chunk: PhysAddr::new(descriptor.first),
            rest: None,
            piece: None,
            done: ClaimedList::new(),
            pages,
            elements: len,
            entry_pages,
            _elements: PhantomData,
        })
    }

    /// Number of unread elements.
    pub fn remaining(&self) -> u64 {
        self.elements
    }

    /// Reads the next elements, at most as many as fit into `room`. May sleep.
    ///
    /// Returns the number of read elements, which is 0 at the end, or without room.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the memory of the next element does not match the descriptor. The next calls
    /// read the elements of the following memory, up to the end. There are no other errors; in
    /// particular, no memory is allocated.
    pub fn read(&mut self, room: &mut [T]) -> Result<usize> {
        let left = usize::try_from(self.elements).unwrap_or(usize::MAX);
        let most = left.min(room.len());
        if most == 0 {
            return Ok(0);
        }
        loop {
            if let Some((folio, index)) = &mut self.piece {
                let elements = <[T]>::ref_from_bytes(folio.bytes()).unwrap_or(&[]);
                let before = *index;
                let next = elements.get(before..).unwrap_or(&[]);
                for (slot, element) in room.iter_mut().take(most).zip(next) {
                    *slot = *element;
                    *index = index.saturating_add(1);
                }
                let len = index.saturating_sub(before);
                if len != 0 {
                    // CAST: `usize` has at most 64 bits.
                    self.elements = self.elements.saturating_sub(len as u64);
                    return Ok(len);
                }
            }
            if let Some((folio, _)) = self.piece.take() {
                self.done.push(folio);
            }
            // SAFETY: FFI call without safety requirements; the caller may sleep.
            unsafe { bindings::cond_resched() };
            match self.next_piece() {
                Ok(Some(folio)) => self.piece = Some((folio, 0)),
                Ok(None) => {
                    self.elements = 0;
                    return Err(EINVAL);
                }
                Err(err) => return Err(err),
            }
        }
    }
}

impl<T> ClaimedArray<T> {
    /// Claims the next piece of the array's memory.
    fn next_piece(&mut self) -> Result<Option<ClaimedFolio>> {
        let Some((pa, expected)) = self.next_address()? else {
            return Ok(None);
        };
        let folio = ClaimedFolio::new(pa)?;
        let bytes = folio.size() as u64;
        let pages = bytes >> PAGE_SHIFT;

        let (Some(rest), Some(left)) = (expected.checked_sub(pages), self.pages.checked_sub(pages))
        else {
            // It is not part of this array, and may have another owner.
            folio.leak();
            return Err(EINVAL);
        };
        self.pages = left;
        self.rest = pa
            .get()
            .checked_add(bytes)
            .and_then(PhysAddr::new)
            .map(|pa| (pa, rest));
        Ok(Some(folio))
    }

    /// Finds the next address, and its number of pages.
    fn next_address(&mut self) -> Result<Option<(PhysAddr, u64)>> {
        if let Some(rest) = self.rest.take().filter(|&(_, pages)| pages != 0) {
            return Ok(Some(rest));
        }
        // The list ends, since a chunk can be claimed only once.
        loop {
            if let Some((chunk, slot)) = &mut self.chunk {
                // Cannot fail: a folio is not smaller than a page.
                let (content, _) = Chunk::ref_from_prefix(chunk.bytes()).map_err(|_| EINVAL)?;
                let entry = content.pages.get(*slot).copied().unwrap_or(0);
                if let Some(pa) = PhysAddr::new(entry) {
                    *slot = slot.saturating_add(1);
                    return Ok(Some((pa, self.entry_pages)));
                }
                self.next_chunk = PhysAddr::new(content.next);
            }
            if let Some((chunk, _)) = self.chunk.take() {
                self.done.push(chunk);
            }
            let Some(next) = self.next_chunk.take() else {
                return Ok(None);
            };
            self.chunk = Some((ClaimedFolio::new(next)?, 0));
        }
    }
}

impl<T> Drop for ClaimedArray<T> {
    fn drop(&mut self) {
        self.piece = None;
        // Each step consumes an entry, also if it fails. Memory after a chunk that cannot be
        // claimed is unknown, and stays reserved.
        while !matches!(self.next_piece(), Ok(None)) {
            // SAFETY: FFI call without safety requirements; the caller may sleep.
            unsafe { bindings::cond_resched() };
        }
    }
}
