// SPDX-License-Identifier: GPL-2.0

//! Pages that are moved, replaced or swapped out, or would have to be, while a file is preserved.

use super::{
    broken::{page_in_scratch, scratch},
    changes::swap_on,
};
use crate::support::{
    cgroup::Cgroup,
    error::{ensure, ensure_eq, At, Failure, Result},
    mapping::{frames, large, map_shared, Map},
    memfd, meminfo,
    process::Child,
    registry::Case,
    sessions::{create, expect_errno, retrieve},
};
use crate::tests::hazards::not_in_c;
use liveupdate::OutgoingSession;
use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags},
};
use std::{
    ffi::c_void,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    ptr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

const PAGE: usize = 4096;

/// The first word of a page.
fn word(memory: *mut c_void, page: usize) -> *mut u64 {
    memory.wrapping_byte_add(page * PAGE).cast()
}

/// The number of pages that lie in a scratch area.
fn pages_in_scratch(memory: *mut c_void, pages: usize) -> Result<usize> {
    let areas = scratch()?;
    let frames = frames(memory, pages)?;
    Ok(frames
        .iter()
        .filter(|frame| areas.iter().any(|area| area.contains(frame)))
        .count())
}

/// Fails unless the first word of each page is the number of the page, counted from one.
fn check_words(file: OwnedFd, pages: usize) -> Result {
    let file = File::from(file);
    for page in 0..pages as u64 {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, page * PAGE as u64)
            .at("read")?;
        ensure_eq!(u64::from_ne_bytes(bytes), page + 1, "page {page}");
    }
    Ok(())
}

/// Puts references to the pages into a pipe, so that they cannot be moved until it is read.
pub(super) fn keep_in_pipe(memory: *mut c_void, pages: usize) -> Result<[OwnedFd; 2]> {
    let (read, write) = rustix::pipe::pipe().at("pipe")?;
    rustix::pipe::fcntl_setpipe_size(&write, pages * PAGE).at("F_SETPIPE_SZ")?;
    let all = libc::iovec {
        iov_base: memory,
        iov_len: pages * PAGE,
    };
    // SAFETY: The memory is mapped, and is never unmapped.
    let done = unsafe { libc::vmsplice(write.as_raw_fd(), &all, 1, libc::SPLICE_F_NONBLOCK) };
    if done < 0 {
        return Err(io::Error::last_os_error()).at("vmsplice");
    }
    ensure_eq!(done as usize, pages * PAGE, "what vmsplice took");
    Ok([read, write])
}

/// Holes are filled when most free memory is movable only, and the pages cannot be moved since there are
/// other references to them. The kexec does not fail.
fn filled_in_scratch() -> Case {
    const NAME: &str = "filled_in_scratch";
    /// As many pages as a pipe holds.
    const PAGES: usize = 64;
    const ROUNDS: usize = 1024;
    const LEN: u64 = (ROUNDS * PAGES * PAGE) as u64;
    Case::two(
        NAME,
        |stage| {
            let [file, other, rest] = [memfd::new()?, memfd::new()?, memfd::new()?];
            file.set_len(LEN).at("set the size")?;
            other.set_len(LEN).at("set the size")?;
            let (memory, others) = (map_shared(&file, 0, LEN)?, map_shared(&other, 0, LEN)?);
            let session = create(NAME)?;
            session.preserve(&file, 1)?;
            page_in_scratch(&rest)?;
            // Movable memory comes from scratch areas and from elsewhere by turns, many pages each.
            for round in 0..ROUNDS {
                let pages = round * PAGES..(round + 1) * PAGES;
                for page in pages.clone() {
                    for memory in [memory, others] {
                        // SAFETY: Within the mappings, which have no other users.
                        unsafe { word(memory, page).write_volatile(page as u64 + 1) };
                    }
                }
                let [ours, theirs] =
                    [memory, others].map(|memory| word(memory, pages.start).cast());
                let theirs = pages_in_scratch(theirs, PAGES)?;
                if theirs == 0 {
                    continue;
                }
                stage.note(format_args!(
                    "in scratch areas: {} pages, and {theirs} of a file that is not preserved",
                    pages_in_scratch(ours, PAGES)?
                ));
                stage.put("pages", pages.end)?;
                let pipe = keep_in_pipe(ours, PAGES)?;
                stage.hold((session, file, pipe));
                return Ok(());
            }
            Err(Failure::new("no memory of a scratch area was needed"))
        },
        |stage| {
            let session = retrieve(NAME)?;
            check_words(session.retrieve(1)?, stage.get("pages")? as usize)?;
            Ok(session.finish()?)
        },
    )
    .hazard_unseen("5.1", not_in_c::FILLED)
}

/// Free memory outside of scratch areas, in bytes.
fn free_elsewhere() -> Result<u64> {
    let [all, scratch] = [meminfo::line("MemFree")?, meminfo::line("CmaFree")?];
    Ok(all.saturating_sub(scratch) * 1024)
}

/// Extends a file until less than `left` bytes are free outside of scratch areas. By then, movable memory
/// comes from there as well.
fn fill(file: &File, left: u64) -> Result {
    const STEP: u64 = 16 << 20;
    let mut len = 0;
    while free_elsewhere()? > left {
        file.set_len(len + STEP).at("set the size")?;
        Map::part(file, len, STEP as usize)?.fill();
        len += STEP;
    }
    Ok(())
}

/// Takes memory outside of scratch areas, until less than `left` bytes are left: memory of files that
/// are preserved.
fn take_elsewhere(session: &OutgoingSession, left: u64) -> Result<Vec<File>> {
    const STEP: u64 = 4 << 20;
    let mut files = Vec::new();
    while free_elsewhere()? > left {
        let file = memfd::new()?;
        file.set_len(STEP).at("set the size")?;
        session.preserve(&file, files.len() as u64)?;
        Map::new(&file, STEP as usize)?.fill();
        files.push(file);
    }
    Ok(files)
}

/// A file in scratch areas is preserved when there is no other memory to move it to. This fails, and
/// works once there is memory. Nothing is killed for it.
fn nowhere_to_move() -> Case {
    const NAME: &str = "nowhere_to_move";
    const PAGES: usize = 65536;
    /// More than the kernel reserves for itself, but less than has to be moved.
    const LEFT: u64 = 64 << 20;
    Case::two(
        NAME,
        |stage| {
            let rest = memfd::new()?;
            fill(&rest, 300 << 20)?;
            let file = large(PAGES * PAGE)?;
            drop(rest);
            let map = Map::new(&file, PAGES * PAGE)?;
            // The pages must be mapped.
            map.check()?;
            let found = pages_in_scratch(map.start(), PAGES)?;
            drop(map);
            stage.note(format_args!("in scratch areas: {found} pages of {PAGES}"));
            ensure!(
                (found * PAGE) as u64 > LEFT,
                "only {found} pages are in a scratch area"
            );
            let session = create("nowhere_to_move-rest")?;
            let files = take_elsewhere(&session, LEFT)?;
            stage.note(format_args!("elsewhere: {} bytes", free_elsewhere()?));
            let result = create(NAME)?.preserve(&file, 1);
            expect_errno(result, Errno::NOMEM, "PRESERVE_FD without memory")?;
            drop((session, files));
            let session = create(NAME)?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        |_| {
            let session = retrieve(NAME)?;
            Map::new(&session.retrieve(1)?, PAGES * PAGE)?.check()?;
            Ok(session.finish()?)
        },
    )
    .hazard("5.18")
}

/// A process with a small memory limit fills holes. Pages are not swapped out: to read them back for
/// the kexec would exceed the same limit.
fn filled_beyond_limit() -> Case {
    const NAME: &str = "filled_beyond_limit";
    const LIMIT: usize = 8 << 20;
    const PAGES: usize = 2 * LIMIT / PAGE;
    const LEN: u64 = (PAGES * PAGE) as u64;
    Case::two(
        NAME,
        |stage| {
            swap_on()?;
            let file = memfd::new()?;
            file.set_len(LEN).at("set the size")?;
            let memory = map_shared(&file, 0, LEN)?;
            let session = create(NAME)?;
            session.preserve(&file, 1)?;
            let group = Cgroup::new(NAME)?;
            group.limit(LIMIT)?;
            let child = Child::start(|| {
                group.enter()?;
                for page in 0..PAGES {
                    // SAFETY: Within the mapping, which has no other users.
                    unsafe { word(memory, page).write_volatile(page as u64 + 1) };
                }
                Ok(())
            })?;
            stage.note(format_args!("the end of the child: {:?}", child.wait()?));
            stage.hold((session, file, group));
            Ok(())
        },
        |_| {
            let session = retrieve(NAME)?;
            let file = File::from(session.retrieve(1)?);
            let mut filled = 0;
            for page in 0..PAGES as u64 {
                let mut bytes = [0; 8];
                file.read_exact_at(&mut bytes, page * PAGE as u64)
                    .at("read")?;
                match u64::from_ne_bytes(bytes) {
                    0 => break,
                    found => ensure_eq!(found, page + 1, "page {page}"),
                }
                filled += 1;
            }
            ensure!(filled > PAGES / 4, "only {filled} pages were filled");
            Ok(session.finish()?)
        },
    )
    .hazard_unseen("5.1", not_in_c::FILLED)
}

const HUGE: usize = 2 << 20;

/// Maps a file where it can have large pages.
fn map_aligned(file: &File, len: usize) -> Result<*mut c_void> {
    let none = ProtFlags::empty();
    // SAFETY: A new mapping, which is large enough for another one at an aligned address.
    let memory = unsafe {
        let room = rustix::mm::mmap_anonymous(ptr::null_mut(), len + HUGE, none, MapFlags::PRIVATE)
            .at("mmap")?;
        let at = room.wrapping_byte_add(room.addr().next_multiple_of(HUGE) - room.addr());
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        rustix::mm::mmap(at, len, ProtFlags::READ | ProtFlags::WRITE, flags, file, 0)
    };
    memory.at("mmap")
}

/// Pages are replaced by large ones while the file is being preserved. Later writes are not lost.
fn collapsed() -> Case {
    const NAME: &str = "collapsed";
    const FILES: u64 = 48;
    const LEN: usize = 2 * HUGE;
    const PAGES: usize = LEN / PAGE;
    let late = |token: u64, page: usize| (1 << 63) | (token << 32) | page as u64;
    Case::two(
        NAME,
        move |stage| {
            const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
            fs::write(ENABLED, "never").at(ENABLED)?;
            let session = create(NAME)?;
            for token in 0..FILES {
                let file = memfd::new()?;
                file.set_len(LEN as u64).at("set the size")?;
                let memory = map_aligned(&file, LEN)?;
                for page in 0..PAGES {
                    // SAFETY: Within the mapping, which has no other users.
                    unsafe { word(memory, page).write_volatile(1) };
                }
                let (start, done) = (memory.addr(), AtomicBool::new(false));
                thread::scope(|scope| {
                    scope.spawn(|| {
                        while !done.load(Relaxed) {
                            let memory = start as *mut c_void;
                            // SAFETY: The mapping belongs to this function; its content does not
                            // change.
                            unsafe { libc::madvise(memory, LEN, libc::MADV_COLLAPSE) };
                        }
                    });
                    thread::sleep(Duration::from_micros(token * 500));
                    let result = session.preserve(&file, token);
                    done.store(true, Relaxed);
                    result
                })?;
                for page in 0..PAGES {
                    // SAFETY: Within the mapping, which has no other users.
                    unsafe { word(memory, page).write_volatile(late(token, page)) };
                }
                // SAFETY: There are no references to the mapping.
                unsafe { rustix::mm::munmap(memory, LEN) }.at("munmap")?;
                stage.hold(file);
            }
            stage.hold(session);
            Ok(())
        },
        move |_| {
            let session = retrieve(NAME)?;
            for token in 0..FILES {
                let file = File::from(session.retrieve(token)?);
                for page in 0..PAGES {
                    let mut bytes = [0; 8];
                    file.read_exact_at(&mut bytes, (page * PAGE) as u64)
                        .at("read")?;
                    ensure_eq!(
                        u64::from_ne_bytes(bytes),
                        late(token, page),
                        "page {page} of file {token}"
                    );
                }
            }
            Ok(session.finish()?)
        },
    )
    .hazard("1E.7")
}

pub fn cases() -> Vec<Case> {
    vec![
        filled_beyond_limit(),
        collapsed(),
        filled_in_scratch(),
        nowhere_to_move(),
    ]
}
