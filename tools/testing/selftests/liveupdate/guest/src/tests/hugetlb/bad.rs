// SPDX-License-Identifier: GPL-2.0

//! Huge pages with bad memory.

use super::{content, filled, new, set_pool, Counts, Map, HUGE, NR_HUGEPAGES, POOL};
use crate::support::{
    error::{ensure, ensure_eq, At, Failure, Result},
    kexec,
    mapping::frames,
    meminfo,
    poison::{poison, read_kills},
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
};
use crate::tests::memfd::broken::scratch;
use rustix::{
    fs::{FallocateFlags, MemfdFlags},
    io::Errno,
    mm::MapFlags,
};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

/// Marks the first part of a huge page as bad; the kernel may know that it is bad without being able to
/// remove it.
fn break_page(file: &File, map: &mut Map, index: u64) -> Result {
    let known = [Errno::BUSY, Errno::HWPOISON].map(|errno| Some(errno.raw_os_error()));
    match poison(map.page(index).as_mut_ptr().cast()) {
        Err(error) if !known.contains(&error.raw_os_error()) => Err(error).at("MADV_HWPOISON")?,
        _ => {}
    }
    let read = file.read_exact_at(&mut [0], index * HUGE);
    expect_errno(read, Errno::IO, "reading memory that was just broken")
}

/// Fills a file, and returns a huge page that is in a scratch area.
fn page_in_scratch(map: &mut Map, pages: u64) -> Result<u64> {
    let scratch = scratch()?;
    for index in 0..pages {
        let page = map.page(index);
        page[0] = 1;
        let frame = frames(page.as_ptr().cast(), 1)?[0];
        if scratch.iter().any(|area| area.contains(&frame)) {
            return Ok(index);
        }
    }
    Err(Failure::new("no huge page is in a scratch area"))
}

/// A page that can neither be pinned at its address nor be moved.
fn stuck() -> Case {
    Case::one("bad_page_in_a_scratch_area_is_refused", |_| {
        let wanted = meminfo::line("MemAvailable")? * 1024 / 10 * 8 / HUGE;
        fs::write(NR_HUGEPAGES, wanted.to_string()).at(NR_HUGEPAGES)?;
        // There may be fewer, if the memory is fragmented.
        let pages = Counts::now()?.total;
        let file = new(MemfdFlags::EXEC, pages)?;
        let mut map = Map::new(&file, pages, MapFlags::NORESERVE).at("mmap")?;
        let index = page_in_scratch(&mut map, pages)?;
        // The others would be moved.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for (start, end) in [(0, index), (index + 1, pages)] {
            if start < end {
                rustix::fs::fallocate(&file, flags, start * HUGE, (end - start) * HUGE)
                    .at("punch a hole")?;
            }
        }
        break_page(&file, &mut map, index)?;
        let session = create("hugetlb-stuck")?;
        for _ in 0..2 {
            expect_errno(session.preserve(&file, 1), Errno::HWPOISON, "PRESERVE_FD")?;
        }
        // Without this page, the file can be preserved.
        rustix::fs::fallocate(&file, flags, index * HUGE, HUGE).at("punch a hole")?;
        session.preserve(&file, 1)?;
        drop((map, file, session));
        // hugetlb keeps a bad page in the pool.
        fs::write(NR_HUGEPAGES, "0").at(NR_HUGEPAGES)?;
        ensure!(Counts::now()?.total <= 1, "the pool is not empty");
        Ok(())
    })
}

const PAGES: u64 = 4;
const BROKEN: u64 = 2;
const NAME: &str = "hugetlb-broken";

fn check(file: &File) -> Result {
    for index in (0..PAGES).filter(|index| *index != BROKEN) {
        content(70, index).check(file, index * HUGE)?;
    }
    let mut map = Map::new(file, PAGES, MapFlags::NORESERVE).at("mmap")?;
    let read = file.read_exact_at(&mut [0], BROKEN * HUGE);
    expect_errno(read, Errno::IO, "reading broken memory")?;
    ensure!(
        read_kills(map.page(BROKEN).as_ptr().cast())?,
        "broken memory is mapped"
    );
    ensure!(
        !read_kills(map.page(BROKEN - 1).as_ptr().cast())?,
        "the page before it cannot be read"
    );
    Ok(())
}

/// The page is found to be bad when a kexec has to preserve the file again.
fn retrieved(stage: &mut Stage<'_>) -> Result {
    let session = retrieve(NAME)?;
    let file = File::from(session.retrieve(1)?);
    let mut map = Map::new(&file, PAGES, MapFlags::NORESERVE).at("mmap")?;
    break_page(&file, &mut map, BROKEN)?;
    check(&file)?;
    stage.hold((session, file));
    Ok(())
}

fn carried() -> Case {
    Case::chain(
        "page_that_becomes_bad_after_retrieve_fd",
        [
            |stage: &mut Stage<'_>| {
                set_pool(POOL)?;
                let file = filled(MemfdFlags::EXEC, PAGES, 70, &[0, 1, 2, 3])?;
                let session = create(NAME)?;
                session.preserve(&file, 1)?;
                stage.hold((session, file));
                kexec::add_param(&format!("hugepages={POOL}"))
            },
            retrieved,
            |_: &mut Stage<'_>| {
                let session = retrieve(NAME)?;
                let file = File::from(session.retrieve(1)?);
                check(&file)?;
                // What was already handed over can only be refused by user space.
                let again = create("hugetlb-broken-again")?;
                session.finish()?;
                expect_errno(again.preserve(&file, 1), Errno::HWPOISON, "PRESERVE_FD")?;
                drop(file);
                let pool = Counts::now()?;
                ensure_eq!(pool.free, pool.total, "the free pages at the end");
                ensure!(
                    (POOL - 1..=POOL).contains(&pool.total),
                    "the pool has {} pages",
                    pool.total
                );
                Ok(())
            },
        ],
    )
}

/// The suite. The cases share the pool.
pub fn suite() -> Suite {
    Suite::new("hugetlb_bad", vec![stuck(), carried()])
}
