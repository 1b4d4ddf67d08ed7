// SPDX-License-Identifier: GPL-2.0

//! Benchmarks: one live update with one kind of state.
//!
//! Each run of a machine measures one workload, before and after the kexec, and verifies all of the
//! contents after it. It prints lines `@bench NAME VALUE`; times are in microseconds (`_us`),
//! memory in KiB (`_kb`). The output of a run is valid only if the program ends with success.
//!
//! The benchmarks do not depend on the implementation of the subsystem.

mod data;
mod files;
mod memory;
mod scattered;
mod sessions;
mod sparse;
mod workload;

use self::workload::{report, Held, Workload};
use crate::support::{
    args::Args,
    clock::{self, Rate, Ticks},
    error::{At, Failure, Result},
    kexec, memfd,
};
use liveupdate::Device;
use rustix::process::{Resource, Rlimit};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
};

/// The session with the time of the reboot(2) call.
const CLOCK_SESSION: &str = "bench-clock";
const CLOCK_TOKEN: u64 = 1;

/// The line in the kernel log that marks the reboot for the driver.
const MARK: &str = "<6>luo-bench: reboot";

/// Descriptors that a workload may have open.
const DESCRIPTORS: u64 = 1 << 17;

/// Only the clock, which is the smallest state.
const SMALL: Workload = Workload {
    name: "small",
    before: |_| Ok(Held::default()),
    after: |_| Ok(()),
};

const WORKLOADS: [Workload; 6] = [
    SMALL,
    sessions::WORKLOAD,
    files::WORKLOAD,
    memory::WORKLOAD,
    sparse::WORKLOAD,
    scattered::WORKLOAD,
];

fn before(args: &Args, workload: &Workload) -> Result<u8> {
    kexec::Plan::stage(args, 2)?.load_last()?;
    // Both stay open until the kexec.
    let Held {
        sessions: _sessions,
        files: _files,
    } = (workload.before)(args).at(workload.name)?;
    let clock = memfd::new()?;
    clock.set_len(8).at("set the size of a memfd")?;
    let session = Device::open()?.create_session(CLOCK_SESSION)?;
    session.preserve(&clock, CLOCK_TOKEN)?;
    io::stdout().flush().at("flush the console")?;
    fs::write("/dev/kmsg", MARK).at("write to /dev/kmsg")?;
    clock
        .write_all_at(&Ticks::now().0.to_le_bytes(), 0)
        .at("write the time")?;
    Err(kexec::jump())
}

fn after(args: &Args, workload: &Workload) -> Result<u8> {
    (workload.after)(args).at(workload.name)?;
    let session = Device::open()?.retrieve_session(CLOCK_SESSION)?;
    let clock = File::from(session.retrieve(CLOCK_TOKEN)?);
    let mut bytes = [0; 8];
    clock.read_exact_at(&mut bytes, 0).at("read the time")?;
    session.finish()?;

    let (reboot, init) = (Ticks(u64::from_le_bytes(bytes)), clock::program_start());
    let rate = Rate::measure();
    report("blackout_us", rate.micros(reboot, init));
    report("jump_us", rate.micros(reboot, rate.kernel_start()));
    report("verified", 1);
    Ok(0)
}

pub fn run(args: &Args) -> Result<u8> {
    let name = args.rest().first().map_or("", String::as_str);
    let workload = WORKLOADS.iter().find(|workload| workload.name == name);
    let workload =
        workload.ok_or_else(|| Failure::new(format!("no workload is called '{name}'")))?;
    let limit = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    rustix::process::setrlimit(Resource::Nofile, limit).at("raise the limit of descriptors")?;
    match args.stage()? {
        1 => before(args, workload),
        _ => after(args, workload),
    }
}
