// SPDX-License-Identifier: GPL-2.0

//! Large memfds that are filled and compared through a mapping.

use crate::support::{
    error::{ensure_eq, At, Result},
    memfd,
};
use rustix::mm::{MapFlags, ProtFlags};
use std::{
    ffi::c_void,
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    ptr,
};

const PAGE: usize = 4096;

/// Maps a part of a file. The mapping stays until the end of the process, unless it is unmapped.
pub fn map_shared(file: &impl AsFd, at: u64, len: u64) -> Result<*mut c_void> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: This is a new mapping without other users.
    unsafe {
        rustix::mm::mmap(
            ptr::null_mut(),
            len as usize,
            prot,
            MapFlags::SHARED,
            file,
            at,
        )
    }
    .at("mmap")
}

/// The page frames of pages that this process has mapped, in order.
pub fn frames(memory: *const c_void, pages: usize) -> Result<Vec<u64>> {
    const PAGEMAP: &str = "/proc/self/pagemap";
    const PFN: u64 = (1 << 55) - 1;

    let mut bytes = vec![0; pages * 8];
    File::open(PAGEMAP)
        .and_then(|file| file.read_exact_at(&mut bytes, (memory.addr() / PAGE * 8) as u64))
        .at(PAGEMAP)?;
    let entries = bytes.chunks_exact(8);
    let entries = entries.map(|entry| u64::from_le_bytes(entry.try_into().unwrap_or_default()));
    Ok(entries.map(|entry| entry & PFN).collect())
}

/// A memfd in memory.
pub struct Map {
    start: *mut u64,
    len: usize,
}

impl Map {
    /// Maps the first `len` bytes.
    pub fn new(file: &impl AsFd, len: usize) -> Result<Self> {
        Self::part(file, 0, len)
    }

    /// Maps `len` bytes from a position.
    pub fn part(file: &impl AsFd, at: u64, len: usize) -> Result<Self> {
        Ok(Self {
            start: map_shared(file, at, len as u64)?.cast(),
            len,
        })
    }

    /// The first byte.
    pub fn start(&self) -> *mut c_void {
        self.start.cast()
    }

    /// The page frames of all pages.
    pub fn frames(&self) -> Result<Vec<u64>> {
        frames(self.start(), self.len / PAGE)
    }

    /// The first word of each page.
    fn words(&self) -> impl Iterator<Item = *mut u64> + '_ {
        let step = PAGE / size_of::<u64>();
        (0..self.len / PAGE).map(move |page| self.start.wrapping_add(page * step))
    }

    /// Gives each page its own contents.
    pub fn fill(&self) {
        for (page, word) in self.words().enumerate() {
            // SAFETY: Within the mapping, which has no other users.
            unsafe { word.write_volatile(page as u64 ^ 0x5ca1_ab1e) };
        }
    }

    /// Fails unless each page has the contents that [`Map::fill`] writes.
    pub fn check(&self) -> Result {
        for (page, word) in self.words().enumerate() {
            // SAFETY: Within the mapping, which has no other users.
            let found = unsafe { word.read_volatile() };
            ensure_eq!(found, page as u64 ^ 0x5ca1_ab1e, "page {page}");
        }
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: The mapping belongs to this object.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
    }
}

/// A memfd in which each page has its own contents.
pub fn large(len: usize) -> Result<File> {
    let file = memfd::new()?;
    file.set_len(len as u64).at("set the size")?;
    Map::new(&file, len)?.fill();
    Ok(file)
}
