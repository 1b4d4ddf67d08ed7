// SPDX-License-Identifier: GPL-2.0

//! Files with bad memory: all other pages are handed over, and the bad ones stay bad.

use crate::support::{
    error::{ensure, At, Failure, Result},
    kernel_log::kernel_log,
    mapping::{map_shared, Map},
    memfd, meminfo,
    poison::{poison, read_kills},
    registry::Case,
    sessions::{create, expect_errno, retrieve},
};
use rustix::{fs::FallocateFlags, io::Errno, mm::Advice};
use std::{
    ffi::c_void,
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
};

const PAGE: u64 = 4096;

/// The contents of a page.
fn content(page: u64) -> [u8; PAGE as usize] {
    let mut bytes = [(page % 251) as u8 + 1; PAGE as usize];
    bytes[..8].copy_from_slice(&page.to_ne_bytes());
    bytes
}

/// A file in which each page has its own contents, and its mapping.
fn filled(pages: u64) -> Result<(File, *mut c_void)> {
    let file = memfd::new()?;
    file.set_len(pages * PAGE).at("set the size")?;
    let memory = map_shared(&file, 0, pages * PAGE)?;
    // SAFETY: The mapping belongs to this function, and has this size.
    unsafe { rustix::mm::madvise(memory, (pages * PAGE) as usize, Advice::LinuxHugepage) }
        .at("madvise")?;
    for page in 0..pages {
        let bytes = content(page);
        let to = memory
            .wrapping_byte_add((page * PAGE) as usize)
            .cast::<u8>();
        // SAFETY: Within the mapping, which has no other users.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
    Ok((file, memory))
}

/// Fails unless the pages `broken` cannot be read, and all others have their contents.
fn check(file: &File, pages: Range<u64>, broken: &[u64]) -> Result {
    let memory = map_shared(file, 0, pages.end * PAGE)?;
    for page in pages {
        let mut bytes = [0; PAGE as usize];
        let result = file.read_exact_at(&mut bytes, page * PAGE);
        let address = memory.wrapping_byte_add((page * PAGE) as usize);
        if broken.contains(&page) {
            expect_errno(result, Errno::IO, "reading broken memory")?;
            let write = file.write_all_at(&[1], page * PAGE);
            expect_errno(write, Errno::IO, "writing to broken memory")?;
            ensure!(read_kills(address)?, "broken memory is mapped");
        } else {
            result.at(format_args!("page {page}"))?;
            ensure!(bytes == content(page), "page {page} has changed");
            // Next to bad pages, the mapping is checked as well.
            if broken.contains(&(page + 1)) {
                ensure!(!read_kills(address)?, "page {page} cannot be read");
            }
        }
    }
    Ok(())
}

/// Marks a page as bad; the kernel may know that it is bad without being able to remove it.
fn break_page(file: &File, memory: *mut c_void, page: u64) -> Result {
    let result = poison(memory.wrapping_byte_add((page * PAGE) as usize));
    let known = [Errno::BUSY, Errno::HWPOISON].map(|errno| Some(errno.raw_os_error()));
    match result {
        Err(error) if !known.contains(&error.raw_os_error()) => Err(error).at("MADV_HWPOISON")?,
        _ => {}
    }
    let read = file.read_exact_at(&mut [0], page * PAGE);
    expect_errno(read, Errno::IO, "reading memory that was just broken")
}

/// The part of the next kernel.
fn check_after(name: &str, pages: Range<u64>, broken: &[u64]) -> Result {
    let session = retrieve(name)?;
    let file = File::from(session.retrieve(1)?);
    check(&file, pages.clone(), broken)?;
    session.finish()?;
    // It can be handed over again, and no data is lost under memory pressure.
    let again = create(&format!("{name}-again"))?;
    again.preserve(&file, 1)?;
    drop(again);
    fs::write("/proc/sys/vm/drop_caches", "3").at("drop_caches")?;
    check(&file, pages, broken)?;
    ensure!(!kernel_log()?.contains("BUG:"), "the kernel log has a BUG");
    Ok(())
}

fn case(name: &'static str, pages: u64, early: &'static [u64], late: &'static [u64]) -> Case {
    Case::two(
        name,
        move |stage| {
            const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
            fs::write(ENABLED, if pages > 512 { "advise" } else { "never" }).at(ENABLED)?;
            let filled = filled(pages);
            fs::write(ENABLED, "never").at(ENABLED)?;
            let (file, memory) = filled?;
            for page in early {
                break_page(&file, memory, *page)?;
            }
            let session = create(name)?;
            session.preserve(&file, 1)?;
            for page in late {
                break_page(&file, memory, *page)?;
            }
            stage.hold((session, file));
            Ok(())
        },
        move |_| check_after(name, 0..pages, &[early, late].concat()),
    )
    .hazard("1E.1")
}

/// The page frames of the scratch areas, where the next kernel boots.
pub fn scratch() -> Result<Vec<Range<u64>>> {
    let numbers = |name: &str| -> Result<Vec<u64>> {
        let path = format!("/sys/kernel/debug/kho/out/{name}");
        let text = fs::read_to_string(&path).at(&path)?;
        let number = |line: &str| Ok(u64::from_str_radix(line.trim_start_matches("0x"), 16)?);
        text.lines().map(number).collect()
    };
    let starts = numbers("scratch_phys")?;
    let areas = starts.iter().zip(numbers("scratch_len")?);
    let frames = |(start, len): (&u64, u64)| start / PAGE..(start + len) / PAGE;
    Ok(areas.map(frames).collect())
}

/// Extends a file until some of its memory is in a scratch area; returns a page there.
pub fn page_in_scratch(file: &File) -> Result<u64> {
    const STEP: u64 = 64 << 20;
    let scratch = scratch()?;
    let limit = meminfo::line("MemAvailable")? * 1024 / 10 * 9;
    for start in (0..limit).step_by(STEP as usize) {
        file.set_len(start + STEP).at("set the size")?;
        let map = Map::part(file, start, STEP as usize)?;
        map.fill();
        let frames = map.frames()?;
        let is_there = |frame| scratch.iter().any(|area| area.contains(frame));
        // With pages of the same step on both sides.
        let mut found = frames
            .iter()
            .enumerate()
            .skip(8)
            .filter(|(_, frame)| is_there(frame));
        if let Some((page, _)) = found.find(|(page, _)| *page as u64 + 8 < STEP / PAGE) {
            return Ok(start / PAGE + page as u64);
        }
    }
    Err(Failure::new("no page is in a scratch area"))
}

/// The bad page can neither be pinned nor be preserved at its address.
fn broken_in_scratch() -> Case {
    const NAME: &str = "broken_in_scratch";
    Case::two(
        NAME,
        |stage| {
            let file = memfd::new()?;
            let page = page_in_scratch(&file)?;
            stage.put("page", page)?;
            let (first, end) = (page - 8, page + 8);
            file.set_len(end * PAGE).at("set the size")?;
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, punch, 0, first * PAGE).at("fallocate")?;
            for page in first..end {
                file.write_all_at(&content(page), page * PAGE).at("write")?;
            }
            let memory = map_shared(&file, 0, end * PAGE)?;
            // The page must be mapped.
            let address = memory
                .wrapping_byte_add((page * PAGE) as usize)
                .cast::<u8>();
            // SAFETY: Within the mapping.
            unsafe { address.read_volatile() };
            break_page(&file, memory, page)?;
            let session = create(NAME)?;
            session.preserve(&file, 1)?;
            // Again, since the kexec could be aborted.
            drop(session);
            let session = create(NAME)?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        |stage| {
            let page = stage.get("page")?;
            check_after(NAME, page - 8..page + 8, &[page])
        },
    )
}

pub fn cases() -> Vec<Case> {
    vec![
        broken_in_scratch(),
        case("broken_memory", 64, &[10], &[20, 63]),
        case("broken_huge", 1024, &[], &[700]),
    ]
}
