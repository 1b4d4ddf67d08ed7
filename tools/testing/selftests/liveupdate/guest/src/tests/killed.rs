// SPDX-License-Identifier: GPL-2.0

//! A task can be killed in operations that take long.
//!
//! The parent also holds the files and sessions, so that the death of a child does not wait for
//! their release.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    mapping::{large, Map},
    meminfo,
    process::{Child, End},
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
    wait::eventually,
};
use liveupdate::Device;
use rustix::io::Errno;
use std::{
    io,
    thread::sleep,
    time::{Duration, Instant},
};

const GIB: usize = 1 << 30;

const KILLS: u32 = 12;

/// Starts `act`, whose duration is `whole`, in a child repeatedly, and kills it a bit later each
/// time, at most after a quarter of the duration.
///
/// Completed steps may have to be undone, so that a process may continue for half of the time; a
/// process that does not check signals would need three quarters. The slowest run is ignored, since
/// the host may have been busy.
fn kill_often(stage: &mut Stage<'_>, whole: Duration, act: impl Fn() -> io::Result<()>) -> Result {
    let step = whole / 4 / KILLS;
    let mut times = Vec::new();
    for number in 1..=KILLS {
        let child = Child::start(&act)?;
        sleep(step * number);
        let start = Instant::now();
        child.kill();
        match child.wait()? {
            End::Done => break,
            end => ensure_eq!(end, End::Killed, "the end of a child"),
        }
        times.push(start.elapsed());
    }
    times.sort();
    let usual = times
        .get(times.len() / 2)
        .copied()
        .at("no child was killed")?;
    stage.note(format_args!(
        "{} ms of work killed {} times, that usually took {} ms, and {} ms at most",
        whole.as_millis(),
        times.len(),
        usual.as_millis(),
        times.last().map_or(0, Duration::as_millis)
    ));
    ensure!(
        usual < whole / 2,
        "a process usually continues for {} of {} ms",
        usual.as_millis(),
        whole.as_millis()
    );
    Ok(())
}

fn timed(act: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let start = Instant::now();
    act().map(|()| start.elapsed())
}

/// A file of this part of a GiB is used to estimate the total time.
const PARTS: usize = 8;

fn one_gib() -> Case {
    const NAME: &str = "killed";
    Case::two(
        "one_gib",
        |stage| {
            let file = large(GIB)?;
            // Only the first time, folios must be moved.
            create(NAME)?.preserve(&file, 1)?;
            let session = create(NAME)?;
            let whole = timed(|| session.preserve(&file, 1))?;
            drop(session);
            let session = create(NAME)?;
            kill_often(stage, whole, || session.preserve(&file, 1))?;
            // A killed child has left no state; a child that was not killed has preserved the file.
            if let Err(error) = session.preserve(&file, 1) {
                ensure_eq!(
                    liveupdate::errno(&error),
                    Some(libc::EEXIST),
                    "the error of PRESERVE_FD"
                );
            }
            let part = large(GIB / PARTS)?;
            session.preserve(&part, 2)?;
            stage.hold((session, file, part));
            Ok(())
        },
        |stage| {
            let session = retrieve(NAME)?;
            let whole = timed(|| session.retrieve(2).map(drop))? * PARTS as u32;
            kill_often(stage, whole, || session.retrieve(1).map(drop))?;
            let file = session.retrieve(1)?;
            Map::new(&file, GIB)?.check()?;
            Ok(session.finish()?)
        },
    )
    .hazard("1C.2")
}

/// FINISH of files that were not retrieved continues after the calling process is killed.
///
/// The process dies before the memory is free. On a busy machine it may be killed too early or too late,
/// so that there are several sessions, and the time until the kill is adapted.
fn finish_one_gib() -> Case {
    const SESSIONS: usize = 8;
    const EACH: usize = GIB / SESSIONS;
    /// The minimum memory that a session frees, in KiB.
    const MOST: u64 = (EACH as u64 >> 10) / 8 * 7;
    let name = |number: usize| format!("killed-finish-{number}");
    let finish = move |number: usize| -> io::Result<()> {
        let session = Device::open()?.retrieve_session(name(number))?;
        Ok(session.finish()?)
    };
    Case::two(
        "finish_one_gib",
        move |stage| {
            for number in 0..SESSIONS {
                let session = create(&name(number))?;
                let file = large(EACH)?;
                session.preserve(&file, 1)?;
                stage.hold((session, file));
            }
            Ok(())
        },
        move |stage| {
            let start = meminfo::free()?;
            let whole = timed(|| finish(0))?;
            let mut died_early = 0;
            let mut delay = whole / 8;
            for number in 1..SESSIONS {
                let before = meminfo::free()?;
                let child = Child::start(|| finish(number))?;
                sleep(delay);
                child.kill();
                let end = child.wait()?;
                ensure!(matches!(end, End::Killed | End::Done), "it ended: {end:?}");
                let early = end == End::Killed && meminfo::free()? < before + MOST;
                // Waits for a FINISH that has begun.
                match Device::open()?.retrieve_session(name(number)) {
                    Ok(session) => {
                        session.finish()?;
                        delay *= 2;
                    }
                    error => {
                        expect_errno(error, Errno::NOENT, "RETRIEVE_SESSION after the kill")?;
                        died_early += usize::from(early);
                        delay = if early { delay } else { delay / 2 };
                    }
                }
                eventually("the memory is not free", || {
                    Ok(meminfo::free()? > before + MOST)
                })?;
            }
            stage.note(format_args!(
                "{} ms of work; {died_early} of {} died before it was done",
                whole.as_millis(),
                SESSIONS - 1
            ));
            ensure!(died_early > 0, "each process lived until the work was done");
            ensure!(
                meminfo::free()? > start + MOST * SESSIONS as u64,
                "some of the memory is not free"
            );
            for number in 0..SESSIONS {
                let again = Device::open()?.retrieve_session(name(number));
                expect_errno(again, Errno::NOENT, "RETRIEVE_SESSION")?;
            }
            Ok(())
        },
    )
    .hazard("1C.2")
}

pub fn suite() -> Suite {
    Suite::new("killed", vec![one_gib()])
}

/// There is not enough memory for the other file of this size.
pub fn finish_suite() -> Suite {
    Suite::new("killed_finish", vec![finish_one_gib()])
}
