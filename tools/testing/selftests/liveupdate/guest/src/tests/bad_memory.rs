// SPDX-License-Identifier: GPL-2.0

//! Bad page frames are handed over to the next kernels, and no kernel is loaded to one.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    kernel_log::kernel_log,
    kexec,
    mapping::frames,
    meminfo,
    poison::poison,
    registry::{Case, Stage, Suite},
};
use rustix::mm::{mmap_anonymous, munmap, MapFlags, ProtFlags};
use std::{
    ffi::c_void,
    fs::{self, File},
    os::unix::fs::FileExt,
};

const PAGE: usize = 4096;
/// More than the capacity of a block of the handed over list.
const MANY: usize = 600;
/// Bits of /proc/kpageflags.
const BUDDY: u64 = 1 << 10;
const HWPOISON: u64 = 1 << 19;

/// Populated memory of this process.
struct Memory {
    start: *mut c_void,
    len: usize,
}

impl Memory {
    fn new(len: usize) -> Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: The kernel chooses an unused address.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, flags) };
        let start = start.at("mmap")?;
        Ok(Self { start, len })
    }

    /// The page frame of each page.
    fn frames(&self) -> Result<Vec<u64>> {
        frames(self.start, self.len / PAGE)
    }

    /// Makes the kernel treat a page as bad.
    fn poison(&self, page: usize) -> Result {
        poison(self.start.wrapping_byte_add(page * PAGE)).at("MADV_HWPOISON")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: There are no other references to the memory.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

/// Reads the numbers in a file of the kernel.
fn numbers(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let chunks = bytes.chunks_exact(8);
    chunks.map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap_or_default()))
}

/// The number of bad frames, and how many of these could be allocated.
fn marked() -> Result<(usize, usize)> {
    let bytes = fs::read("/proc/kpageflags").at("/proc/kpageflags")?;
    let flags: Vec<u64> = numbers(&bytes).collect();
    let bad = flags.iter().filter(|flags| **flags & HWPOISON != 0);
    let free = bad.clone().filter(|flags| **flags & BUDDY != 0);
    Ok((bad.count(), free.count()))
}

/// Fails unless exactly `count` frames are bad.
fn expect_marked(count: u64) -> Result {
    let (bad, free) = marked()?;
    ensure_eq!(bad as u64, count, "the number of bad frames");
    ensure_eq!(free, 0, "the number of bad frames that could be allocated");
    let known = meminfo::line("HardwareCorrupted")?;
    ensure_eq!(known, count * 4, "HardwareCorrupted in KiB");
    Ok(())
}

/// Each of these kernels knows all frames that an earlier one has found to be bad. The second
/// kernel finds another one. There are no sessions.
fn stays_known() -> Case {
    let more = |stage: &mut Stage<'_>, count: usize| {
        let memory = Memory::new(count * PAGE)?;
        for page in 0..count {
            memory.poison(page)?;
        }
        let (bad, _) = marked()?;
        stage.put("bad", bad)
    };
    Case::with_parts(
        "stays_known",
        vec![
            Box::new(move |stage| {
                expect_marked(0)?;
                more(stage, MANY)?;
                expect_marked(MANY as u64)
            }),
            Box::new(move |stage| {
                expect_marked(stage.get("bad")?)?;
                more(stage, 1)
            }),
            Box::new(|stage| expect_marked(stage.get("bad")?)),
        ],
    )
    .hazard("1E.1")
}

/// Frames that are marked as good can be allocated again.
fn good_again() -> Case {
    Case::two(
        "good_again",
        |stage| {
            const UNPOISON: &str = "/sys/kernel/debug/hwpoison/unpoison-pfn";

            let memory = Memory::new(PAGE)?;
            let frame = memory.frames()?.first().copied().at("a page frame")?;
            ensure!(frame != 0, "there is no page");
            memory.poison(0)?;
            drop(memory);
            fs::write(UNPOISON, frame.to_string()).at(UNPOISON)?;
            stage.put("frame", frame)
        },
        |stage| {
            let flags = File::open("/proc/kpageflags").at("/proc/kpageflags")?;
            let mut bytes = [0; 8];
            flags
                .read_exact_at(&mut bytes, stage.get("frame")? * 8)
                .at("/proc/kpageflags")?;
            let flags = u64::from_le_bytes(bytes);
            ensure!(flags & HWPOISON == 0, "the frame is marked as bad");
            Ok(())
        },
    )
}

/// The segments of an image that was just loaded in place: first frame, number of frames.
fn loaded() -> Result<Vec<(u64, u64)>> {
    let before = kernel_log()?.len();
    kexec::Plan::dry()?.load_loudly()?;
    let log = kernel_log()?;
    let mut parts = Vec::new();
    for line in log.get(before..).unwrap_or_default().lines() {
        let Some((head, place)) = line.split_once(" pages are loaded in place at 0x") else {
            continue;
        };
        let count = head.rsplit([' ', ';']).next().at("a number of pages")?;
        let count = count.parse::<u64>().at(line)?;
        let place = u64::from_str_radix(place.trim(), 16).at(line)?;
        parts.push((place / PAGE as u64, count));
    }
    Ok(parts)
}

/// An image is not loaded to bad frames.
fn image_elsewhere() -> Case {
    Case::one("image_elsewhere", |stage| {
        liveupdate::raw::kexec_file_unload().at("unload")?;
        let parts = loaded()?;
        let largest = parts.iter().copied().max_by_key(|(_, count)| *count);
        let (start, count) = largest.at("nothing was loaded in place")?;
        liveupdate::raw::kexec_file_unload().at("unload")?;

        // Allocate enough memory to include frames of the image.
        let len = meminfo::line("MemAvailable")? as usize * 1024 / 10 * 8;
        let memory = Memory::new(len / PAGE * PAGE)?;
        let frames = memory.frames()?;
        let there = |frame: &u64| (start..start + count).contains(frame);
        let page = frames.iter().position(there);
        let page = page.at("no page of this process is where the image was")?;
        let frame = frames.get(page).copied().at("a page frame")?;
        memory.poison(page)?;
        drop(memory);

        let parts = loaded()?;
        liveupdate::raw::kexec_file_unload().at("unload")?;
        stage.note(format_args!("{frame:#x} is bad, loaded: {parts:x?}"));
        ensure!(!parts.is_empty(), "nothing was loaded in place");
        let covers = |(start, count): &(u64, u64)| (*start..start + count).contains(&frame);
        ensure!(!parts.iter().any(covers), "the image is on a bad frame");
        Ok(())
    })
}

pub fn suite() -> Suite {
    Suite::new("bad_memory", vec![stays_known(), good_again()])
}

pub fn image_suite() -> Suite {
    Suite::new("bad_memory_image", vec![image_elsewhere()])
}
