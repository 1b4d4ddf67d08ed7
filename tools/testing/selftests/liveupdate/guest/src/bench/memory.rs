// SPDX-License-Identifier: GPL-2.0

//! Files with much memory: `--files` of `--mb` MiB each, retrieved by one thread for each file. The memory
//! is in folios of 2 MiB with `--huge=1`, in pages of 4 KiB that are moved into such folios with
//! `--collapse=1`, and in huge pages, which are set aside at boot, with `--hugetlb=2M` or `--hugetlb=1G`.

use super::{
    data,
    workload::{preserve_all, report, timed, weighed, Held, Workload},
};
use crate::support::{
    args::Args,
    error::{ensure, At, Failure, Result},
    memfd, meminfo,
};
use liveupdate::{collapse, Device};
use rustix::fs::MemfdFlags;
use std::{
    fs::{self, File},
    thread,
};

pub const WORKLOAD: Workload = Workload {
    name: "memory",
    before,
    after,
};

const SESSION: &str = "bench-memory";
const HUGE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// Moves all memory into folios of 2 MiB.
fn collapse_all(files: &[File], len: u64) -> Result {
    for file in files {
        let large = collapse(file)?.large;
        ensure!(large == len, "{large} of {len} bytes are in large folios");
    }
    Ok(())
}

/// A file of huge pages, which can only be written through a mapping.
fn of_huge_pages(pages: MemfdFlags, number: u64, len: u64) -> Result<File> {
    let file = memfd::create(MemfdFlags::HUGETLB | pages)?;
    file.set_len(len).at("set the size of a memfd")?;
    data::fill_mapped(&file, number, len)?;
    Ok(file)
}

fn before(args: &Args) -> Result<Held> {
    let (number, len) = (args.number("files", 1)?, args.number("mb", 256)? << 20);
    let huge = args.number("huge", 0)? != 0;
    if let Some(size) = args.option("hugetlb") {
        let pages = match size {
            "2M" => MemfdFlags::HUGE_2MB,
            "1G" => MemfdFlags::HUGE_1GB,
            _ => return Err(Failure::new(format!("there are no huge pages of {size}"))),
        };
        let files = (0..number).map(|number| of_huge_pages(pages, number, len));
        return preserve_all(SESSION, files.collect::<Result<_>>()?);
    }
    fs::write(HUGE, if huge { "always" } else { "never" }).at(HUGE)?;
    let mut files = Vec::new();
    for i in 0..number {
        let file = memfd::new()?;
        // The size limits the size of folios.
        file.set_len(len).at("set the size of a memfd")?;
        data::fill(&file, i, 0, len)?;
        files.push(file);
    }
    let expected = if huge { (number * len) >> 10 } else { 0 };
    ensure!(
        meminfo::line("ShmemHugePages")? == expected,
        "{} KiB instead of {expected} are in large folios",
        meminfo::line("ShmemHugePages")?
    );
    if args.number("collapse", 0)? != 0 {
        timed("collapse_us", || collapse_all(&files, len))?;
    }
    preserve_all(SESSION, files)
}

fn after(args: &Args) -> Result {
    let (number, len) = (args.number("files", 1)?, args.number("mb", 256)? << 20);
    let session = timed("open_us", || Ok(Device::open()?.retrieve_session(SESSION)?))?;
    let files = weighed("retrieve", || {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..number)
                .map(|token| (token, &session))
                .map(|(token, session)| scope.spawn(move || session.retrieve(token)))
                .collect();
            let files = threads.into_iter().map(|thread| {
                let file = thread
                    .join()
                    .map_err(|_| Failure::new("a thread has panicked"))?;
                Ok(File::from(file?))
            });
            files.collect::<Result<Vec<File>>>()
        })
    })?;
    report("huge_kb", meminfo::line("ShmemHugePages")?);
    for (i, file) in (0..).zip(&files) {
        ensure!(
            memfd::len(file)? == len,
            "the size is {}",
            memfd::len(file)?
        );
        data::check(file, i, 0, len)?;
    }
    timed("finish_us", || Ok(session.finish()?))
}
