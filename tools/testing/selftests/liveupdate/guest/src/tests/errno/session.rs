// SPDX-License-Identifier: GPL-2.0

//! The ioctls of sessions.

use super::{
    device::without_descriptors,
    row::{is_intact, test, Check, Test, FILE, TOKEN},
};
use crate::support::{
    error::{ensure_eq, At, Result},
    ioctl_arg::{named, numbers, Arg},
    memfd,
    sessions::{create, expect_errno},
    test_device::TestDevice,
};
use liveupdate::{
    raw::{self, Command, Policy},
    Device, IncomingSession, OutgoingSession,
};
use rustix::{
    fs::{MemfdFlags, OFlags},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// Uses a session as one of the other kind, which the types of the library prevent.
fn mistaken<T: From<OwnedFd>>(session: &impl AsFd) -> Result<T> {
    Ok(session.as_fd().try_clone_to_owned().at("dup")?.into())
}

fn bad_descriptors(session: &OutgoingSession) -> Result {
    let file = memfd::new()?;
    let closed = file.as_raw_fd();
    drop(file);
    for fd in [-1, i32::MIN, i32::MAX, closed] {
        let mut command = raw::PreserveFd {
            fd,
            token: TOKEN,
            ..Default::default()
        };
        let result = raw::call(session.as_fd(), &mut command);
        expect_errno(result, Errno::BADF, &format!("the descriptor {fd}"))?;
    }
    Ok(())
}

fn taken_token(session: &OutgoingSession) -> Result {
    session.preserve(memfd::new()?, TOKEN)?;
    let other = memfd::new()?;
    let result = session.preserve(&other, TOKEN);
    expect_errno(result, Errno::EXIST, "a token that is taken")?;
    // The file is not in use: another session can preserve it, with the same token.
    create("errno-other-session")?.preserve(&other, TOKEN)?;
    Ok(session.preserve(&other, TOKEN + 1)?)
}

fn no_handler(session: &OutgoingSession) -> Result {
    let null = File::open("/dev/null").at("/dev/null")?;
    let program = File::open("/init").at("/init")?;
    let (pipe, _other_end) = rustix::pipe::pipe().at("pipe")?;
    let (device, named) = (Device::open()?, new_file("/tmp/errno-named")?);
    let files = [null.as_fd(), program.as_fd(), pipe.as_fd(), session.as_fd()];
    let more = [device.as_fd(), named.as_fd()];
    for file in files.into_iter().chain(more) {
        let result = session.preserve(file, TOKEN);
        expect_errno(result, Errno::NOENT, "a file without a handler")?;
    }
    Ok(())
}

fn preserved_already(session: &OutgoingSession) -> Result {
    let file = memfd::with(FILE)?;
    session.preserve(&file, TOKEN)?;
    expect_errno(
        session.preserve(&file, 2),
        Errno::BUSY,
        "the same file in this session",
    )?;
    let other = create("errno-other-session")?;
    expect_errno(
        other.preserve(&file, 2),
        Errno::BUSY,
        "the same file in another session",
    )
}

/// Opens a memfd again, with other flags.
fn reopen(file: &File, flags: OFlags) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).at("open a memfd again")
}

fn new_file(path: &str) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    options.open(path).at(format_args!("create {path}"))
}

fn bad_property(session: &OutgoingSession) -> Result {
    let refuse = |what: &str, file: &dyn AsFd| {
        let result = session.preserve(file.as_fd(), TOKEN);
        expect_errno(result, Errno::OPNOTSUPP, what)
    };
    let file = memfd::with(FILE)?;
    refuse("a read-only descriptor", &reopen(&file, OFlags::RDONLY)?)?;
    refuse("a write-only descriptor", &reopen(&file, OFlags::WRONLY)?)?;
    refuse("O_APPEND", &reopen(&file, OFlags::RDWR | OFlags::APPEND)?)?;

    let odd_mode = memfd::create(MemfdFlags::EXEC)?;
    rustix::fs::fchmod(&odd_mode, rustix::fs::Mode::from(0o600)).at("fchmod")?;
    refuse("a mode that is not that of a new memfd", &odd_mode)?;

    // A file of a file system that the next kernel does not have.
    let elsewhere = new_file("/tmp/errno")?;
    std::fs::remove_file("/tmp/errno").at("remove a file")?;
    rustix::fs::fchmod(&elsewhere, rustix::fs::Mode::from(0o777)).at("fchmod")?;
    refuse("an unlinked file that is not a memfd", &elsewhere)?;

    // The memfd is unchanged.
    file.set_len(1).at("shrink the memfd")?;
    Ok(session.preserve(&file, TOKEN)?)
}

fn preserve_tests() -> Vec<Test> {
    const PRESERVE: &str = "PRESERVE_FD";
    vec![
        test(
            PRESERVE,
            "EINVAL",
            "the session is incoming",
            Check::Incoming(|session, _| {
                let result = mistaken::<OutgoingSession>(&session)?.preserve(memfd::new()?, 2);
                expect_errno(result, Errno::INVAL, "preserving in an incoming session")?;
                is_intact(session)
            }),
        ),
        test(
            PRESERVE,
            "EBADF",
            "fd is not an open file",
            Check::Outgoing(bad_descriptors),
        ),
        test(
            PRESERVE,
            "EEXIST",
            "the session has a file with this token",
            Check::Outgoing(taken_token),
        ),
        test(
            PRESERVE,
            "ENOENT",
            "there is no handler for this kind of file",
            Check::Outgoing(no_handler),
        ),
        test(
            PRESERVE,
            "EBUSY",
            "the file is preserved already, in this or another session",
            Check::Outgoing(preserved_already),
        ),
        test(
            PRESERVE,
            "EBUSY",
            "the sessions are serialized already",
            Check::Elsewhere,
        ),
        test(
            PRESERVE,
            "EOPNOTSUPP",
            "the file has a property that cannot be preserved",
            Check::Outgoing(bad_property),
        )
        .hazard("1B.1"),
        test(
            PRESERVE,
            "ENOSPC",
            "the session has too many files",
            Check::Elsewhere,
        ),
        test(
            PRESERVE,
            "any other",
            "the handler cannot preserve the file",
            Check::Outgoing(|session| {
                let device = TestDevice::open(TestDevice::C)?;
                for (errno, text) in [(Errno::NXIO, "6"), (Errno::XDEV, "18")] {
                    device.write(&format!("fail-preserve {text}"))?;
                    expect_errno(session.preserve(&device, TOKEN), errno, "PRESERVE_FD")?;
                }
                device.write("fail-preserve 0")?;
                Ok(session.preserve(&device, TOKEN)?)
            }),
        ),
    ]
}

fn unwritable_fd(session: IncomingSession, _: &str) -> Result {
    let size = size_of::<raw::RetrieveFd>() as u32;
    let arg = Arg::new(&numbers(size, 0, &[TOKEN]))?.read_only()?;
    let result = arg.ioctl(&session, raw::RetrieveFd::REQUEST);
    expect_errno(result, Errno::FAULT, "a read-only argument")?;
    is_intact(session)
}

fn finished(session: IncomingSession, _: &str) -> Result {
    let mut command = raw::Finish::default();
    raw::call(session.as_fd(), &mut command).at("FINISH")?;
    expect_errno(
        session.retrieve(TOKEN),
        Errno::NOENT,
        "RETRIEVE_FD after FINISH",
    )
}

fn retrieve_tests() -> Vec<Test> {
    const RETRIEVE: &str = "RETRIEVE_FD";
    vec![
        test(
            RETRIEVE,
            "EINVAL",
            "the session is outgoing",
            Check::Outgoing(|session| {
                session.preserve(memfd::new()?, TOKEN)?;
                let result = mistaken::<IncomingSession>(session)?.retrieve(TOKEN);
                expect_errno(result, Errno::INVAL, "retrieving from an outgoing session")
            }),
        ),
        test(
            RETRIEVE,
            "ENOENT",
            "the session has no file with this token",
            Check::Incoming(|session, _| {
                for token in [0, TOKEN + 1, u64::MAX] {
                    expect_errno(session.retrieve(token), Errno::NOENT, "an unknown token")?;
                }
                is_intact(session)
            }),
        ),
        test(
            RETRIEVE,
            "ENOENT",
            "the session is finished",
            Check::Incoming(finished),
        ),
        test(
            RETRIEVE,
            "EFAULT",
            "fd cannot be written",
            Check::Incoming(unwritable_fd),
        ),
        test(
            RETRIEVE,
            "EMFILE",
            "the process has too many open files",
            Check::Incoming(|session, _| {
                let result = without_descriptors(|| session.retrieve(TOKEN))?;
                expect_errno(result, Errno::MFILE, "a file too many")?;
                is_intact(session)
            }),
        ),
        test(
            RETRIEVE,
            "EBUSY",
            "the sessions are serialized already",
            Check::Elsewhere,
        ),
        test(
            RETRIEVE,
            "EOPNOTSUPP",
            "this kernel has no handler for the file",
            Check::Elsewhere,
        ),
        test(
            RETRIEVE,
            "any other",
            "the handler cannot retrieve the file",
            Check::Handler("fail-retrieve 18", |session| {
                for _ in 0..2 {
                    expect_errno(session.retrieve(TOKEN), Errno::XDEV, "RETRIEVE_FD")?;
                }
                Ok(session.finish()?)
            }),
        ),
    ]
}

fn finish_tests() -> Vec<Test> {
    const FINISH: &str = "FINISH";
    vec![
        test(
            FINISH,
            "EINVAL",
            "the session is outgoing",
            Check::Outgoing(|session| {
                let result = mistaken::<IncomingSession>(session)?.finish();
                let result = result.map_err(io::Error::from);
                expect_errno(result, Errno::INVAL, "finishing an outgoing session")?;
                Ok(session.preserve(memfd::new()?, TOKEN)?)
            }),
        ),
        test(
            FINISH,
            "EINVAL",
            "reserved is not 0",
            Check::Incoming(|session, name| {
                let mut command = raw::Finish {
                    reserved: 1,
                    ..Default::default()
                };
                let result = raw::call(session.as_fd(), &mut command);
                expect_errno(result, Errno::INVAL, "FINISH with reserved = 1")?;
                is_intact(session)?;
                let again = Device::open()?.retrieve_session(name);
                expect_errno(again, Errno::NOENT, "a finished session")
            }),
        ),
        test(
            FINISH,
            "EBUSY",
            "a handler is not ready to finish a file",
            Check::Handler("fail-can-finish 1", |session| {
                let mut command = raw::Finish::default();
                let result = raw::call(session.as_fd(), &mut command);
                expect_errno(result, Errno::BUSY, "the first FINISH")?;
                drop(session.retrieve(TOKEN)?);
                Ok(session.finish()?)
            }),
        ),
        test(
            FINISH,
            "EBUSY",
            "a retrieved file depends on one that was not retrieved",
            Check::Elsewhere,
        ),
        test(
            FINISH,
            "EBUSY",
            "the sessions are serialized already",
            Check::Elsewhere,
        ),
    ]
}

fn get_name_tests() -> Vec<Test> {
    fn reserved(session: &OutgoingSession) -> Result {
        let mut command = raw::GetName {
            reserved: 1,
            ..Default::default()
        };
        let result = raw::call(session.as_fd(), &mut command);
        expect_errno(result, Errno::INVAL, "GET_NAME with reserved = 1")
    }
    fn unwritable(session: &OutgoingSession) -> Result {
        let size = size_of::<raw::GetName>() as u32;
        let arg = Arg::new(&named(size, b""))?.read_only()?;
        let result = arg.ioctl(session, raw::GetName::REQUEST);
        expect_errno(result, Errno::FAULT, "a read-only argument")?;
        ensure_eq!(
            session.name()?.is_empty(),
            false,
            "the emptiness of the name"
        );
        Ok(())
    }
    vec![
        test(
            "GET_NAME",
            "EINVAL",
            "reserved is not 0",
            Check::Outgoing(reserved),
        ),
        test(
            "GET_NAME",
            "EFAULT",
            "name cannot be written",
            Check::Outgoing(unwritable),
        ),
    ]
}

fn set_policy_tests() -> Vec<Test> {
    const SET: &str = "SET_POLICY";
    vec![
        test(
            SET,
            "EINVAL",
            "the session is incoming",
            Check::Incoming(|session, _| {
                let result = mistaken::<OutgoingSession>(&session)?.set_policy(Policy::Skip);
                expect_errno(result, Errno::INVAL, "the policy of an incoming session")?;
                is_intact(session)
            }),
        ),
        test(
            SET,
            "EINVAL",
            "the policy is unknown",
            Check::Outgoing(|session| {
                for policy in [2, u32::MAX] {
                    let mut command = raw::SetPolicy {
                        policy,
                        ..Default::default()
                    };
                    let result = raw::call(session.as_fd(), &mut command);
                    expect_errno(result, Errno::INVAL, &format!("the policy {policy}"))?;
                }
                session.set_policy(Policy::Skip)?;
                Ok(session.set_policy(Policy::Abort)?)
            }),
        ),
        test(
            SET,
            "EBUSY",
            "the sessions are serialized already",
            Check::Elsewhere,
        ),
    ]
}

pub fn tests() -> Vec<Test> {
    let mut tests = preserve_tests();
    tests.extend(retrieve_tests());
    tests.extend(finish_tests());
    tests.extend(get_name_tests());
    tests.extend(set_policy_tests());
    tests
}
