// SPDX-License-Identifier: GPL-2.0

//! Many small files in one session.

use super::{
    data,
    workload::{preserve_all, timed, Held, Workload},
};
use crate::support::{args::Args, error::Result, memfd};
use liveupdate::Device;
use std::{fs::File, io};

pub const WORKLOAD: Workload = Workload {
    name: "files",
    before,
    after,
};

const SESSION: &str = "bench-files";
const LEN: u64 = 4096;

fn before(args: &Args) -> Result<Held> {
    let number = args.number("n", 1000)?;
    let mut files = Vec::new();
    for i in 0..number {
        let file = memfd::new()?;
        data::fill(&file, i, 0, LEN)?;
        files.push(file);
    }
    preserve_all(SESSION, files)
}

fn after(args: &Args) -> Result {
    let number = args.number("n", 1000)?;
    let session = timed("open_us", || Ok(Device::open()?.retrieve_session(SESSION)?))?;
    let files: Vec<File> = timed("retrieve_us", || {
        let files = (0..number).map(|token| session.retrieve(token).map(File::from));
        Ok(files.collect::<io::Result<_>>()?)
    })?;
    for (i, file) in (0..).zip(&files) {
        data::check(file, i, 0, LEN)?;
    }
    timed("finish_us", || Ok(session.finish()?))
}
