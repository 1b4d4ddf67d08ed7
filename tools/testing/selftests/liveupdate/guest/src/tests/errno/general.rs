// SPDX-License-Identifier: GPL-2.0

//! The common behaviour of all ioctls.

use super::{
    memory::no_memory,
    row::{test, Check, Test, FILE, TOKEN},
};
use crate::support::{
    error::{ensure_eq, At, Result},
    ioctl_arg::{named, numbers, without_memory, Arg},
    memfd,
    registry::Case,
    sessions::{create, expect_errno, retrieve},
};
use liveupdate::{
    raw::{self, Command},
    Device, IncomingSession, OutgoingSession,
};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The target of an ioctl.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Device,
    Outgoing,
    Incoming,
}

/// An ioctl: its name, request, target, and the size of its structure.
struct Ioctl {
    name: &'static str,
    request: u32,
    target: Target,
    size: usize,
}

const fn ioctl<C: Command>(name: &'static str, target: Target) -> Ioctl {
    Ioctl {
        name,
        request: C::REQUEST,
        target,
        size: size_of::<C>(),
    }
}

const ALL: [Ioctl; 8] = [
    ioctl::<raw::CreateSession>("CREATE_SESSION", Target::Device),
    ioctl::<raw::RetrieveSession>("RETRIEVE_SESSION", Target::Device),
    ioctl::<raw::PreserveFd>("PRESERVE_FD", Target::Outgoing),
    ioctl::<raw::RetrieveFd>("RETRIEVE_FD", Target::Incoming),
    ioctl::<raw::Finish>("FINISH", Target::Incoming),
    ioctl::<raw::GetName>("GET_NAME", Target::Outgoing),
    ioctl::<raw::GetName>("GET_NAME", Target::Incoming),
    ioctl::<raw::SetPolicy>("SET_POLICY", Target::Outgoing),
];

/// A file of each type that has ioctls.
struct Files {
    device: Device,
    outgoing: OutgoingSession,
    incoming: IncomingSession,
}

impl Files {
    fn new(incoming: IncomingSession) -> Result<Self> {
        let device = Device::open()?;
        let outgoing = device.create_session("errno-general")?;
        Ok(Self {
            device,
            outgoing,
            incoming,
        })
    }

    fn fd(&self, target: Target) -> BorrowedFd<'_> {
        match target {
            Target::Device => self.device.as_fd(),
            Target::Outgoing => self.outgoing.as_fd(),
            Target::Incoming => self.incoming.as_fd(),
        }
    }

    /// The attempts had no effect.
    fn unchanged(self) -> Result {
        drop(self.device);
        memfd::check(self.incoming.retrieve(TOKEN)?, FILE)?;
        Ok(self.incoming.finish()?)
    }
}

fn unknown(incoming: IncomingSession, _: &str) -> Result {
    let files = Files::new(incoming)?;
    for target in [Target::Device, Target::Outgoing, Target::Incoming] {
        let fd = files.fd(target);
        for nr in [0x02, 0x03, 0x3f, 0x44, 0x45, 0x4f, 0x51, 0x7f, 0xff] {
            let what = format!("ioctl {nr:#x}");
            expect_errno(without_memory(fd, raw::request(nr)), Errno::NOTTY, &what)?;
        }
        // The right number with another type, with a direction, or with a size.
        for nr in [0x00, 0x01, 0x40, 0x41, 0x42, 0x43, 0x50] {
            let request = raw::request(nr);
            let what = format!("a relative of ioctl {nr:#x}");
            for other in [request ^ 0x100, request | (1 << 30), request | (16 << 16)] {
                expect_errno(without_memory(fd, other), Errno::NOTTY, &what)?;
            }
        }
        // TCGETS, which isatty() calls.
        expect_errno(without_memory(fd, 0x5401), Errno::NOTTY, "isatty")?;
    }
    files.unchanged()
}

fn wrong_file(incoming: IncomingSession, _: &str) -> Result {
    let files = Files::new(incoming)?;
    let session = [Target::Outgoing, Target::Incoming];
    for ioctl in ALL {
        let others = match ioctl.target {
            Target::Device => &session[..],
            Target::Outgoing | Target::Incoming => &[Target::Device],
        };
        for other in others {
            let result = without_memory(files.fd(*other), ioctl.request);
            expect_errno(result, Errno::NOTTY, ioctl.name)?;
        }
    }
    files.unchanged()
}

fn unreadable(incoming: IncomingSession, _: &str) -> Result {
    let files = Files::new(incoming)?;
    for ioctl in ALL {
        let fd = files.fd(ioctl.target);
        expect_errno(without_memory(fd, ioctl.request), Errno::FAULT, ioctl.name)?;
        // The size can be read, the rest cannot.
        let arg = Arg::new(&(ioctl.size as u32).to_ne_bytes())?;
        expect_errno(arg.ioctl(fd, ioctl.request), Errno::FAULT, ioctl.name)?;
        // One byte is missing.
        let mut bytes = numbers(ioctl.size as u32, 0, &[]);
        bytes.resize(ioctl.size - 1, 0);
        let arg = Arg::new(&bytes)?;
        expect_errno(arg.ioctl(fd, ioctl.request), Errno::FAULT, ioctl.name)?;
    }
    files.unchanged()
}

fn too_short(incoming: IncomingSession, _: &str) -> Result {
    let files = Files::new(incoming)?;
    for ioctl in ALL {
        let fd = files.fd(ioctl.target);
        for size in [0, 4, ioctl.size - 1] {
            let arg = Arg::new(&named(size as u32, b"errno-short"))?;
            let what = format!("{} of {size} bytes", ioctl.name);
            expect_errno(arg.ioctl(fd, ioctl.request), Errno::INVAL, &what)?;
        }
    }
    files.unchanged()
}

/// A structure that is longer than that of the kernel, with the last byte `last`.
fn longer(ioctl: &Ioctl, fill: Vec<u8>, more: usize, last: u8) -> Result<Arg> {
    let mut bytes = fill;
    bytes.resize(ioctl.size, 0);
    bytes.resize(ioctl.size + more - 1, 0);
    bytes.push(last);
    Arg::new(&bytes)
}

fn unknown_tail(incoming: IncomingSession, _: &str) -> Result {
    let files = Files::new(incoming)?;
    for ioctl in ALL {
        let fd = files.fd(ioctl.target);
        for more in [1, 8, 100] {
            let size = (ioctl.size + more) as u32;
            let arg = longer(&ioctl, named(size, b"errno-long"), more, 1)?;
            let what = format!("{} with {more} bytes more", ioctl.name);
            expect_errno(arg.ioctl(fd, ioctl.request), Errno::TOOBIG, &what)?;
        }
    }
    files.unchanged()
}

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "all",
            "ENOTTY",
            "the type or the number of the ioctl is unknown; the argument is not read",
            Check::Incoming(unknown),
        )
        .hazard("3.1"),
        test(
            "all",
            "ENOTTY",
            "it is an ioctl of sessions and the file is the device, or vice versa",
            Check::Incoming(wrong_file),
        ),
        test(
            "all",
            "EFAULT",
            "the argument cannot be read",
            Check::Incoming(unreadable),
        ),
        test(
            "all",
            "EINVAL",
            "size is less than that of the first version of the structure",
            Check::Incoming(too_short),
        ),
        test(
            "all",
            "E2BIG",
            "the size exceeds the structure of the kernel, and not all bytes of the rest are 0",
            Check::Incoming(unknown_tail),
        ),
        test(
            "all",
            "ENOMEM",
            "there is not enough memory",
            Check::Incoming(no_memory),
        ),
    ]
}

/// A longer structure is valid if the rest is 0.
fn zero_tail() -> Case {
    Case::two(
        "longer_structure_with_zero_tail",
        |stage| {
            let [create_session, _, preserve_fd, _, _, get_name, ..] = &ALL;
            let device = Device::open()?;
            let file = memfd::with(FILE)?;
            let size = |ioctl: &Ioctl| ioctl.size as u32 + 24;
            let arg = longer(
                create_session,
                named(size(create_session), b"errno-zero"),
                24,
                0,
            )?;
            arg.ioctl(&device, create_session.request)
                .at("CREATE_SESSION")?;
            // SAFETY: The kernel has just created this descriptor for this process.
            let session = unsafe { adopt(&arg.bytes()) };
            let fd = file.as_raw_fd() as u32;
            let arg = longer(preserve_fd, numbers(size(preserve_fd), fd, &[TOKEN]), 24, 0)?;
            arg.ioctl(&session, preserve_fd.request).at("PRESERVE_FD")?;
            let arg = longer(get_name, named(size(get_name), b""), 24, 0)?;
            arg.ioctl(&session, get_name.request).at("GET_NAME")?;
            ensure_eq!(arg.bytes().get(8..18), Some(&b"errno-zero"[..]), "the name");
            stage.hold((session, file));
            Ok(())
        },
        |_| {
            let [_, retrieve_session, _, retrieve_fd, finish, ..] = &ALL;
            let device = Device::open()?;
            let size = |ioctl: &Ioctl| ioctl.size as u32 + 24;
            let fields = named(size(retrieve_session), b"errno-zero");
            let arg = longer(retrieve_session, fields, 24, 0)?;
            arg.ioctl(&device, retrieve_session.request)
                .at("RETRIEVE_SESSION")?;
            // SAFETY: The kernel has just created this descriptor for this process.
            let session = unsafe { adopt(&arg.bytes()) };
            let arg = longer(retrieve_fd, numbers(size(retrieve_fd), 0, &[TOKEN]), 24, 0)?;
            arg.ioctl(&session, retrieve_fd.request).at("RETRIEVE_FD")?;
            // SAFETY: The kernel has just created this descriptor for this process.
            memfd::check(unsafe { adopt(&arg.bytes()) }, FILE)?;
            let arg = longer(finish, numbers(size(finish), 0, &[]), 24, 0)?;
            arg.ioctl(&session, finish.request).at("FINISH")
        },
    )
}

/// Owns the descriptor in the second field of a structure.
///
/// # Safety
///
/// It must be a descriptor that the kernel has just stored there.
unsafe fn adopt(bytes: &[u8]) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;

    let field = bytes.get(4..8).and_then(|field| field.try_into().ok());
    // SAFETY: By the safety requirements.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(i32::from_ne_bytes(field.unwrap_or([0xff; 4]))) }
}

/// PRESERVE_FD and FINISH do not write to their argument.
fn read_only_argument() -> Case {
    Case::two(
        "read_only_argument_is_enough",
        |stage| {
            let session = create("errno-read-only")?;
            let file = memfd::with(FILE)?;
            let size = size_of::<raw::PreserveFd>() as u32;
            let arg = Arg::new(&numbers(size, file.as_raw_fd() as u32, &[TOKEN]))?.read_only()?;
            arg.ioctl(&session, raw::PreserveFd::REQUEST)
                .at("PRESERVE_FD")?;
            stage.hold((session, file));
            Ok(())
        },
        |_| {
            let session = retrieve("errno-read-only")?;
            memfd::check(session.retrieve(TOKEN)?, FILE)?;
            let size = size_of::<raw::Finish>() as u32;
            let arg = Arg::new(&numbers(size, 0, &[]))?.read_only()?;
            arg.ioctl(&session, raw::Finish::REQUEST).at("FINISH")?;
            let again = Device::open()?.retrieve_session("errno-read-only");
            expect_errno(again, Errno::NOENT, "retrieving the finished session")
        },
    )
    .hazard("1A.10")
}

/// Calls that must succeed although they are similar to failing ones.
pub fn good_cases() -> Vec<Case> {
    vec![zero_tail(), read_only_argument()]
}
