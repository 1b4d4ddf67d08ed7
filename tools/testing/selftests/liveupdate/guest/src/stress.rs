// SPDX-License-Identifier: GPL-2.0

//! The stress test: threads with random operations for a while, then a kexec, repeatedly.
//!
//! A list of the handed over data is preserved in a session of its own. A file of the test
//! handler prevents `reboot(KEXEC)` from succeeding while the threads run.

mod plan;
mod worker;

use self::{
    plan::Plan,
    worker::{Shared, Worker},
};
use crate::support::{
    args::Args,
    error::{At, Failure, Result},
    kexec,
    pattern::Random,
};
use std::{
    fs,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

const THREADS: u64 = 6;
const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

/// Fails if kmemleak has reports; passes on kernels without kmemleak.
fn no_leak() -> Result {
    if fs::write(KMEMLEAK, "scan").is_err() {
        return Ok(());
    }
    // Memory that was just freed may still be referenced on a stack: only objects that are
    // reported twice are leaks.
    thread::sleep(Duration::from_secs(6));
    fs::write(KMEMLEAK, "scan").at(KMEMLEAK)?;
    let found = fs::read_to_string(KMEMLEAK).at(KMEMLEAK)?;
    if found.is_empty() {
        return Ok(());
    }
    println!("{found}");
    Err(Failure::new("kmemleak reports a leak"))
}

/// Runs one stage, and starts the next one.
pub fn run(args: &Args) -> Result<u8> {
    let stage = args.stage()? as u64;
    let kexecs = args.number("kexecs", 1)?;
    let seconds = args.number("seconds", 20)?;
    let seed = args.number("seed", 1)?;
    println!("# stress: stage {stage}, seed {seed}");

    let incoming = if stage > 1 {
        Plan::receive(stage)?
    } else {
        Plan::default()
    };
    if stage > kexecs {
        let files = incoming.verify()?;
        no_leak()?;
        println!("@stress {stage} verified {files}");
        return Ok(0);
    }

    kexec::Plan::stage(args, stage as usize + 1)?.load()?;

    let shared = Shared::new(incoming, stage)?;
    let started = Instant::now();
    let results: Vec<Result<worker::Counts>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|number| {
                let random = Random::new(seed ^ (stage << 32) ^ (number << 16));
                let worker = Worker::new(&shared, random, format!("{stage}-{number}"));
                scope.spawn(move || worker.run())
            })
            .collect();
        while started.elapsed().as_secs() < seconds && !shared.stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
        }
        shared.stop.store(true, Ordering::Relaxed);
        let results = workers.into_iter().map(|worker| worker.join());
        results
            .map(|result| result.unwrap_or_else(|_| Err(Failure::new("a thread has panicked"))))
            .collect()
    });
    let mut totals = worker::Counts::default();
    for result in results {
        totals.add(&result?);
    }
    println!("@stress {stage} {} s {totals}", started.elapsed().as_secs());
    no_leak()?;

    let (outgoing, brake, held) = shared.into_plan();
    let sent = outgoing.send(stage + 1)?;
    brake.release()?;
    let failure = kexec::jump();
    drop((sent, held, brake));
    Err(failure)
}
