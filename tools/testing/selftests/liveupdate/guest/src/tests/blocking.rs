// SPDX-License-Identifier: GPL-2.0

//! No process can delay a live update.

mod shutdown;

use crate::support::{
    error::{ensure, At, Failure, Result},
    kexec, memfd,
    pattern::Pattern,
    process::Thread,
    registry::{Case, Suite},
    sessions::{create, expect_errno, retrieve},
    test_device::{TestDevice, NO_HANDLER},
    userfault::{StuckPage, StuckWriter},
    wait::eventually,
};
use crate::tests::hazards::not_in_c;
use liveupdate::raw::{self, Command, Finish, GetName, RetrieveFd};
use rustix::io::Errno;
use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::FileExt},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

/// Tries to start an image that must be refused; returns the error and the duration.
fn refused_jump() -> Result<(io::Error, Duration)> {
    kexec::load_legacy().at("kexec_load")?;
    let start = Instant::now();
    let error = kexec::try_jump();
    Ok((error, start.elapsed()))
}

/// Fails unless the image is refused while a task is blocked.
///
/// A kexec that waits for the blocked task would not return, or fail with `EBUSY`.
fn refused_at_once() -> Result {
    const TRIES: u64 = 5;
    for _ in 0..TRIES {
        let (error, _) = refused_jump()?;
        if !given_up(&error) {
            return expect_errno(Err::<(), _>(error), Errno::INVAL, "reboot(KEXEC)");
        }
        // On a busy machine, operations may not have stopped within a second.
    }
    Err(Failure::new("every kexec has timed out"))
}

/// Returns whether a kexec has failed since an operation did not stop in time.
fn given_up(error: &io::Error) -> bool {
    liveupdate::errno(error) == Some(Errno::BUSY.raw_os_error())
}

/// The kernel writes its result to a page whose page fault is not handled.
fn answer_gets_stuck() -> Case {
    let pattern = Pattern::new(600, 100_000);
    Case::two(
        "answer_gets_stuck",
        move |stage| {
            let session = Arc::new(create("blocking-answer")?);
            let file = memfd::with(pattern)?;
            session.preserve(&file, 1)?;
            let command = GetName::default();
            let mut bytes = [0u8; size_of::<GetName>()];
            bytes[..4].copy_from_slice(&command.size.to_ne_bytes());
            let page = Arc::new(StuckPage::unwritable(&bytes)?);
            let (theirs, arg) = (session.clone(), page.clone());
            thread::spawn(move || {
                // SAFETY: The page has room for the command, and has no other users.
                let _ = unsafe { raw::ioctl(theirs.as_fd(), GetName::REQUEST, arg.ptr()) };
            });
            ensure!(page.wait()?, "no task is blocked");
            // Other tasks can use the session while the task is blocked.
            let other = memfd::with(pattern)?;
            session.preserve(&other, 2)?;
            stage.hold((session, file, other, page));
            Ok(())
        },
        move |_| {
            let session = retrieve("blocking-answer")?;
            memfd::check(session.retrieve(1)?, pattern)?;
            memfd::check(session.retrieve(2)?, pattern)?;
            Ok(session.finish()?)
        },
    )
    .hazard("1C.1")
}

/// The same for a retrieved file: neither the session nor the next kexec is blocked.
fn retrieved_answer_gets_stuck() -> Case {
    let pattern = Pattern::new(601, 200_000);
    Case::two(
        "retrieved_answer_gets_stuck",
        move |stage| {
            let session = create("blocking-retrieved")?;
            let file = memfd::with(pattern)?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        move |stage| {
            let session = Arc::new(retrieve("blocking-retrieved")?);
            let mut bytes = [0u8; size_of::<RetrieveFd>()];
            bytes[..4].copy_from_slice(&(size_of::<RetrieveFd>() as u32).to_ne_bytes());
            bytes[8..].copy_from_slice(&1u64.to_ne_bytes());
            let page = Arc::new(StuckPage::unwritable(&bytes)?);
            let (theirs, arg) = (session.clone(), page.clone());
            thread::spawn(move || {
                // SAFETY: The page has room for the command, and has no other users.
                let _ = unsafe { raw::ioctl(theirs.as_fd(), RetrieveFd::REQUEST, arg.ptr()) };
            });
            ensure!(page.wait()?, "no task is blocked");
            let (done, is_done) = std::sync::mpsc::channel();
            let theirs = session.clone();
            thread::spawn(move || {
                let result = theirs
                    .retrieve(1)
                    .map_err(Failure::from)
                    .and_then(|fd| memfd::check(fd, pattern))
                    .and_then(|_| Ok(raw::call(theirs.as_fd(), &mut Finish::default())?));
                let _ = done.send(result.map_err(|failure| failure.to_string()));
            });
            stage.hold((session, page));
            match is_done.recv_timeout(Duration::from_secs(20)) {
                Ok(result) => result.map_err(Failure::new),
                Err(_) => Err(Failure::new("another thread is blocked as well")),
            }
        },
    )
}

/// A thread that preserves `file` in `session`.
fn preserve_in_thread(
    session: &Arc<liveupdate::OutgoingSession>,
    file: &File,
    token: u64,
) -> Result<Thread<io::Result<()>>> {
    let session = session.clone();
    let file = file.try_clone().at("dup")?;
    Thread::start(move || session.preserve(&file, token))
}

/// A kexec is started while a large file is being preserved.
///
/// The kexec is refused, since its image cannot take over data. It must return while the file is
/// still being preserved, and the preservation must succeed. On a busy machine, the file may be
/// preserved before the kexec has begun, so that there are several attempts.
fn kexec_during_preserve() -> Case {
    const TRIES: u64 = 10;
    let pattern = Pattern::new(602, 384 << 20);
    Case::one("kexec_during_preserve", move |stage| {
        let small = memfd::with(Pattern::new(603, 1000))?;
        let keep = create("blocking-keep-long")?;
        keep.preserve(&small, 1)?;
        let file = memfd::with(pattern)?;
        // The duration without other operations.
        let start = Instant::now();
        {
            let trial = create("blocking-trial")?;
            trial.preserve(&file, 1)?;
        }
        let alone = start.elapsed();

        for _ in 0..TRIES {
            let session = Arc::new(create("blocking-long")?);
            let worker = preserve_in_thread(&session, &file, 2)?;
            thread::sleep(alone / 10);
            let (error, took) = refused_jump()?;
            let stopped = !worker.is_finished();
            worker.join()?.at("the file that was being preserved")?;
            if given_up(&error) {
                continue;
            }
            expect_errno(Err::<(), _>(error), Errno::INVAL, "reboot(KEXEC)")?;
            if stopped {
                stage.note(format_args!(
                    "PRESERVE_FD takes {} ms, a kexec during it {} ms",
                    alone.as_millis(),
                    took.as_millis()
                ));
                return Ok(());
            }
        }
        Err(Failure::new(format!(
            "in all of {TRIES} attempts, the kexec returned after the file was preserved"
        )))
    })
    .hazard("1C.2")
}

/// A task holds the lock of a file that is about to be preserved, and does not release it.
fn writer_gets_stuck() -> Case {
    let pattern = Pattern::new(604, 70_000);
    Case::one("writer_gets_stuck", move |_| {
        let session = Arc::new(create("blocking-writer")?);
        let small = memfd::with(Pattern::new(603, 1000))?;
        session.preserve(&small, 1)?;
        let file = memfd::with(pattern)?;

        let writer = StuckWriter::new(&file)?;
        let worker = preserve_in_thread(&session, &file, 2)?;
        worker.wait_until_asleep()?;
        let refusal = refused_at_once();
        writer.release()?;
        worker.join()?.at("the file that was being preserved")?;
        refusal
    })
    .hazard("1C.2")
}

/// Threads that write to a file continuously do not prevent its preservation.
///
/// The number of their writes until it is preserved is limited, not the time.
fn preserve_among_writers() -> Case {
    const LEN: u64 = 8 << 20;
    const TRIES: u64 = 5;
    /// The maximum number of writes of all threads while a file is being preserved, on average.
    const ROUNDS: u64 = 20;
    Case::one("preserve_among_writers", move |stage| {
        let session = create("blocking-writers")?;
        let mut total = 0;
        for token in 0..TRIES {
            let file = memfd::with(Pattern::new(606, LEN))?;
            let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
            let write = || {
                let bytes = vec![7; LEN as usize];
                // The number of writes is limited, so that a failure does not hang.
                while !stop.load(Relaxed) && rounds.load(Relaxed) < 20 * ROUNDS {
                    file.write_all_at(&bytes, 0).at("write")?;
                    rounds.fetch_add(1, Relaxed);
                }
                Ok(())
            };
            let needed = thread::scope(|scope| {
                let writers: Vec<_> = (0..3).map(|_| scope.spawn(write)).collect();
                let result = eventually("no thread writes", || Ok(rounds.load(Relaxed) >= 6))
                    .and_then(|()| {
                        let before = rounds.load(Relaxed);
                        session.preserve(&file, token)?;
                        Ok(rounds.load(Relaxed) - before)
                    });
                stop.store(true, Relaxed);
                for writer in writers {
                    let written: Result = writer
                        .join()
                        .map_err(|_| Failure::new("a writer has panicked"))?;
                    written?;
                }
                result
            })?;
            stage.note(format_args!(
                "{needed} writes while the file was being preserved"
            ));
            total += needed;
        }
        ensure!(
            total <= TRIES * ROUNDS,
            "{total} writes while {TRIES} files were being preserved"
        );
        Ok(())
    })
    .hazard_unseen("5.6", not_in_c::IN_LINE)
}

/// A task holds the lock of a preserved file, and its session is closed.
fn close_gets_stuck() -> Case {
    let pattern = Pattern::new(605, 70_000);
    Case::one("close_gets_stuck", move |_| {
        let keep = create("blocking-keep")?;
        let small = memfd::with(Pattern::new(603, 1000))?;
        keep.preserve(&small, 1)?;
        let session = create("blocking-close")?;
        let file = memfd::with(pattern)?;
        session.preserve(&file, 1)?;

        let writer = StuckWriter::new(&file)?;
        let closer = Thread::start(move || drop(session))?;
        closer.wait_until_asleep()?;
        let refusal = refused_at_once();
        writer.release()?;
        closer.join()?;
        refusal
    })
    .hazard("1C.2")
}

/// A handler does not stop when a kexec waits for it: the kexec fails.
///
/// It fails after a quarter of the time of the handler, unless the machine is busy: there are
/// several attempts.
fn handler_gets_stuck() -> Case {
    const TRIES: u64 = 5;
    Case::one("handler_gets_stuck", move |_| {
        for _ in 0..TRIES {
            let device = TestDevice::open(TestDevice::C)?;
            let session = Arc::new(create("blocking-handler")?);
            // The maximum delay of the handler.
            device.write("delay-preserve 4000")?;
            let file = File::from(device.as_fd().try_clone_to_owned().at("dup")?);
            let worker = preserve_in_thread(&session, &file, 1)?;
            worker.wait_until_asleep()?;
            let (error, _) = refused_jump()?;
            let goes_on = !worker.is_finished();
            worker.join()?.at("the file that was being preserved")?;
            if given_up(&error) {
                if !goes_on {
                    continue;
                }
                return Ok(());
            }
            // The handler was done before.
            expect_errno(Err::<(), _>(error), Errno::INVAL, "reboot(KEXEC)")?;
        }
        Err(Failure::new("no kexec has timed out"))
    })
    .hazard_unseen("1C.15", NO_HANDLER)
}

/// Sessions are closed during a kexec; those that are not closed are handed over.
fn closed_during_kexec() -> Case {
    const SESSIONS: u64 = 120;
    const KEPT: u64 = 40;
    let pattern = |number: u64| Pattern::new(700 + number, 5000);
    let name = |number: u64| format!("blocking-closing-{number}");
    Case::two(
        "closed_during_kexec",
        move |stage| {
            let mut closing = Vec::new();
            for number in 0..SESSIONS {
                let session = create(&name(number))?;
                let file = memfd::with(pattern(number))?;
                session.preserve(&file, number)?;
                if number < KEPT {
                    stage.hold((session, file));
                } else {
                    closing.push((session, file));
                }
            }
            thread::spawn(move || {
                for pair in closing {
                    drop(pair);
                    thread::sleep(Duration::from_millis(20));
                }
            });
            Ok(())
        },
        move |stage| {
            let mut arrived = 0;
            for number in 0..SESSIONS {
                let session = match retrieve(&name(number)) {
                    Err(_) if number >= KEPT => continue,
                    session => session.at(format_args!("session {number}"))?,
                };
                memfd::check(session.retrieve(number)?, pattern(number))?;
                session.finish()?;
                arrived += 1;
            }
            stage.note(format_args!(
                "{arrived} of {SESSIONS} sessions were handed over"
            ));
            Ok(())
        },
    )
}

pub fn suite() -> Suite {
    let mut cases = vec![
        answer_gets_stuck(),
        retrieved_answer_gets_stuck(),
        kexec_during_preserve(),
        writer_gets_stuck(),
        preserve_among_writers(),
        close_gets_stuck(),
        handler_gets_stuck(),
        closed_during_kexec(),
    ];
    cases.extend(shutdown::cases());
    Suite::new("blocking", cases)
}
