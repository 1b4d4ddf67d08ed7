// SPDX-License-Identifier: GPL-2.0

//! A kexec before the sessions of the previous one are finished: they are carried over.

pub mod failed;
pub mod off;
mod steps;
pub mod unread;

use self::steps::{fill, gone, refused, take, FILES, NEW};
use super::handlers::dependencies::{fill_chain, take_chain};
use crate::support::{
    error::{ensure, ensure_eq, At, Failure},
    kernel_log::kernel_log,
    kexec, memfd,
    process::drop_ipc_lock,
    registry::{Case, Suite},
    sessions::{create, expect_errno, retrieve},
    test_device::TestDevice,
    userfault::StuckWriter,
};
use liveupdate::Device;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::{Resource, Rlimit},
};
use std::{fs::File, os::unix::fs::MetadataExt, sync::mpsc, thread, time::Duration};

/// The session is not retrieved in between.
fn untouched() -> Case {
    const NAME: &str = "carry-untouched";
    Case::chain(
        "untouched",
        [
            |stage| fill(stage, NAME),
            |_| Ok(()),
            |_| Ok(()),
            |_| take(NAME),
            |_| gone(NAME),
        ],
    )
    .hazard("1A.7")
}

/// The session is only opened.
fn opened() -> Case {
    const NAME: &str = "carry-opened";
    Case::chain(
        "opened",
        [
            |stage| fill(stage, NAME),
            |stage| {
                stage.hold(retrieve(NAME)?);
                Ok(())
            },
            |_| retrieve(NAME).map(drop),
            |_| take(NAME),
            |_| gone(NAME),
        ],
    )
    .hazard("1A.7")
}

/// Some files are retrieved; one of them is written to, and its size changed.
fn partly() -> Case {
    const NAME: &str = "carry-partly";
    Case::chain(
        "partly_retrieved",
        [
            |stage| fill(stage, NAME),
            |stage| {
                let session = retrieve(NAME)?;
                let file = memfd::check(session.retrieve(1)?, FILES[0].1)?;
                NEW.write(&file, 0)?;
                memfd::check(session.retrieve(2)?, FILES[1].1)?;
                stage.hold((session, file));
                Ok(())
            },
            |_| {
                let session = retrieve(NAME)?;
                let file = memfd::check(session.retrieve(1)?, NEW)?;
                FILES[0].1.write(&file, 0)?;
                Ok(())
            },
            |_| take(NAME),
            |_| gone(NAME),
        ],
    )
    .hazard("1A.7")
    .hazard("1E.6")
}

/// All files are retrieved, and the agent dies.
fn not_finished() -> Case {
    const NAME: &str = "carry-unfinished";
    Case::chain(
        "retrieved_but_not_finished",
        [
            |stage| fill(stage, NAME),
            |_| {
                let session = retrieve(NAME)?;
                for (token, pattern) in FILES {
                    memfd::check(session.retrieve(token)?, pattern)?;
                }
                Ok(())
            },
            |_| {
                ensure!(
                    kernel_log()?.contains("liveupdate number: 2"),
                    "the kernel does not count updates"
                );
                take(NAME)
            },
            |_| gone(NAME),
        ],
    )
    .hazard("1A.7")
}

/// Finished sessions are not carried over, and new ones are handed over with the others.
fn with_others() -> Case {
    const NAME: &str = "carry-with-others";
    Case::chain(
        "with_new_sessions",
        [
            |stage| {
                fill(stage, NAME)?;
                fill(stage, "carry-finished")
            },
            |stage| {
                take("carry-finished")?;
                fill(stage, "carry-new")
            },
            |_| {
                gone("carry-finished")?;
                take("carry-new")?;
                take(NAME)
            },
        ],
    )
    .hazard("1A.7")
}

/// The files of other handlers.
fn other_handler() -> Case {
    const NAME: &str = "carry-handler";
    const UNTOUCHED: &str = "carry-handler-untouched";
    Case::chain(
        "other_handler",
        [
            |stage| {
                for name in [NAME, UNTOUCHED] {
                    let device = TestDevice::open(TestDevice::C)?;
                    device.write("17")?;
                    let session = create(name)?;
                    session.preserve(&device, 1)?;
                    stage.hold((session, device));
                }
                Ok(())
            },
            |_| {
                let session = retrieve(NAME)?;
                TestDevice::from(session.retrieve(1)?).write("18")
            },
            |_| {
                for (name, value) in [(NAME, 18), (UNTOUCHED, 17)] {
                    let session = retrieve(name)?;
                    let device = TestDevice::from(session.retrieve(1)?);
                    ensure_eq!(device.value()?, value, "the value of {name}");
                    session.finish()?;
                }
                Ok(())
            },
        ],
    )
}

/// An aborted kexec changes nothing, and can be repeated.
fn called_off() -> Case {
    const NAME: &str = "carry-called-off";
    const OTHER: &str = "carry-called-off-other";
    Case::chain(
        "called_off",
        [
            |stage| {
                fill(stage, NAME)?;
                fill(stage, OTHER)
            },
            |stage| {
                let session = retrieve(NAME)?;
                memfd::check(session.retrieve(1)?, FILES[0].1)?;
                let device = TestDevice::open(TestDevice::C)?;
                let failing = create("carry-failing")?;
                failing.preserve(&device, 1)?;
                kexec::Plan::dry()?.load()?;
                for _ in 0..3 {
                    device.write("fail-freeze 5")?;
                    refused(Errno::IO)?;
                }
                device.write("fail-freeze 0")?;
                drop(failing);
                // The sessions that were to be carried over can be used again.
                let file: File = session.retrieve(9)?.into();
                FILES[2].1.check(&file, 0)?;
                file.set_len(5).at("shrink the file")?;
                file.set_len(FILES[2].1.len).at("enlarge the file")?;
                FILES[2].1.write(&file, 0)?;
                take(OTHER)?;
                stage.hold(session);
                Ok(())
            },
            |_| {
                gone(OTHER)?;
                take(NAME)
            },
        ],
    )
}

/// The names of sessions in the next kernel must be unique.
fn same_name() -> Case {
    const NAME: &str = "carry-same-name";
    Case::chain(
        "same_name",
        [
            |stage| fill(stage, NAME),
            |stage| {
                // An agent retrieves all files, and does not finish the session.
                let old = retrieve(NAME)?;
                for (token, pattern) in FILES {
                    memfd::check(old.retrieve(token)?, pattern)?;
                }
                drop(old);
                expect_errno(
                    Device::open()?.create_session(NAME),
                    Errno::EXIST,
                    "creating a session with the name of an unfinished one",
                )?;
                // An agent that has the old session open can create the new one, and close or
                // finish either.
                let old = retrieve(NAME)?;
                let new = create(NAME)?;
                new.preserve(memfd::with(NEW)?, 1)?;
                kexec::Plan::dry()?.load()?;
                refused(Errno::EXIST)?;
                drop(old);
                ensure!(
                    kernel_log()?.contains("was closed before FINISH"),
                    "the kernel log does not report the conflict"
                );
                refused(Errno::EXIST)?;
                drop(new);
                // After the old session is finished, the kexec succeeds.
                take(NAME)?;
                fill(stage, NAME)
            },
            |_| take(NAME),
        ],
    )
    .hazard("5.8")
}

/// Sessions that are carried over also need an image that can take over memory.
fn legacy_image() -> Case {
    const NAME: &str = "carry-legacy";
    Case::chain(
        "image_without_handover",
        [
            |stage| fill(stage, NAME),
            |_| {
                kexec::load_legacy().at("kexec_load")?;
                refused(Errno::INVAL)
            },
            |_| take(NAME),
        ],
    )
}

/// A task holds the lock of a file that must be preserved again: the kexec does not hang.
fn stuck_writer() -> Case {
    const NAME: &str = "carry-stuck-writer";
    Case::chain(
        "stuck_writer",
        [
            |stage| fill(stage, NAME),
            |_| {
                let session = retrieve(NAME)?;
                let file: File = session.retrieve(1)?.into();
                kexec::Plan::dry()?.load()?;
                let writer = StuckWriter::new(&file)?;
                let (tell, told) = mpsc::channel();
                let kexec = thread::spawn(move || tell.send(kexec::try_jump()));
                let refusal = told.recv_timeout(Duration::from_secs(60));
                writer.release()?;
                let error = refusal.map_err(|_| Failure::new("reboot(KEXEC) does not return"))?;
                expect_errno(Err::<(), _>(error), Errno::BUSY, "reboot(KEXEC)")?;
                let _ = kexec.join();
                FILES[0].1.write(&file, 0)
            },
            |_| take(NAME),
        ],
    )
    .hazard("5.6")
}

/// The limit for locked memory of the process that starts the next kernel does not apply.
///
/// This is the last case, since it changes the process that starts the next kernel.
fn limited_caller() -> Case {
    const NAME: &str = "carry-limited";
    Case::chain(
        "limited_caller",
        [
            |stage| fill(stage, NAME),
            |stage| {
                let session = retrieve(NAME)?;
                for (token, pattern) in FILES {
                    memfd::check(session.retrieve(token)?, pattern)?;
                }
                stage.hold(session);
                let limit = Rlimit {
                    current: Some(65536),
                    maximum: Some(65536),
                };
                rustix::process::setrlimit(Resource::Memlock, limit).at("setrlimit")?;
                drop_ipc_lock()
            },
            |_| take(NAME),
        ],
    )
    .hazard("5.5")
}

/// Changes of a retrieved file by others do not abort the kexec. Until FINISH, its open flags and its mode
/// are those at PRESERVE_FD.
fn changed_by_others() -> Case {
    const NAME: &str = "carry-changed";
    Case::chain(
        "changed_by_others",
        [
            |stage| fill(stage, NAME),
            |stage| {
                let session = retrieve(NAME)?;
                let file: File = session.retrieve(1)?.into();
                rustix::fs::fcntl_setfl(&file, OFlags::APPEND).at("F_SETFL")?;
                let file: File = session.retrieve(9)?.into();
                rustix::fs::fchmod(&file, Mode::from_raw_mode(0o400)).at("fchmod")?;
                stage.hold(session);
                Ok(())
            },
            |_| {
                let session = retrieve(NAME)?;
                let file = memfd::check(session.retrieve(1)?, FILES[0].1)?;
                let flags = rustix::fs::fcntl_getfl(&file).at("F_GETFL")?;
                ensure!(!flags.contains(OFlags::APPEND), "O_APPEND is set");
                let file = memfd::check(session.retrieve(9)?, FILES[2].1)?;
                ensure_eq!(file.metadata()?.mode() & 0o7777, 0o777, "the mode");
                Ok(session.finish()?)
            },
        ],
    )
    .hazard("5.1")
}

/// Files that depend on others: not retrieved, then some of them retrieved, then all.
fn dependent() -> Case {
    const NAME: &str = "carry-dependent";
    Case::chain(
        "dependent_files",
        [
            |stage| fill_chain(stage, NAME),
            |_| Ok(()),
            |stage| {
                let session = retrieve(NAME)?;
                let file = session.retrieve(3)?;
                stage.hold((session, file));
                Ok(())
            },
            |_| take_chain(retrieve(NAME)?),
        ],
    )
}

pub fn suite() -> Suite {
    Suite::new(
        "carry",
        vec![
            untouched(),
            opened(),
            partly(),
            not_finished(),
            with_others(),
            other_handler(),
            called_off(),
            same_name(),
            legacy_image(),
            stuck_writer(),
            limited_caller(),
            dependent(),
            changed_by_others(),
        ],
    )
}
