// SPDX-License-Identifier: GPL-2.0

//! Memory to which a device writes, while everything is done to move it or to take it away.
//!
//! Each attempt is made on other memory as well, where it must have an effect.

use super::{after, before_with, start, suite, Setup, MEMORY, USUAL};
use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    igb::Igb,
    mapping::{frames, map_shared},
    memfd, meminfo,
    registry::{Case, Stage, Suite},
    sessions::retrieve,
    vfio::{DmaMemory, HUGE_PAGE, PAGE},
};
use crate::tests::memfd::changes::swap_on;
use rustix::fs::{fallocate, FallocateFlags};
use std::{collections::HashSet, ffi::c_void, fs::File, iter, os::unix::fs::FileExt, ptr};

/// A page of the memory that neither the driver nor the device uses.
const UNUSED: u64 = 5 * PAGE as u64;

/// The memory, with a further page at the end. Its buffers are in small pages, which can be collapsed.
fn memory(len: usize) -> Result<File> {
    let memory = DmaMemory::create(len + PAGE)?;
    fill_with_small_pages(&memory, Igb::BUFFERS, len + PAGE)?;
    Ok(memory)
}

/// Gives the bytes from `start` to `end` of a file pages that are not huge.
fn fill_with_small_pages(file: &File, start: usize, end: usize) -> Result {
    memfd::set_huge(false)?;
    for page in (start..end).step_by(PAGE) {
        file.write_all_at(&[0], page as u64).at("write")?;
    }
    memfd::set_huge(true)
}

/// Memory that is mapped, all of whose pages are there.
pub(super) struct Mapped {
    start: *mut c_void,
    len: usize,
}

impl Mapped {
    pub(super) fn new(file: &File) -> Result<Self> {
        // CAST: Less than the memory of the machine.
        let len = memfd::len(file)? as usize;
        Ok(Self {
            start: map_shared(file, 0, len as u64)?,
            len,
        })
    }

    fn words(&self) -> impl Iterator<Item = *mut u64> + '_ {
        let pages = (0..self.len).step_by(PAGE);
        pages.map(|page| self.start.wrapping_byte_add(page).cast())
    }

    /// The page frames, after all pages were mapped again.
    pub(super) fn frames(&self) -> Result<Vec<u64>> {
        for word in self.words() {
            // SAFETY: Within the mapping, to which there are no references.
            unsafe { word.read_volatile() };
        }
        frames(self.start, self.len / PAGE)
    }

    /// The kernel may refuse the advice.
    fn advise(&self, at: usize, len: usize, advice: i32) {
        // SAFETY: Within the mapping, to which there are no references.
        let _ = unsafe { libc::madvise(self.start.wrapping_byte_add(at), len, advice) };
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: There are no references to the mapping.
        let _ = unsafe { rustix::mm::munmap(self.start, self.len) };
    }
}

/// A file of small pages.
fn small_pages() -> Result<Mapped> {
    let file = DmaMemory::create(2 * HUGE_PAGE)?;
    fill_with_small_pages(&file, 0, 2 * HUGE_PAGE)?;
    Mapped::new(&file)
}

/// Makes an attempt to move `memory`, which must not be moved, by an advice that moves other memory.
fn advise(memory: &Mapped, before: &[u64], advice: i32, name: &str) -> Result {
    let other = small_pages()?;
    let others = other.frames()?;
    if advice == libc::MADV_SOFT_OFFLINE {
        // This takes pages out of use: one is enough, of each size.
        other.advise(0, PAGE, advice);
        for at in [0, Igb::BUFFERS] {
            memory.advise(at, PAGE, advice);
        }
    } else {
        other.advise(0, other.len, advice);
        memory.advise(0, memory.len, advice);
    }
    ensure!(other.frames()? != others, "{name} moves nothing");
    ensure!(memory.frames()? == before, "{name} has moved the memory");
    Ok(())
}

/// The same by compaction, which looks at all memory.
fn compact(memory: &Mapped, before: &[u64]) -> Result {
    const FILE: &str = "/proc/sys/vm/compact_memory";

    let looked = looked_at()?;
    std::fs::write(FILE, "1").at(FILE)?;
    ensure!(looked_at()? > looked, "compaction looks at nothing");
    ensure!(
        memory.frames()? == before,
        "compaction has moved the memory"
    );
    Ok(())
}

/// How many pages compaction has looked at.
fn looked_at() -> Result<u64> {
    const FILE: &str = "/proc/vmstat";

    let text = std::fs::read_to_string(FILE).at(FILE)?;
    let mut lines = text.lines();
    let number = lines.find_map(|line| line.strip_prefix("compact_migrate_scanned "));
    number.at("compact_migrate_scanned")?.parse().at(FILE)
}

/// Fills most of the free memory: none of it is at `before`, and nobody writes to it.
pub(super) fn fill(before: &[u64]) -> Result {
    const PATTERN: u64 = 0xa5a5_5a5a_a5a5_5a5a;

    let kib = meminfo::line("MemAvailable")?;
    // Some is left for the kernel and this program.
    // CAST: Less than the memory of the machine.
    let bytes = (kib * 1024 / 4 * 3) as usize;
    let filled = vec![PATTERN; bytes / size_of::<u64>()];
    let inner = filled.as_ptr().addr().next_multiple_of(PAGE);
    let pages = bytes / PAGE - 1;
    let taken: HashSet<_> = frames(ptr::without_provenance(inner), pages)?
        .into_iter()
        .collect();
    let shared = before.iter().filter(|frame| taken.contains(frame)).count();
    ensure_eq!(shared, 0, "pages of the memory that others have");
    let wrong = filled.iter().position(|word| *word != PATTERN);
    ensure!(wrong.is_none(), "something has written to memory of others");
    Ok(())
}

/// Everything is done with the retrieved memory while the device writes to it; then the program dies.
fn force(stage: &Stage<'_>, setup: Setup) -> Result {
    swap_on()?;
    let session = retrieve("vfio")?;
    let file = File::from(session.retrieve(MEMORY)?);
    let memory = Mapped::new(&file)?;
    let before = memory.frames()?;
    ensure!(!before.contains(&0), "the memory is not mapped");
    for (advice, name) in [
        (libc::MADV_PAGEOUT, "MADV_PAGEOUT"),
        (libc::MADV_COLLAPSE, "MADV_COLLAPSE"),
        (libc::MADV_SOFT_OFFLINE, "MADV_SOFT_OFFLINE"),
    ] {
        advise(&memory, &before, advice, name)?;
    }
    compact(&memory, &before)?;

    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, UNUSED, PAGE as u64).at("fallocate")?;
    let len = memory.len;
    drop(memory);
    file.set_len((len - PAGE) as u64).at("ftruncate")?;
    drop((session, file));

    fill(&before)?;
    after(stage, "vfio", setup)
}

/// The memory is retrieved, and everything is done to move it or to take it away, while the device
/// writes to it. Then the program dies, and other code uses most of the memory that is free.
pub fn suite_of_all() -> Suite {
    let setup = Setup {
        memory,
        // The device would be silenced if the page that is cut off later was mapped now.
        areas: |len| iter::once(0..len - PAGE as u64).collect(),
        ..USUAL
    };
    let setup_after = Setup {
        areas: USUAL.areas,
        ..setup
    };
    let case = Case::two(
        "memory_stays_where_it_is",
        move |stage| before_with(stage, start(setup)?, "vfio", setup),
        move |stage| force(stage, setup_after),
    );
    suite("vfio_forced", case)
}
