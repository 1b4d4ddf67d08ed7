// SPDX-License-Identifier: GPL-2.0

//! The ioctls of the device.

use super::{
    memory::{no_file_to_create, no_file_to_retrieve},
    row::{is_intact, test, Check, Test},
};
use crate::support::{
    error::{At, Result},
    ioctl_arg::{named, Arg},
    sessions::{expect_errno, retrieve},
};
use liveupdate::{
    raw::{self, Command, NAME_LENGTH},
    Device,
};
use rustix::{
    io::Errno,
    process::{Resource, Rlimit},
};
use std::io;

const SIZE: u32 = size_of::<raw::CreateSession>() as u32;

/// Calls a function while no new descriptor is available.
pub fn without_descriptors<T>(act: impl FnOnce() -> T) -> Result<T> {
    let old = rustix::process::getrlimit(Resource::Nofile);
    // The next descriptor would get the lowest free number.
    let free = std::os::fd::AsRawFd::as_raw_fd(&rustix::io::dup(rustix::stdio::stdin()).at("dup")?);
    let none = Rlimit {
        current: Some(free as u64),
        ..old
    };
    rustix::process::setrlimit(Resource::Nofile, none).at("setrlimit")?;
    let result = act();
    rustix::process::setrlimit(Resource::Nofile, old).at("setrlimit")?;
    Ok(result)
}

fn empty_name(device: &Device, request: u32) -> Result {
    let arg = Arg::new(&named(SIZE, b""))?;
    expect_errno(arg.ioctl(device, request), Errno::INVAL, "an empty name")
}

fn unterminated_name(device: &Device, request: u32) -> Result {
    let arg = Arg::new(&named(SIZE, &[b'x'; NAME_LENGTH]))?;
    expect_errno(
        arg.ioctl(device, request),
        Errno::INVAL,
        "an unterminated name",
    )
}

fn read_only(device: &Device, request: u32, name: &str) -> Result {
    let arg = Arg::new(&named(SIZE, name.as_bytes()))?.read_only()?;
    let result: io::Result<()> = arg.ioctl(device, request);
    expect_errno(result, Errno::FAULT, "a read-only argument")
}

fn create_tests() -> Vec<Test> {
    const CREATE: &str = "CREATE_SESSION";
    const REQUEST: u32 = raw::CreateSession::REQUEST;
    vec![
        test(
            CREATE,
            "EINVAL",
            "the name is empty",
            Check::Device(|device| empty_name(device, REQUEST)),
        ),
        test(
            CREATE,
            "EINVAL",
            "the name has no terminating null byte",
            Check::Device(|device| unterminated_name(device, REQUEST)),
        ),
        test(
            CREATE,
            "EEXIST",
            "there is an outgoing session of that name",
            Check::Device(|device| {
                let session = device.create_session("errno-taken")?;
                let again = device.create_session("errno-taken");
                expect_errno(again, Errno::EXIST, "a name that is taken")?;
                drop(session);
                drop(device.create_session("errno-taken")?);
                Ok(())
            }),
        ),
        test(
            CREATE,
            "EFAULT",
            "fd cannot be written",
            Check::Device(|device| {
                read_only(device, REQUEST, "errno-unwritable")?;
                // No session was created.
                drop(device.create_session("errno-unwritable")?);
                Ok(())
            }),
        ),
        test(
            CREATE,
            "EMFILE",
            "the process has too many open files",
            Check::Device(|device| {
                let result = without_descriptors(|| device.create_session("errno-emfile"))?;
                expect_errno(result, Errno::MFILE, "a session too many")?;
                drop(device.create_session("errno-emfile")?);
                Ok(())
            }),
        ),
        test(
            CREATE,
            "ENFILE",
            "the system has too many open files",
            Check::Device(no_file_to_create),
        ),
        test(
            CREATE,
            "ENOSPC",
            "there are too many sessions",
            Check::Elsewhere,
        ),
        test(
            CREATE,
            "EBUSY",
            "the sessions are serialized already",
            Check::Elsewhere,
        ),
    ]
}

fn retrieve_tests() -> Vec<Test> {
    const RETRIEVE: &str = "RETRIEVE_SESSION";
    const REQUEST: u32 = raw::RetrieveSession::REQUEST;
    vec![
        test(
            RETRIEVE,
            "EINVAL",
            "the name is empty",
            Check::Device(|device| empty_name(device, REQUEST)),
        ),
        test(
            RETRIEVE,
            "EINVAL",
            "the name has no terminating null byte",
            Check::Device(|device| unterminated_name(device, REQUEST)),
        )
        .hazard("3.3"),
        test(
            RETRIEVE,
            "ENOENT",
            "there is no incoming session of that name",
            Check::Device(|device| {
                // An outgoing session has no effect.
                let _session = device.create_session("errno-outgoing")?;
                for name in ["errno-outgoing", "errno-nobody"] {
                    expect_errno(device.retrieve_session(name), Errno::NOENT, name)?;
                }
                Ok(())
            }),
        ),
        test(
            RETRIEVE,
            "ENOENT",
            "the session is finished",
            Check::Incoming(|session, name| {
                is_intact(session)?;
                let again = Device::open()?.retrieve_session(name);
                expect_errno(again, Errno::NOENT, "a finished session")
            }),
        ),
        test(
            RETRIEVE,
            "EBUSY",
            "the session was retrieved already and is still open",
            Check::Incoming(|session, name| {
                let again = Device::open()?.retrieve_session(name);
                expect_errno(again, Errno::BUSY, "a session that is open")?;
                drop(session);
                is_intact(retrieve(name)?)
            }),
        )
        .hazard("3.2"),
        test(
            RETRIEVE,
            "EFAULT",
            "fd cannot be written",
            Check::Waiting(|name| {
                read_only(&Device::open()?, REQUEST, name)?;
                is_intact(retrieve(name)?)
            }),
        )
        .hazard("1A.1"),
        test(
            RETRIEVE,
            "EMFILE",
            "the process has too many open files",
            Check::Waiting(|name| {
                let device = Device::open()?;
                let result = without_descriptors(|| device.retrieve_session(name))?;
                expect_errno(result, Errno::MFILE, "a session too many")?;
                drop(device);
                is_intact(retrieve(name)?)
            }),
        ),
        test(
            RETRIEVE,
            "ENFILE",
            "the system has too many open files",
            Check::Waiting(no_file_to_retrieve),
        ),
    ]
}

pub fn tests() -> Vec<Test> {
    let mut tests = create_tests();
    tests.extend(retrieve_tests());
    tests
}
