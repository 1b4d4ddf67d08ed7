// SPDX-License-Identifier: GPL-2.0

//! `luod` with its clients: two consecutive live updates, with failures before, between and after
//! them.
//!
//! The clients are a program in Rust that uses the library, one in C, and one that writes its JSON
//! by hand. This program is the operator.

mod fixture;
pub mod gap;
pub mod luoctl;
mod monitor;
mod results;
pub mod vmm;

use self::{
    fixture::{
        aborted, begin_update, call, counter, is_gone, operator, result, start_luod, wait_for,
        Json, Process, COUNTER, SOCKET,
    },
    results::{case, conclude, STATE},
};
use crate::support::{
    args::Args,
    error::{ensure, ensure_eq, Failure, Result},
    kexec, state,
};
use liveupdate::Device;
use luod_protocol::{Event, MarkName, Outcome, Report, Request, SessionName, SessionState};
use std::{thread::sleep, time::Duration};

const C_CLIENT: &str = "/bin/luod-client-c";

/// The number of kernels.
const STAGES: usize = 3;

/// A client misbehaves: the update is aborted, and the correct client continues.
fn misbehaves(fault: &str, why: &str, timeout_ms: Option<u64>) -> Result {
    let _luod = start_luod()?;
    let mut json = Json::connect()?;
    json.subscribe()?;
    let bad = counter("bad", &[fault])?;
    let update = begin_update(timeout_ms, false)?;
    json.preserve()?;
    aborted(update, why)?;
    json.cancelled()?;
    drop(bad);
    is_gone("json")?;
    is_gone("bad")?;
    is_gone("luod-internal")
}

fn dry_run() -> Result {
    let _luod = start_luod()?;
    let _good = counter("good", &[])?;
    let report = result(begin_update(None, true)?)?;
    ensure_eq!(report.outcome, Outcome::DryRun, "the outcome");
    is_gone("good")
}

/// luod is killed or stopped while clients preserve.
fn dies(kill: bool) -> Result {
    let luod = start_luod()?;
    let mut json = Json::connect()?;
    json.subscribe()?;
    let _good = counter("good", &[])?;
    let _update = begin_update(None, false)?;
    wait_for("good", SessionState::Ready)?;
    if kill {
        drop(luod);
    } else {
        luod.terminate()?;
    }
    drop(json);
    is_gone("good")?;
    is_gone("json")?;
    // The library connects again.
    let _luod = start_luod()?;
    wait_for("good", SessionState::Subscribed)?;
    // This process still runs, but has not subscribed again.
    match begin_update(None, true) {
        Ok(_) => {
            return Err(Failure::new(
                "an update was started although json has not subscribed again",
            ))
        }
        Err(error) => ensure!(error.to_string().contains("again: json"), "{error}"),
    }
    let mut json = Json::connect()?;
    json.subscribe()?;
    json.unsubscribe()?;
    let report = result(begin_update(None, true)?)?;
    ensure_eq!(report.outcome, Outcome::DryRun, "the outcome");
    Ok(())
}

fn not_loaded() -> Result {
    let _luod = start_luod()?;
    match begin_update(None, false) {
        Ok(_) => Err(Failure::new(
            "an update was started without a loaded kernel",
        )),
        Err(error) => {
            ensure!(error.to_string().contains("not-loaded"), "{error}");
            Ok(())
        }
    }
}

/// Another process has the device open for a while, like systemd.
fn busy() -> Result {
    let _luod = start_luod()?;
    let _good = counter("good", &[])?;
    let device = Device::open()?;
    let update = begin_update(None, true)?;
    sleep(Duration::from_millis(500));
    drop(device);
    ensure_eq!(result(update)?.outcome, Outcome::DryRun, "the outcome");
    Ok(())
}

/// An update that starts the next kernel. Returns only if it fails.
fn update(args: &Args, stage: usize) -> Failure {
    let go = || -> Result {
        let _luod = start_luod()?;
        let mut json = Json::connect()?;
        json.subscribe()?;
        let _counter = counter("counter", &[])?;
        let _stray = counter("stray", &[])?;
        let _c = Process::start(C_CLIENT, &[SOCKET, "c"])?;
        wait_for("c", SessionState::Subscribed)?;
        // Let it count for a while.
        sleep(Duration::from_millis(500));
        kexec::Plan::stage(args, stage + 1)?.load()?;
        let update = begin_update(None, false)?;
        json.preserve()?;
        aborted(update, "the next kernel")
    };
    match go() {
        Err(failure) => failure,
        Ok(()) => Failure::new("the update was aborted"),
    }
}

/// All sessions are restored, although luod is killed between all steps.
fn comes_back() -> Result {
    let luod = start_luod()?;
    wait_for("json", SessionState::Unclaimed)?;
    drop(luod);

    let luod = start_luod()?;
    let mut json = Json::connect()?;
    // Claimed but not finished when luod dies.
    let session = json.claim()?;
    wait_for("json", SessionState::Claimed)?;
    drop(luod);

    let luod = start_luod()?;
    wait_for("json", SessionState::Elsewhere)?;
    drop((session, json));
    Json::connect()?.restore()?;
    wait_for("json", SessionState::Finished)?;
    drop(luod);

    let _luod = start_luod()?;
    wait_for("counter", SessionState::Unclaimed)?;
    {
        let mut counter = Process::start(COUNTER, &[SOCKET, "counter"])?;
        wait_for("counter", SessionState::Finished)?;
        ensure!(counter.0.try_wait()?.is_none(), "the counter has ended");
    }
    {
        let mut c = Process::start(C_CLIENT, &[SOCKET, "c"])?;
        wait_for("c", SessionState::Finished)?;
        ensure!(c.0.try_wait()?.is_none(), "the client in C has ended");
    }
    match begin_update(None, true) {
        Ok(_) => return Err(Failure::new("an update was started with a session left")),
        Err(error) => ensure!(error.to_string().contains("unfinished"), "{error}"),
    }
    let mut operator = operator()?;
    let session = SessionName::new("stray").map_err(|error| Failure::new(error.to_string()))?;
    call(&mut operator, &Request::Discard { session })?;
    let Event::Report(report) = call(&mut operator, &Request::Report)? else {
        return Err(Failure::new("there is no report"));
    };
    show(&report);
    // Aborted updates are counted as well.
    if let Ok(last) = state::get(STATE, "number") {
        let next = last.parse::<u64>()? + 1;
        ensure_eq!(report.update, next, "the number of the update");
    }
    state::put(STATE, "number", &report.update.to_string())?;
    ensure_eq!(report.outcome, Outcome::Updated, "the outcome");
    let last = report.marks.last().map(|mark| mark.name);
    ensure_eq!(last, Some(MarkName::Finished), "the last mark");
    is_over()
}

/// No session is left in the kernel.
fn is_over() -> Result {
    for name in ["luod-internal", "json", "counter", "c", "stray"] {
        ensure!(
            Device::open()?.retrieve_session(name).is_err(),
            "the session {name} is left"
        );
    }
    Ok(())
}

fn show(report: &Report) {
    for mark in &report.marks {
        let offset = mark.offset_us.unwrap_or_default();
        println!(
            "# update {}: {:>12} us {}",
            report.update, offset, mark.name
        );
    }
    let show = |what: &str, time: Option<u64>| {
        println!(
            "# update {}: {what} {} us",
            report.update,
            time.unwrap_or(0)
        );
    };
    show("jump", report.jump_us);
    show("blackout", report.blackout_us);
    show("precision", report.precision_us);
}

/// Runs the part for this kernel.
pub fn run(args: &Args) -> Result<u8> {
    let stage = args.stage()?;
    println!("# stage {stage} of {STAGES}");
    if stage == 1 {
        case("no_kernel_is_loaded", not_loaded)?;
        kexec::Plan::stage(args, 2)?.load()?;
        case("a_dry_run", dry_run)?;
        case("the_device_is_busy", busy)?;
        case("a_client_refuses", || {
            misbehaves("refuse", "do not feel like", None)
        })?;
        case("a_client_crashes", || {
            misbehaves("crash", "closed the connection", None)
        })?;
        case("a_client_hangs", || {
            misbehaves("hang", "in time", Some(3000))
        })?;
        case("luod_is_killed", || dies(true))?;
        case("luod_is_stopped", || dies(false))?;
    } else {
        case(&format!("update_{}", stage - 1), comes_back)?;
    }
    if stage < STAGES {
        let failure = update(args, stage);
        case(&format!("update_{stage}"), || Err(failure))?;
    }
    conclude("luod")
}
