// SPDX-License-Identifier: GPL-2.0

//! How long guests of `luo-vmm` wait in one live update, by phase: for `make bench`.
//!
//! Prints lines `@bench NAME VALUE`, in microseconds by the machine's time-stamp counter, which a
//! kexec does not reset. The driver adds what it sees from outside of the machine.

use super::{
    fixture::{begin_update, result, start_luod, wait_for},
    monitor::{Heard, NewGuest, Vmm, INITRD},
};
use crate::support::{
    args::Args,
    clock::{self, Rate, Ticks},
    error::{At, Failure, Result},
    kexec, memfd, meminfo,
};
use luod_protocol::SessionState;
use std::{fs, io::Write};

/// The time between two heartbeats of the guest, in milliseconds.
const BEAT_MS: u64 = 10;

fn names(args: &Args) -> Result<Vec<String>> {
    let number = args.number("guests", 1)?;
    Ok((0..number).map(|guest| format!("guest{guest}")).collect())
}

fn report(name: &str, value: u64) {
    println!("@bench {name} {value}");
}

/// Starts the guests, and the next kernel when all of them run.
fn before(args: &Args, cpus: u64) -> Result<u8> {
    let huge = args.number("huge", 0)? != 0;
    memfd::set_huge(huge)?;
    let _luod = start_luod()?;
    let mut arguments = vec!["--populate"];
    let kind = if huge { "transparent" } else { "memfd" };
    arguments.extend(["--ram", args.option("memory").unwrap_or(kind)]);
    let names = names(args)?;
    let mut guests = Vec::new();
    for name in &names {
        // The driver listens to the heartbeat of one guest.
        let beat = if guests.is_empty() { BEAT_MS } else { 0 };
        let guest = NewGuest {
            cpus,
            ram_mb: args.number("ram", 256)?,
            arguments: arguments.clone(),
            params: "quiet",
            program: format!("vm --mb=4 --beat-ms={beat}"),
        };
        guests.push(Vmm::start(name, &guest)?);
    }
    for (name, guest) in names.iter().zip(&guests) {
        guest.runs()?;
        wait_for(name, SessionState::Subscribed)?;
    }
    report("huge_kb", meminfo::line("ShmemHugePages")?);
    std::io::stdout().flush().at("flush the console")?;
    fs::remove_file(INITRD).at(INITRD)?;
    kexec::Plan::stage(args, 2)?.load_last()?;
    let report = result(begin_update(None, false)?)?;
    let reason = report.reason.unwrap_or_default();
    Err(Failure::new(format!("the update has ended: {reason}")))
}

/// The number before ` us` after some words of a line.
fn micros_after(heard: &Heard, words: &str) -> Option<u64> {
    let (line, _) = heard.restore.as_ref()?;
    line.split_once(words)?.1.split(' ').next()?.parse().ok()
}

/// Restores all guests. The figures are those of the one that waited longest.
fn after(args: &Args, cpus: u64) -> Result<u8> {
    let init = clock::program_start();
    let _luod = start_luod()?;
    let listens = Ticks::now();
    let names = names(args)?;
    let guests: Vec<Vmm> = (names.iter())
        .map(|name| Vmm::restore(name, cpus))
        .collect::<Result<_>>()?;
    let mut last = None;
    for guest in &guests {
        let heard = guest.wait("the guest is restored", |heard| heard.restored == 1)?;
        let gap = micros_after(&heard, "gap ").at("there is no gap")?;
        let restore = micros_after(&heard, "restored within ").at("no time is printed")?;
        let (_, at) = heard.restore.at("it was not restored")?;
        last = last.max(Some((gap, restore, at)));
    }
    let (gap, restore, at) = last.at("there is no guest")?;
    for guest in &guests {
        guest.runs()?;
    }
    // The guests would disturb the measurement of the rate.
    drop(guests);
    let rate = Rate::measure();
    report("gap_us", gap);
    report("boot_us", rate.micros(rate.kernel_start(), init));
    report("luod_us", rate.micros(init, listens));
    report("claim_us", rate.micros(listens, at));
    report("restore_us", restore);
    report("verified", 1);
    Ok(0)
}

/// Runs the part for this kernel.
pub fn run(args: &Args) -> Result<u8> {
    let cpus = args.number("cpus", 1)?;
    match args.stage()? {
        1 => before(args, cpus),
        _ => after(args, cpus),
    }
}
