// SPDX-License-Identifier: GPL-2.0

//! Not enough memory, and too many open files.

use super::row::{is_intact, FILE, TOKEN};
use crate::support::{
    error::{ensure, At, Failure, Result},
    fault::Faults,
    memfd,
    sessions::{expect_errno, retrieve},
};
use liveupdate::{Device, IncomingSession};
use rustix::{
    io::Errno,
    thread::{CapabilitySet, CapabilitySets},
};
use std::{fs, io, thread};

/// True on success, false if there was not enough memory.
fn enough<T>(result: io::Result<T>, what: &str) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        // The error of tmpfs if there is no memory for an inode.
        Err(error) if what == "RETRIEVE_FD" && is_full(&error) => Ok(false),
        Err(error) => {
            expect_errno(Err::<(), _>(error), Errno::NOMEM, what)?;
            Ok(false)
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    liveupdate::errno(error) == Some(Errno::NOSPC.raw_os_error())
}

/// Makes the 1st, then the 2nd, then the 3rd allocation of `act` fail, and so on, until there are
/// no more. Returns the number of failures of `act`. `prepare` is called before each `act`.
fn sweep<P, T>(
    what: &str,
    prepare: impl Fn() -> Result<P>,
    act: impl Fn(&P) -> io::Result<T>,
) -> Result {
    const TOO_MANY: u64 = 1000;
    let faults = Faults::new()?;
    let mut count = 0;
    for nth in 1..TOO_MANY {
        let prepared = prepare()?;
        let outcome = faults.call(nth, || act(&prepared))?;
        match enough(outcome.result, what).at(format_args!("allocation {nth}"))? {
            false => count += 1,
            true if !outcome.failed => {
                ensure!(count > 0, "{what} needs no memory");
                return Ok(());
            }
            true => (),
        }
    }
    Err(Failure::new(format!(
        "the allocations of {what} do not end"
    )))
}

/// All ioctls that need memory, with each of their allocations failing once.
pub fn no_memory(session: IncomingSession, name: &str) -> Result {
    let nothing = || Ok(());
    drop(session);

    let device = Device::open()?;
    let create = || device.create_session("errno-memory");
    sweep("CREATE_SESSION", nothing, |()| create())?;

    let file = memfd::with(FILE)?;
    sweep(
        "PRESERVE_FD",
        || Ok(create()?),
        |outgoing| outgoing.preserve(&file, TOKEN),
    )?;
    // All effects were undone.
    file.set_len(1).at("shrink the memfd")?;

    let retrieve = || device.retrieve_session(name);
    sweep("RETRIEVE_SESSION", nothing, |()| retrieve())?;
    let session = retrieve()?;
    drop(device);
    sweep("RETRIEVE_FD", nothing, |()| session.retrieve(TOKEN))?;
    is_intact(session)
}

/// Calls a function in an unprivileged thread while the system may have no more files.
fn with_system_limit<T: Send>(act: impl FnOnce() -> T + Send) -> Result<T> {
    const LIMIT: &str = "/proc/sys/fs/file-max";
    let old = fs::read_to_string(LIMIT).at(LIMIT)?;
    fs::write(LIMIT, "0").at(LIMIT)?;
    let result = thread::scope(|scope| {
        let thread = scope.spawn(|| -> Result<T> {
            // Privileges belong to a thread: other threads keep theirs.
            let none = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            rustix::thread::set_capabilities(None, none).at("capset")?;
            Ok(act())
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(Failure::new("the thread has panicked")))
    });
    fs::write(LIMIT, old.trim()).at(LIMIT)?;
    result
}

/// No file is available for a new session.
pub fn no_file_to_create(device: &Device) -> Result {
    let result = with_system_limit(|| device.create_session("errno-enfile"))?;
    expect_errno(result, Errno::NFILE, "CREATE_SESSION")?;
    drop(device.create_session("errno-enfile")?);
    Ok(())
}

/// No file is available for an incoming session.
pub fn no_file_to_retrieve(name: &str) -> Result {
    let device = Device::open()?;
    let result = with_system_limit(|| device.retrieve_session(name))?;
    expect_errno(result, Errno::NFILE, "RETRIEVE_SESSION")?;
    drop(device);
    is_intact(retrieve(name)?)
}
