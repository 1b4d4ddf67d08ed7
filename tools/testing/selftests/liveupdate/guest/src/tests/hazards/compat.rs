// SPDX-License-Identifier: GPL-2.0

//! Programs of 32 bits.
//!
//! The entry into the kernel determines whether an ioctl is one of a 32-bit program. A 64-bit
//! program can use the same entry, if its argument is below 4 GiB.

use crate::support::{
    error::{ensure, ensure_eq, At, Failure, Result},
    memfd,
    pattern::Pattern,
    registry::{Case, Suite},
    sessions::{create, retrieve},
};
#[cfg(not(target_arch = "x86_64"))]
use liveupdate::raw::Command;
use liveupdate::{raw, Device, IncomingSession, OutgoingSession};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
#[cfg(not(target_arch = "x86_64"))]
use std::{io, os::fd::AsFd};

#[cfg(target_arch = "x86_64")]
mod int80;

#[cfg(target_arch = "x86_64")]
use int80::call;

/// Only x86 lets a 64-bit program use that entry.
#[cfg(not(target_arch = "x86_64"))]
fn call<C: Command>(_: &impl AsFd, _: &mut C) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Skips a case where [`call`] is not possible.
fn needs_entry() -> Result {
    match cfg!(target_arch = "x86_64") {
        true => Ok(()),
        false => Err(Failure::skip(
            "64-bit programs cannot use the entry of 32-bit ones",
        )),
    }
}

fn name(text: &str) -> [u8; raw::NAME_LENGTH] {
    let mut name = [0; raw::NAME_LENGTH];
    for (to, from) in name.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    name
}

/// Takes ownership of a new descriptor of the kernel.
fn adopt(fd: i32) -> Result<OwnedFd> {
    ensure!(fd >= 0, "the kernel has not returned a descriptor");
    // SAFETY: It is new, and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn all_ioctls() -> Case {
    const NAME: &str = "compat";
    let pattern = Pattern::new(1100, 50_000);
    Case::two(
        "all_ioctls",
        move |stage| {
            needs_entry()?;
            let mut command = raw::CreateSession {
                name: name(NAME),
                ..Default::default()
            };
            call(&Device::open()?, &mut command).at("CREATE_SESSION")?;
            let session = OutgoingSession::from(adopt(command.fd)?);
            let file = memfd::with(pattern)?;
            let mut command = raw::PreserveFd {
                fd: file.as_raw_fd(),
                token: 7 << 40,
                ..Default::default()
            };
            call(&session, &mut command).at("PRESERVE_FD")?;
            let mut command = raw::GetName::default();
            call(&session, &mut command).at("GET_NAME")?;
            ensure_eq!(command.name, name(NAME), "the name");
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let mut command = raw::RetrieveSession {
                name: name(NAME),
                ..Default::default()
            };
            call(&Device::open()?, &mut command).at("RETRIEVE_SESSION")?;
            let session = IncomingSession::from(adopt(command.fd)?);
            let mut command = raw::RetrieveFd {
                token: 7 << 40,
                ..Default::default()
            };
            call(&session, &mut command).at("RETRIEVE_FD")?;
            memfd::check(adopt(command.fd)?, pattern)?;
            call(&session, &mut raw::Finish::default()).at("FINISH")
        },
    )
    .hazard("1B.8")
}

/// 32-bit and 64-bit programs can exchange sessions.
fn mixed() -> Case {
    let pattern = Pattern::new(1101, 5000);
    Case::two(
        "preserved_by_32_retrieved_by_64",
        move |stage| {
            needs_entry()?;
            let session = create("compat-mixed")?;
            let file = memfd::with(pattern)?;
            let mut command = raw::PreserveFd {
                fd: file.as_raw_fd(),
                token: u64::MAX,
                ..Default::default()
            };
            call(&session, &mut command).at("PRESERVE_FD")?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("compat-mixed")?;
            memfd::check(session.retrieve(u64::MAX)?, pattern)?;
            Ok(session.finish()?)
        },
    )
    .hazard("1B.8")
}

pub fn suite() -> Suite {
    Suite::new("compat", vec![all_ioctls(), mixed()])
}
