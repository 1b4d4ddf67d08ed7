// SPDX-License-Identifier: GPL-2.0

//! Operations that fail when everything is serialized.
//!
//! There is some time between the serialization and the end of the kernel, which the test
//! handler can prolong. The results are written to a preserved memfd.

use super::row::{session_with_file, FILE, TOKEN};
use crate::support::{
    error::{ensure_eq, At, Result},
    memfd,
    registry::{Case, Stage},
    sessions::{create, retrieve},
};
use liveupdate::{
    raw::{self, Finish, Policy},
    Device, IncomingSession, OutgoingSession,
};
use rustix::io::Errno;
use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
    thread,
};

const SESSION: &str = "late-incoming";
const REPORT: &str = "late-report";

/// The delay of the reboot, in milliseconds. Kernels without the test handler have no delay.
const DELAY: &str = "/sys/module/liveupdate_handler/parameters/reboot_delay_ms";

/// Many times the duration of the trials.
const MORE: &str = "3000";

/// The trials, in this order.
const TRIALS: [&str; 6] = [
    "CREATE_SESSION",
    "PRESERVE_FD",
    "RETRIEVE_FD",
    "FINISH",
    "SET_POLICY",
    "close",
];

/// Success, in place of an errno.
const WORKED: u64 = 1000;

/// Records the result of a trial.
fn note<T>(report: &File, trial: usize, result: io::Result<T>) -> io::Result<()> {
    let number = match result {
        Ok(_) => WORKED,
        Err(error) => liveupdate::errno(&error).map_or(u64::MAX, |errno| errno as u64),
    };
    report.write_all_at(&number.to_ne_bytes(), 8 * trial as u64)
}

/// Waits until everything is serialized, then runs all trials.
fn watch(
    device: &Device,
    outgoing: OutgoingSession,
    incoming: &IncomingSession,
    report: &File,
) -> Result {
    loop {
        let created = device.create_session("late-probe");
        if created.is_err() {
            note(report, 0, created)?;
            break;
        }
    }
    note(report, 1, outgoing.preserve(memfd::new()?, TOKEN))?;
    note(report, 2, incoming.retrieve(TOKEN))?;
    note(
        report,
        3,
        raw::call(incoming.as_fd(), &mut Finish::default()),
    )?;
    note(report, 4, outgoing.set_policy(Policy::Skip))?;
    drop(outgoing);
    Ok(note(report, 5, Ok(()))?)
}

fn first(stage: &mut Stage<'_>) -> Result {
    stage.hold(session_with_file(SESSION)?);
    Ok(())
}

fn second(stage: &mut Stage<'_>) -> Result {
    let incoming = retrieve(SESSION)?;
    memfd::check(incoming.retrieve(TOKEN)?, FILE)?;
    let report = memfd::new()?;
    // Holes could not be filled any more.
    report
        .write_all_at(&[0; 8 * TRIALS.len()], 0)
        .at("write an empty report")?;
    let session = create(REPORT)?;
    session.preserve(&report, TOKEN)?;
    stage.hold(session);
    let outgoing = create("late-outgoing")?;
    if Path::new(DELAY).exists() {
        fs::write(DELAY, MORE).at(DELAY)?;
    }
    let device = Device::open()?;
    thread::spawn(move || {
        if let Err(failure) = watch(&device, outgoing, &incoming, &report) {
            println!("# late: {failure}");
        }
        // Only the intended files are closed.
        loop {
            thread::park();
        }
    });
    Ok(())
}

fn third(_: &mut Stage<'_>) -> Result {
    let session = retrieve(REPORT)?;
    let report = File::from(session.retrieve(TOKEN)?);
    session.finish()?;
    let busy = Errno::BUSY.raw_os_error() as u64;
    for (trial, what) in TRIALS.into_iter().enumerate() {
        let mut number = [0; 8];
        report
            .read_exact_at(&mut number, 8 * trial as u64)
            .at("read the report")?;
        let wanted = if what == "close" { WORKED } else { busy };
        let number = u64::from_ne_bytes(number);
        ensure_eq!(number, wanted, "the result of {what} (0: none)");
    }
    Ok(())
}

pub fn case() -> Case {
    Case::chain("after_serialization", [first, second, third]).hazard("1C.3")
}
