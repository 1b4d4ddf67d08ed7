// SPDX-License-Identifier: GPL-2.0

//! Memfds of huge pages of 1 GiB, on a machine whose command line asks for such pages. Its kernels
//! allocate them before their page allocator works.

pub mod damage;

use super::{nodes, Counts, Map};
use crate::{
    support::{
        cgroup::Cgroup,
        error::{ensure, ensure_eq, At, Result},
        fault::{sweep, sweep_retrieve, Faults},
        memfd, meminfo,
        process::{Child, End},
        registry::{Case, Stage, Suite},
        sessions::{create, expect_errno, retrieve},
    },
    tests::nodes::{bind, GROUP},
};
use rustix::{
    fs::{FallocateFlags, MemfdFlags},
    io::Errno,
    mm::MapFlags,
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
};

const GIB: u64 = 1 << 30;

/// The size of the pool, and its pages on each of two nodes at first.
const POOL: u64 = 3;
const ON_NODES: [u64; 2] = [2, 1];

/// The number of small pages that the page structures of a huge page fill at boot. All of them are
/// freed: a new page has the structures that are kept.
const STRUCTURES: u64 = 4096;

/// The size in the names of files.
const DIRECTORY: &str = "hugepages-1048576kB";
const CGROUP_SIZE: &str = "1GB";

fn pool_number(name: &str) -> Result<u64> {
    let path = format!("/sys/kernel/mm/hugepages/{DIRECTORY}/{name}");
    Ok(fs::read_to_string(&path).at(&path)?.trim().parse()?)
}

fn counts() -> Result<Counts> {
    Ok(Counts {
        total: pool_number("nr_hugepages")?,
        free: pool_number("free_hugepages")?,
        reserved: pool_number("resv_hugepages")?,
        surplus: pool_number("surplus_hugepages")?,
    })
}

/// Changes the size of the pool. Pages that are in use become surplus pages if it gets smaller.
fn set_pool(pages: u64) -> Result {
    let path = format!("/sys/kernel/mm/hugepages/{DIRECTORY}/nr_hugepages");
    fs::write(&path, pages.to_string()).at(path)
}

/// The pages of the pool on each of two nodes.
fn on_nodes() -> Result<[u64; 2]> {
    nodes::on_nodes(DIRECTORY, "nr_hugepages")
}

fn new(pages: u64) -> Result<File> {
    let flags = MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB | MemfdFlags::EXEC;
    let file = memfd::create(flags)?;
    file.set_len(pages * GIB).at("set the size")?;
    Ok(file)
}

fn map(file: &File, pages: u64, flags: MapFlags) -> io::Result<Map> {
    Map::of(GIB, file, pages, flags)
}

/// The first word of each part of a page; all others are zero.
const PART: usize = 4096;

fn mark(seed: u64, index: u64, part: usize) -> u64 {
    (seed << 48) | (index << 32) | (part as u64 + 1)
}

/// Fills huge pages of a file. The others stay holes, without a reservation.
fn fill(file: &File, pages: u64, seed: u64, which: &[u64]) -> Result {
    let map = map(file, pages, MapFlags::NORESERVE).at("mmap")?;
    fill_map(map, seed, which)
}

fn fill_map(mut map: Map, seed: u64, which: &[u64]) -> Result {
    for index in which {
        for (part, bytes) in map.page(*index).chunks_exact_mut(PART).enumerate() {
            bytes[..8].copy_from_slice(&mark(seed, *index, part).to_le_bytes());
        }
    }
    Ok(())
}

fn filled(pages: u64, seed: u64, which: &[u64]) -> Result<File> {
    let file = new(pages)?;
    fill(&file, pages, seed, which)?;
    Ok(file)
}

/// Checks the size, the holes, and each byte of the content of a file.
fn check(file: &File, pages: u64, seed: u64, which: &[u64]) -> Result {
    ensure_eq!(memfd::len(file)?, pages * GIB, "the size");
    let blocks = file.metadata().at("fstat")?.blocks() * 512;
    ensure_eq!(blocks, which.len() as u64 * GIB, "the memory of the file");
    let mut map = map(file, pages, MapFlags::NORESERVE).at("mmap")?;
    for index in 0..pages {
        if !which.contains(&index) {
            let mut bytes = vec![1; PART];
            file.read_exact_at(&mut bytes, index * GIB + GIB / 2)
                .at("read a hole")?;
            ensure!(
                bytes.iter().all(|byte| *byte == 0),
                "page {index} is no hole"
            );
            continue;
        }
        for (part, bytes) in map.page(index).chunks_exact(PART).enumerate() {
            let words = bytes.chunks_exact(8);
            let mut words = words.map(|word| word.try_into().map_or(0, u64::from_le_bytes));
            ensure_eq!(
                words.next(),
                Some(mark(seed, index, part)),
                "part {part} of page {index}"
            );
            ensure_eq!(
                words.fold(0, |all, word| all | word),
                0,
                "the rest of part {part} of page {index}"
            );
        }
    }
    Ok(())
}

/// An update is aborted after a file was preserved.
fn aborted() -> Case {
    Case::one("holes_are_fixed_until_an_abort", |_| {
        ensure_eq!(counts()?, Counts::of(POOL, POOL), "the pool at boot");
        let file = filled(2, 1, &[1])?;
        let session = create("gigantic-aborted")?;
        session.preserve(&file, 1)?;
        ensure_eq!(
            counts()?,
            Counts::of(POOL, POOL - 1),
            "the pool with the file"
        );
        expect_errno(file.set_len(3 * GIB), Errno::PERM, "growing")?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punch = || rustix::fs::fallocate(&file, flags, GIB, GIB).map_err(io::Error::from);
        expect_errno(punch(), Errno::PERM, "punching a hole")?;
        let touch = |index| {
            Child::start(|| {
                map(&file, 2, MapFlags::NORESERVE)?.page(index)[8] ^= 1;
                Ok(())
            })?
            .wait()
        };
        ensure_eq!(touch(0)?, End::Killed, "a task that has touched a hole");
        for _ in 0..2 {
            ensure_eq!(touch(1)?, End::Done, "a task that has touched a page");
        }
        drop(session);
        check(&file, 2, 1, &[1])?;
        ensure_eq!(touch(0)?, End::Done, "a task that has touched a hole");
        punch().at("punch a hole")?;
        ensure_eq!(
            counts()?,
            Counts::of(POOL, POOL - 1),
            "the pool with a page"
        );
        drop(file);
        ensure_eq!(counts()?, Counts::of(POOL, POOL), "the pool at the end");
        Ok(())
    })
}

/// Preserving a file fails at each possible place, and nothing has changed after that.
fn failures() -> Case {
    Case::one("preserve_fd_fails_at_each_place", |stage| {
        let faults = Faults::new()?;
        let file = filled(3, 2, &[0, 2])?;
        let places = sweep(|nth| {
            let session = create("gigantic-sweep")?;
            let outcome = faults.call(nth, || session.preserve(&file, 1))?;
            if outcome.result.is_err() {
                expect_errno(outcome.result, Errno::NOMEM, "PRESERVE_FD")?;
                session.preserve(&file, 1).at("the second try")?;
            }
            Ok(outcome.failed)
        })?;
        stage.note(format_args!("PRESERVE_FD: {places} places to fail"));
        ensure!(places > 4, "there are only {places} places to fail");
        check(&file, 3, 2, &[0, 2])?;
        drop(file);
        ensure_eq!(counts()?, Counts::of(POOL, POOL), "the pool at the end");
        Ok(())
    })
}

/// Three files take all pages of the pool. The last one is on the second node: if the counts did
/// not include its page, a later kernel would allocate another one there.
fn hand_over(stage: &mut Stage<'_>) -> Result {
    ensure_eq!(on_nodes()?, ON_NODES, "the pool on each node at boot");
    for (name, pages, seed, node) in [("kept", 2, 3, 0), ("lost", 1, 4, 0), ("late", 1, 5, 1)] {
        let file = new(pages)?;
        let map = map(&file, pages, MapFlags::NORESERVE).at("mmap")?;
        bind(map.start.cast(), map.len, 1 << node)?;
        fill_map(map, seed, &[0])?;
        memfd::seek(&file, 12345)?;
        let session = create(&format!("gigantic-{name}"))?;
        session.preserve(&file, 1)?;
        stage.hold((session, file));
    }
    ensure_eq!(counts()?, Counts::of(POOL, 0), "the pool");
    Ok(())
}

/// Checks that the pool has the size of the command line, on the same nodes as in the first kernel.
fn check_pool(free: u64) -> Result {
    ensure_eq!(
        counts()?,
        Counts::of(POOL, free),
        "the pool after the kexec"
    );
    ensure_eq!(on_nodes()?, ON_NODES, "the pool on each node");
    Ok(())
}

/// The number of small pages with page structures that were allocated at boot.
fn structures() -> Result<u64> {
    let text = fs::read_to_string("/proc/vmstat").at("/proc/vmstat")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("nr_memmap_boot_pages "));
    Ok(line.at("/proc/vmstat has no such line")?.parse()?)
}

/// One file is not retrieved, one is retrieved by a task in a cgroup, and one is left.
fn take_over(_: &mut Stage<'_>) -> Result {
    check_pool(0)?;
    retrieve("gigantic-lost")?.finish()?;
    ensure_eq!(counts()?, Counts::of(POOL, 1), "the pool without a file");

    let session = retrieve("gigantic-kept")?;
    let group = Cgroup::of_huge_pages("gigantic")?;
    let retrieve_in = |limit: u64| {
        let limit = limit.to_string();
        group.limit_huge_pages(CGROUP_SIZE, &limit, &limit)?;
        Child::start(|| {
            group.enter()?;
            session.retrieve(1).map(drop)
        })?
        .wait()
    };
    let no_memory = End::Error(Errno::NOMEM);
    ensure_eq!(retrieve_in(0)?, no_memory, "a task that may use no pages");
    ensure_eq!(group.huge_pages(CGROUP_SIZE)?, [0, 0], "the charges");
    ensure_eq!(counts()?, Counts::of(POOL, 1), "the pool after a failure");
    ensure_eq!(retrieve_in(GIB)?, End::Done, "a task that may use a page");
    ensure_eq!(group.huge_pages(CGROUP_SIZE)?, [GIB; 2], "the charges");
    let file = File::from(session.retrieve(1)?);
    ensure_eq!(memfd::position(&file)?, 12345, "the position");
    check(&file, 2, 3, &[0])?;

    // A mapping reserves a page for the hole only.
    let reservation = map(&file, 2, MapFlags::empty()).at("mmap")?;
    let reserved = Counts {
        reserved: 1,
        ..Counts::of(POOL, 1)
    };
    ensure_eq!(counts()?, reserved, "the pool with a reservation");
    fill(&file, 2, 3, &[1])?;
    ensure_eq!(
        counts()?,
        Counts::of(POOL, 0),
        "the pool with the hole filled"
    );
    drop(reservation);
    check(&file, 2, 3, &[0, 1])?;
    session.finish()?;
    drop(file);
    ensure_eq!(group.huge_pages(CGROUP_SIZE)?, [0, 0], "the last charges");
    ensure_eq!(counts()?, Counts::of(POOL, 2), "the pool with one file");
    Ok(())
}

/// The file that is left is carried over once more, and another one is preserved.
fn leave(stage: &mut Stage<'_>) -> Result {
    check_pool(2)?;
    let second = filled(1, 6, &[0])?;
    let session = create("gigantic-second")?;
    session.preserve(&second, 1)?;
    stage.hold((session, second));
    Ok(())
}

/// The file of the first kernel is retrieved. The page of the other one becomes ordinary memory.
fn take_over_again(stage: &mut Stage<'_>) -> Result {
    check_pool(1)?;
    let session = retrieve("gigantic-late")?;
    let (before, structures_before) = (counts()?, structures()?);
    let file = sweep_retrieve(stage, &session, 1, || {
        ensure_eq!(counts()?, before, "the pool after a failure");
        Ok(())
    })?;
    let freed = structures_before.saturating_sub(structures()?);
    ensure_eq!(freed, STRUCTURES, "the pages of freed page structures");
    check(&file, 1, 5, &[0])?;
    session.finish()?;
    drop(file);
    ensure_eq!(counts()?, Counts::of(POOL, 2), "the pool without the file");

    set_pool(0)?;
    let surplus = Counts {
        surplus: 1,
        ..Counts::of(1, 0)
    };
    ensure_eq!(counts()?, surplus, "the pool with the last file");
    let before = meminfo::free()?;
    retrieve("gigantic-second")?.finish()?;
    // Pages whose page structures were freed are freed in the background. This waits for it.
    set_pool(0)?;
    ensure_eq!(counts()?, Counts::of(0, 0), "the pool at the end");
    let more = meminfo::free()?.saturating_sub(before) >> 10;
    stage.note(format_args!("{more} MiB were freed"));
    ensure!(more > 900, "only {more} MiB were freed");
    Ok(())
}

fn updates() -> Case {
    Case::chain(
        "files_and_counts_over_three_updates",
        [hand_over, take_over, leave, take_over_again],
    )
}

/// The suite. The cases share the pool.
pub fn suite() -> Suite {
    let mut suite = Suite::on_machine(GROUP, "gigantic", updates());
    suite.cases.splice(..0, [aborted(), failures()]);
    suite
}
