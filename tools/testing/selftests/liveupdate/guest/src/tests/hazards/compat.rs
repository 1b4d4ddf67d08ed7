// SPDX-License-Identifier: GPL-2.0

//! Programs of 32 bits.
//!
//! The entry into the kernel determines whether an ioctl is one of a 32-bit program. A 64-bit
//! program can use the same entry, if its argument is below 4 GiB.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    memfd,
    pattern::Pattern,
    registry::{Case, Suite},
    sessions::{create, retrieve},
};
use liveupdate::{
    raw::{self, Command},
    Device, IncomingSession, OutgoingSession,
};
use rustix::mm::{MapFlags, ProtFlags};
use std::{
    arch::asm,
    ffi::c_void,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

const PAGE: usize = 4096;
/// The number of ioctl(2) for programs of 32 bits.
const IOCTL: u64 = 54;

/// A page below 4 GiB.
struct LowPage(*mut c_void);

impl LowPage {
    fn new() -> Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::from_bits_retain(libc::MAP_32BIT as u32);
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: The mapping is new.
        let page = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), PAGE, prot, flags) };
        Ok(Self(page.at("mmap below 4 GiB")?))
    }
}

impl Drop for LowPage {
    fn drop(&mut self) {
        // SAFETY: The page belongs to this object, and there are no references to it.
        let _ = unsafe { rustix::mm::munmap(self.0, PAGE) };
    }
}

/// Calls an ioctl like a 32-bit program.
fn call<C: Command + Copy>(fd: &impl AsFd, command: &mut C) -> io::Result<()> {
    let page = LowPage::new().map_err(|failure| io::Error::other(failure.to_string()))?;
    let arg = page.0.cast::<C>();
    let result: u64;
    // SAFETY: The page has room for the command, and has no other users. The kernel only
    // writes to it and to the named registers.
    unsafe {
        arg.write(*command);
        asm!(
            "xchg rbx, {fd}",
            "int 0x80",
            "xchg rbx, {fd}",
            fd = inout(reg) u64::from(fd.as_fd().as_raw_fd().unsigned_abs()) => _,
            inlateout("rax") IOCTL => result,
            in("rcx") u64::from(C::REQUEST),
            in("rdx") arg,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
        *command = arg.read();
    }
    // CAST: The result has 32 bits.
    match result as i32 {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
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
