// SPDX-License-Identifier: GPL-2.0

//! Each operation fails at the first, the second, the third... possible place, until it
//! succeeds. After each failure, the state is unchanged, and another attempt succeeds.

use crate::support::{
    error::{ensure, At, Failure, Result},
    fault::{Faults, Outcome},
    kexec, memfd, meminfo,
    pattern::Pattern,
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, hold_files, retrieve},
    test_device::TestDevice,
};
use liveupdate::Device;
use rustix::{fs::SealFlags, io::Errno};
use std::{error::Error, fs::File, io};

/// A limit that exceeds the number of places of all operations.
const LIMIT: u64 = 400;
/// The number of repetitions of a sweep to detect leaks.
const ROUNDS: usize = 4;
/// The allowed variation of free memory over all rounds of a sweep, in KiB.
const TOLERANCE: u64 = 1024;

/// The expected errors of an operation.
fn check_error<T>(result: io::Result<T>, nth: u64, what: &str) -> Result {
    let errno = result.as_ref().err().and_then(liveupdate::errno);
    // Without memory for its inode, creating a memfd fails with ENOSPC.
    if what == "RETRIEVE_FD" && errno == Some(Errno::NOSPC.raw_os_error()) {
        return Ok(());
    }
    let what = format!("{what} with failure {nth}");
    expect_errno(result, Errno::NOMEM, &what)
}

/// The result of a sweep.
#[derive(Clone, Copy, Default)]
struct Sweep {
    /// Places that made the operation fail.
    failed: u64,
    /// Places whose failure it tolerated.
    survived: u64,
}

impl Sweep {
    fn count<T>(&mut self, outcome: &Outcome<T>) {
        if outcome.result.is_err() {
            self.failed += 1;
        } else {
            self.survived += 1;
        }
    }

    fn note(&self, stage: &Stage<'_>, what: &str) -> Result {
        stage.note(format_args!(
            "{what}: {} places to fail, {} of them are tolerated",
            self.failed + self.survived,
            self.survived
        ));
        ensure!(self.failed != 0, "no place could be made to fail");
        Ok(())
    }
}

/// The check after a call with this result.
type Check<T> = Box<dyn FnOnce(io::Result<T>) -> Result>;

/// Makes an operation fail at each place. `act` calls it, and returns the check for the state
/// after it.
fn sweep<T>(
    what: &str,
    mut act: impl FnMut(u64) -> Result<(Outcome<T>, Check<T>)>,
) -> Result<Sweep> {
    let mut sweep = Sweep::default();
    for nth in 1..LIMIT {
        let (outcome, check) = act(nth)?;
        let failed = outcome.failed;
        if failed {
            sweep.count(&outcome);
        }
        check(outcome.result).at(format_args!("{what} with failure {nth}"))?;
        if !failed {
            return Ok(sweep);
        }
    }
    Err(Failure::new(format!(
        "{what} does not succeed within the limit"
    )))
}

/// Repeats a sweep, and compares the free memory.
fn repeat(stage: &Stage<'_>, what: &str, mut once: impl FnMut() -> Result<Sweep>) -> Result {
    // Permanent allocations are made the first time.
    let first = once()?;
    let before = meminfo::free_without_caches()?;
    let mut failures = 0;
    for _ in 0..ROUNDS {
        failures += once()?.failed;
    }
    let lost = before.saturating_sub(meminfo::free_without_caches()?);
    first.note(stage, what)?;
    stage.note(format_args!(
        "{what}: {lost} KiB less after {failures} failures"
    ));
    ensure!(
        lost <= TOLERANCE,
        "{lost} KiB are lost after {failures} failures"
    );
    Ok(())
}

const DATA: Pattern = Pattern {
    seed: 650,
    len: 500_000,
};

/// A file with data and a hole.
fn file() -> Result<File> {
    let file = memfd::with(DATA)?;
    file.set_len(DATA.len + 40_000).at("set the size")?;
    Ok(file)
}

fn preserve_fd() -> Case {
    Case::one("preserve_fd", |stage| {
        let faults = Faults::new()?;
        repeat(stage, "PRESERVE_FD", || {
            sweep("PRESERVE_FD", |nth| {
                let session = create("sweep-preserve")?;
                let file = file()?;
                let outcome = faults.call(nth, || session.preserve(&file, 7))?;
                let check = Box::new(move |result: io::Result<()>| {
                    if result.is_err() {
                        check_error(result, nth, "it")?;
                        // The file is not preserved.
                        file.set_len(DATA.len + 50_000).at("grow the file")?;
                        file.set_len(DATA.len + 40_000).at("shrink the file")?;
                        session.preserve(&file, 7).at("the second try")?;
                    }
                    DATA.check(&file, 0)?;
                    drop(session);
                    memfd::seal(&file, SealFlags::WRITE | SealFlags::GROW)?;
                    Ok(())
                });
                Ok((outcome, check as Check<_>))
            })
        })
    })
}

fn open() -> Case {
    Case::one("open", |stage| {
        let faults = Faults::new()?;
        repeat(stage, "open", || {
            sweep("open", |nth| {
                let outcome = faults.call(nth, Device::open)?;
                let check = Box::new(move |result: io::Result<Device>| match result {
                    Err(_) => {
                        check_error(result, nth, "it")?;
                        drop(Device::open().at("the second try")?);
                        Ok(())
                    }
                    Ok(_) => Ok(()),
                });
                Ok((outcome, check as Check<_>))
            })
        })
    })
}

fn create_session() -> Case {
    Case::one("create_session", |stage| {
        let faults = Faults::new()?;
        repeat(stage, "CREATE_SESSION", || {
            sweep("CREATE_SESSION", |nth| {
                let device = Device::open()?;
                let outcome = faults.call(nth, || device.create_session("sweep-create"))?;
                let check = Box::new(move |result: io::Result<_>| match result {
                    Err(_) => {
                        check_error(result, nth, "it")?;
                        let session = device.create_session("sweep-create");
                        drop(session.at("the second try")?);
                        Ok(())
                    }
                    Ok(_) => Ok(()),
                });
                Ok((outcome, check as Check<_>))
            })
        })
    })
}

/// The kexec fails; without injected failures, because a handler refuses to freeze its file.
fn freeze() -> Case {
    const NAMES: [&str; 2] = ["sweep-freeze-1", "sweep-freeze-2"];
    Case::two(
        "freeze",
        |stage| {
            let device = TestDevice::open(TestDevice::C)?;
            let faults = Faults::new()?;
            for name in NAMES {
                let session = create(name)?;
                for token in 0..2 {
                    let file = file()?;
                    session.preserve(&file, token)?;
                    stage.hold(file);
                }
                stage.hold(session);
            }
            let last = create("sweep-freeze-last")?;
            device.write("fail-freeze 5")?;
            last.preserve(&device, 1)?;
            kexec::Plan::dry()?.load()?;
            repeat(stage, "reboot(KEXEC)", || {
                sweep("reboot(KEXEC)", |nth| {
                    let outcome = faults.call(nth, || Err::<(), _>(kexec::try_jump()))?;
                    let failed = outcome.failed;
                    let check = Box::new(move |result: io::Result<()>| {
                        if failed {
                            check_error(result, nth, "it")?;
                        } else {
                            expect_errno(result, Errno::IO, "it")?;
                        }
                        // Sessions can be changed: nothing is frozen.
                        let more = create("sweep-freeze-more")?;
                        more.preserve(&file()?, 1).at("preserve another file")
                    });
                    Ok((outcome, check as Check<_>))
                })
            })?;
            drop(last);
            Ok(())
        },
        |_| {
            for name in NAMES {
                let session = retrieve(name)?;
                for token in 0..2 {
                    DATA.check(&session.retrieve(token)?.into(), 0)?;
                }
                session.finish()?;
            }
            Ok(())
        },
    )
}

/// Files and sessions for the second kernel.
const MANY: u64 = 100;

fn retrieve_fd() -> Case {
    const NAME: &str = "sweep-retrieve";
    let pattern = |token| Pattern::new(660 + token, 300_000);
    Case::two(
        "retrieve_fd",
        move |stage| {
            Faults::new()?;
            hold_files(stage, NAME, 1..MANY, pattern)
        },
        move |stage| {
            let faults = Faults::new()?;
            let session = retrieve(NAME)?;
            let mut sweep = Sweep::default();
            for token in 1..MANY {
                let outcome = faults.call(token, || session.retrieve(token))?;
                if outcome.failed {
                    sweep.count(&outcome);
                }
                let file = match outcome.result {
                    Ok(file) => file,
                    result => {
                        check_error(result, token, "RETRIEVE_FD")?;
                        let again = session.retrieve(token);
                        again.at(format_args!("the second try after failure {token}"))?
                    }
                };
                memfd::check(file, pattern(token))?;
                if !outcome.failed {
                    sweep.note(stage, "RETRIEVE_FD")?;
                    return Ok(session.finish()?);
                }
            }
            Err(Failure::new("there are too few files"))
        },
    )
    .hazard("1A.3d")
}

/// Repeated failures with the same file, at all places; completed steps are kept.
fn retrieve_fd_by_chance() -> Case {
    const NAME: &str = "sweep-chance";
    const FILES: u64 = 20;
    let pattern = |token| Pattern::new(800 + token, 3_000_000);
    Case::two(
        "retrieve_fd_by_chance",
        move |stage| {
            Faults::new()?;
            hold_files(stage, NAME, 1..=FILES, pattern)
        },
        move |stage| {
            let faults = Faults::new()?;
            let session = retrieve(NAME)?;
            let mut failures = 0;
            for token in 1..=FILES {
                // With decreasing probability of failures, it finally succeeds.
                for chance in (0..=50).rev() {
                    let file = faults.call_with_chance(chance, || session.retrieve(token))?;
                    match file {
                        Ok(file) => {
                            memfd::check(file, pattern(token))?;
                            break;
                        }
                        result if chance != 0 => check_error(result, token, "RETRIEVE_FD")?,
                        Err(error) => return Err(error).at("without failures"),
                    }
                    failures += 1;
                }
            }
            stage.note(format_args!("{FILES} files after {failures} failures"));
            ensure!(failures != 0, "nothing has failed");
            Ok(session.finish()?)
        },
    )
    .hazard("1A.3d")
}

/// The device was not used before: the handed over data is read now, and reading it fails.
///
/// Must be the first case, since it tests the first use.
fn first_use() -> Case {
    const NAME: &str = "sweep-first";
    Case::two(
        "first_use",
        |stage| {
            Faults::new()?;
            let session = create(NAME)?;
            for token in 0..20 {
                let file = memfd::with(Pattern::new(token, 100))?;
                session.preserve(&file, token)?;
                stage.hold(file);
            }
            stage.hold(session);
            Ok(())
        },
        |stage| {
            let faults = Faults::new()?;
            let mut failures = 0;
            for nth in 1..LIMIT {
                let device = faults.call(nth, Device::open)?;
                let failed = device.failed;
                match device.result {
                    Err(_) => check_error(device.result, nth, "the first open")?,
                    Ok(_) if !failed => break,
                    Ok(_) => {}
                }
                failures += 1;
            }
            stage.note(format_args!("the first open: {failures} places to fail"));
            let device = Device::open()?;
            failures = 0;
            for nth in 1..LIMIT {
                let session = faults.call(nth, || device.retrieve_session(NAME))?;
                let failed = session.failed;
                match session.result {
                    Err(_) => check_error(session.result, nth, "the first RETRIEVE_SESSION")?,
                    Ok(session) => {
                        for token in 0..20 {
                            memfd::check(session.retrieve(token)?, Pattern::new(token, 100))?;
                        }
                        if !failed {
                            stage.note(format_args!(
                                "the first RETRIEVE_SESSION: {failures} places to fail"
                            ));
                            return Ok(session.finish()?);
                        }
                    }
                }
                failures += 1;
            }
            Err(Failure::new("RETRIEVE_SESSION never succeeded"))
        },
    )
    .hazard("1A.5")
}

fn retrieve_session() -> Case {
    let name = |number| format!("sweep-session-{number}");
    Case::two(
        "retrieve_session",
        move |stage| {
            Faults::new()?;
            for number in 1..MANY {
                let session = create(&name(number))?;
                let file = memfd::with(Pattern::new(number, 100))?;
                session.preserve(&file, number)?;
                stage.hold((session, file));
            }
            Ok(())
        },
        move |stage| {
            let faults = Faults::new()?;
            let mut sweep = Sweep::default();
            for number in 1..MANY {
                let device = Device::open()?;
                let name = name(number);
                let outcome = faults.call(number, || device.retrieve_session(&name))?;
                if outcome.failed {
                    sweep.count(&outcome);
                }
                let session = match outcome.result {
                    Ok(session) => session,
                    result => {
                        check_error(result, number, "RETRIEVE_SESSION")?;
                        device.retrieve_session(&name).at("the second try")?
                    }
                };
                memfd::check(session.retrieve(number)?, Pattern::new(number, 100))?;
                session.finish()?;
                if !outcome.failed {
                    return sweep.note(stage, "RETRIEVE_SESSION");
                }
            }
            Err(Failure::new("there are too few sessions"))
        },
    )
}

fn finish() -> Case {
    const NAME: &str = "sweep-finish";
    Case::two(
        "finish",
        |stage| {
            Faults::new()?;
            let session = create(NAME)?;
            let files = [file()?, file()?];
            session.preserve(&files[0], 1)?;
            session.preserve(&files[1], 2)?;
            stage.hold((session, files));
            Ok(())
        },
        |stage| {
            let faults = Faults::new()?;
            let mut session = retrieve(NAME)?;
            DATA.check(&session.retrieve(2)?.into(), 0)?;
            for nth in 1..LIMIT {
                let mut back = None;
                let outcome = faults.call(nth, || {
                    session.finish().map_err(|error| {
                        let errno = error.source().and_then(|source| {
                            liveupdate::errno(source.downcast_ref::<io::Error>()?)
                        });
                        back = Some(error.into_session());
                        io::Error::from_raw_os_error(errno.unwrap_or(0))
                    })
                })?;
                match outcome.result {
                    Ok(()) => {
                        stage.note(format_args!(
                            "FINISH: {} places to fail, and {} that were tolerated",
                            nth - 1,
                            u64::from(outcome.failed)
                        ));
                        return expect_errno(
                            Device::open()?.retrieve_session(NAME),
                            Errno::NOENT,
                            "RETRIEVE_SESSION",
                        );
                    }
                    result => check_error(result, nth, "FINISH")?,
                }
                session = back.at("the session is gone")?;
                DATA.check(&session.retrieve(1)?.into(), 0)?;
            }
            Err(Failure::new("FINISH never succeeded"))
        },
    )
}

pub fn suite() -> Suite {
    let cases = vec![
        first_use(),
        open(),
        create_session(),
        preserve_fd(),
        freeze(),
        retrieve_session(),
        retrieve_fd(),
        retrieve_fd_by_chance(),
        finish(),
    ];
    Suite::new("sweep", cases)
}
