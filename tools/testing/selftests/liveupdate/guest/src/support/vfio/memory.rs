// SPDX-License-Identifier: GPL-2.0

//! A memfd that a device reads and writes.

use super::Ioas;
use crate::support::{
    error::{ensure, At, Failure, Result},
    mapping::map_shared,
    memfd,
};
use rustix::fs::MemfdFlags;
use std::{
    ffi::c_void,
    fs::File,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    slice,
    sync::atomic::{fence, Ordering},
};

/// The size of a page.
pub const PAGE: usize = 4096;

/// The size of a huge page.
pub const HUGE_PAGE: usize = 2 << 20;

/// Where the memory is in the address space of the device.
const IOVA: u64 = 1 << 32;

/// The memory. It stays mapped until the end of the process.
pub struct DmaMemory {
    memfd: File,
    start: *mut c_void,
    /// The physical addresses of the pages.
    pages: Vec<u64>,
}

impl DmaMemory {
    /// A new memfd of at least `len` bytes, of ordinary pages.
    pub fn create(len: usize) -> Result<File> {
        Self::sized(memfd::new()?, len.next_multiple_of(PAGE))
    }

    /// A new memfd of at least `len` bytes, of pages of 2 MiB.
    pub fn create_huge(len: usize) -> Result<File> {
        let memfd = memfd::create(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)?;
        Self::sized(memfd, len.next_multiple_of(HUGE_PAGE))
    }

    fn sized(memfd: File, len: usize) -> Result<File> {
        memfd.set_len(len as u64).at("set the size of a memfd")?;
        Ok(memfd)
    }

    /// Maps a memfd for this program, and in `ioas` for the device that is attached to it.
    pub fn new(memfd: File, ioas: &Ioas) -> Result<Self> {
        let len = memfd::len(&memfd)?;
        Self::in_areas(memfd, ioas, slice::from_ref(&(0..len)))
    }

    /// The same with several mappings in `ioas`. The memory consists of the `areas`, which together
    /// are the beginning of the memfd.
    pub fn in_areas(memfd: File, ioas: &Ioas, areas: &[Range<u64>]) -> Result<Self> {
        for area in areas {
            ioas.map(&memfd, area.clone(), IOVA + area.start)?;
        }
        let len = areas.iter().map(|area| area.end).max().unwrap_or_default();
        let mut pages = Vec::new();
        let mut at = 0;
        while at < len {
            let (physical, length) = ioas.physical(IOVA + at, len - at)?;
            ensure!(
                length > 0 && length % PAGE as u64 == 0,
                "{length} contiguous bytes at {at:#x}"
            );
            pages.extend((physical..physical + length).step_by(PAGE));
            at += length;
        }
        Ok(Self {
            start: map_shared(&memfd, 0, len)?,
            memfd,
            pages,
        })
    }

    /// The physical addresses of all pages.
    pub fn pages(&self) -> &[u64] {
        &self.pages
    }

    /// The physical address of a byte.
    pub fn physical(&self, at: usize) -> Result<u64> {
        let page = self.pages.get(at / PAGE);
        let page = page.at(format_args!("{at:#x} is outside of the memory"))?;
        Ok(page + (at % PAGE) as u64)
    }

    /// Finds `pages` pages that follow each other in physical memory, among the pages of `range`.
    pub fn contiguous(&self, range: Range<usize>, pages: usize) -> Result<usize> {
        let first = range.start;
        let among = self.pages.get(range).unwrap_or_default();
        let follow = |run: &[u64]| {
            let mut pairs = run.iter().zip(run.iter().skip(1));
            pairs.all(|(page, next)| page + PAGE as u64 == *next)
        };
        let found = among.windows(pages).position(follow);
        found.map(|at| (first + at) * PAGE).ok_or_else(|| {
            Failure::new(format!(
                "no {pages} pages of the memory follow each other in physical memory"
            ))
        })
    }

    /// The address of a value.
    ///
    /// # Panics
    ///
    /// If it is not within the memory, or not aligned.
    fn value<T>(&self, at: usize) -> *mut T {
        assert!(at % align_of::<T>() == 0 && at + size_of::<T>() <= self.pages.len() * PAGE);
        self.start.wrapping_byte_add(at).cast()
    }

    /// Reads a number. Later reads see what the device wrote before it.
    pub fn read(&self, at: usize) -> u32 {
        // SAFETY: `value()` returns an aligned address within the mapping, which is never removed and
        // has no references; the device may access it at the same time.
        let value = unsafe { self.value::<u32>(at).read_volatile() };
        fence(Ordering::Acquire);
        u32::from_le(value)
    }

    /// Reads a long number; see [`Self::read`].
    pub fn read_long(&self, at: usize) -> u64 {
        // SAFETY: As in `read()`, with the alignment of this type.
        let value = unsafe { self.value::<u64>(at).read_volatile() };
        fence(Ordering::Acquire);
        u64::from_le(value)
    }

    /// Writes a long number. The device sees what was written before it first.
    pub fn write_long(&self, at: usize, value: u64) {
        fence(Ordering::Release);
        // SAFETY: `value()` returns an aligned address within the mapping, which is never removed and
        // has no references; the device may access it at the same time.
        unsafe { self.value::<u64>(at).write_volatile(value.to_le()) };
    }

    /// Copies bytes out.
    pub fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        // SAFETY: The bytes are within the mapping, which is never removed and has no references.
        unsafe { self.value::<[u8; N]>(at).read_volatile() }
    }

    /// Copies bytes in.
    pub fn set_bytes<const N: usize>(&self, at: usize, bytes: [u8; N]) {
        // SAFETY: The bytes are within the mapping, which is never removed and has no references.
        unsafe { self.value::<[u8; N]>(at).write_volatile(bytes) };
    }
}

impl AsFd for DmaMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}
