// SPDX-License-Identifier: GPL-2.0

//! Many sessions.

use super::{
    data,
    workload::{timed, Held, Workload},
};
use crate::support::{args::Args, error::Result, memfd};
use liveupdate::{Device, IncomingSession};
use std::{fs::File, io};

pub const WORKLOAD: Workload = Workload {
    name: "sessions",
    before,
    after,
};

/// One of this number of sessions has a file, to detect mixed up sessions.
const WITH_FILE: u64 = 64;
const LEN: u64 = 64;
const TOKEN: u64 = 7;

fn name(number: u64) -> String {
    format!("bench-{number:05}")
}

fn before(args: &Args) -> Result<Held> {
    let number = args.number("n", 1000)?;
    let device = Device::open()?;
    let mut held = Held::default();
    timed("create_us", || {
        for i in 0..number {
            held.sessions.push(device.create_session(name(i))?);
        }
        Ok(())
    })?;
    for (i, session) in (0..).zip(&held.sessions).step_by(WITH_FILE as usize) {
        let file = memfd::new()?;
        data::fill(&file, i, 0, LEN)?;
        session.preserve(&file, TOKEN)?;
    }
    Ok(held)
}

fn after(args: &Args) -> Result {
    let number = args.number("n", 1000)?;
    let device = timed("open_us", || Ok(Device::open()?))?;
    let sessions: Vec<IncomingSession> = timed("retrieve_us", || {
        let sessions = (0..number).map(|i| device.retrieve_session(name(i)));
        Ok(sessions.collect::<io::Result<_>>()?)
    })?;
    for (i, session) in (0..).zip(&sessions).step_by(WITH_FILE as usize) {
        data::check(&File::from(session.retrieve(TOKEN)?), i, 0, LEN)?;
    }
    timed("finish_us", || {
        for session in sessions {
            session.finish()?;
        }
        Ok(())
    })
}
