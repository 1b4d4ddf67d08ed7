// SPDX-License-Identifier: GPL-2.0

//! A large file with one page in it: `--mb` MiB.

use super::{
    data,
    workload::{report, timed, weighed, Held, Workload},
};
use crate::support::{
    args::Args,
    error::{ensure, At, Result},
    memfd,
};
use liveupdate::Device;
use std::{fs::File, os::unix::fs::MetadataExt};

pub const WORKLOAD: Workload = Workload {
    name: "sparse",
    before,
    after,
};

const SESSION: &str = "bench-sparse";
const TOKEN: u64 = 1;
const PAGE: u64 = 4096;

/// The memory of the file, in KiB.
fn used_kb(file: &File) -> Result<u64> {
    Ok(file.metadata().at("fstat")?.blocks() / 2)
}

/// The position of the page.
fn middle(len: u64) -> u64 {
    len / 2 / PAGE * PAGE
}

fn before(args: &Args) -> Result<Held> {
    let len = args.number("mb", 256)? << 20;
    let file = memfd::new()?;
    file.set_len(len).at("set the size of a memfd")?;
    data::fill(&file, 0, middle(len), PAGE)?;
    ensure!(used_kb(&file)? == PAGE >> 10, "the file is not sparse");
    let session = Device::open()?.create_session(SESSION)?;
    weighed("preserve", || Ok(session.preserve(&file, TOKEN)?))?;
    Ok(Held {
        sessions: vec![session],
        files: vec![file],
    })
}

fn after(args: &Args) -> Result {
    let len = args.number("mb", 256)? << 20;
    let session = Device::open()?.retrieve_session(SESSION)?;
    let file = timed("retrieve_us", || Ok(File::from(session.retrieve(TOKEN)?)))?;
    report("used_kb", used_kb(&file)?);
    ensure!(
        memfd::len(&file)? == len,
        "the size is {}",
        memfd::len(&file)?
    );
    let page = middle(len);
    data::check(&file, 0, page, PAGE)?;
    data::check_zero(&file, 0, page)?;
    data::check_zero(&file, page + PAGE, len - page - PAGE)?;
    timed("finish_us", || Ok(session.finish()?))
}
