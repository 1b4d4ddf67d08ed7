// SPDX-License-Identifier: GPL-2.0

//! A file of `--n` pages that are not contiguous in memory.

use super::{
    data,
    workload::{timed, weighed, Held, Workload},
};
use crate::support::{
    args::Args,
    error::{At, Result},
    memfd,
};
use liveupdate::Device;
use std::fs::{self, File};

pub const WORKLOAD: Workload = Workload {
    name: "scattered",
    before,
    after,
};

const SESSION: &str = "bench-scattered";
const TOKEN: u64 = 1;
const PAGE: u64 = 4096;

fn before(args: &Args) -> Result<Held> {
    let pages = args.number("n", 16384)?;
    let huge = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    fs::write(huge, "never").at(huge)?;
    // Pages of two files alternate; only one file is preserved.
    let (file, between) = (memfd::new()?, memfd::new()?);
    for i in 0..pages {
        data::fill(&file, 0, i * PAGE, PAGE)?;
        data::fill(&between, 1, i * PAGE, PAGE)?;
    }
    let session = Device::open()?.create_session(SESSION)?;
    weighed("preserve", || Ok(session.preserve(&file, TOKEN)?))?;
    Ok(Held {
        sessions: vec![session],
        files: vec![file, between],
    })
}

fn after(args: &Args) -> Result {
    let pages = args.number("n", 16384)?;
    let session = Device::open()?.retrieve_session(SESSION)?;
    let file = timed("retrieve_us", || Ok(File::from(session.retrieve(TOKEN)?)))?;
    data::check(&file, 0, 0, pages * PAGE)?;
    timed("finish_us", || Ok(session.finish()?))
}
