// SPDX-License-Identifier: GPL-2.0

//! Large memfds that are filled and compared by the memory of a mapping.

use crate::support::{
    error::{ensure_eq, At, Result},
    memfd,
};
use rustix::mm::{MapFlags, ProtFlags};
use std::{fs::File, os::fd::AsFd};

const PAGE: usize = 4096;

/// A memfd in memory.
pub struct Map {
    start: *mut u64,
    len: usize,
}

impl Map {
    /// Maps the first `len` bytes.
    pub fn new(file: &impl AsFd, len: usize) -> Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: This is a new mapping that nobody else knows of.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, file, 0) };
        Ok(Self {
            start: start.at("mmap")?.cast(),
            len,
        })
    }

    /// The first word of each page.
    fn words(&self) -> impl Iterator<Item = *mut u64> + '_ {
        let step = PAGE / size_of::<u64>();
        (0..self.len / PAGE).map(move |page| self.start.wrapping_add(page * step))
    }

    /// Gives each page a content of its own.
    fn fill(&self) {
        for (page, word) in self.words().enumerate() {
            // SAFETY: Within the mapping, which nobody else accesses.
            unsafe { word.write_volatile(page as u64 ^ 0x5ca1_ab1e) };
        }
    }

    /// Fails unless each page has the content that [`large`] gave it.
    pub fn check(&self) -> Result {
        for (page, word) in self.words().enumerate() {
            // SAFETY: As above.
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

/// A memfd of which each page has a content of its own.
pub fn large(len: usize) -> Result<File> {
    let file = memfd::new()?;
    file.set_len(len as u64).at("set the size")?;
    Map::new(&file, len)?.fill();
    Ok(file)
}
