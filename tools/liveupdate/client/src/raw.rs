// SPDX-License-Identifier: GPL-2.0

//! The ioctls as they are in `include/uapi/linux/liveupdate.h`, and the system calls around them.
//!
//! For tests, and for what the rest of the library does not offer.

pub use uapi::request;

use liveupdate_uapi as uapi;
use rustix::{
    io::FdFlags,
    ioctl::{Ioctl, IoctlOutput, Opcode},
};
use std::{
    env,
    ffi::{c_void, CStr},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

/// `LIVEUPDATE_SESSION_NAME_LENGTH`: the length of the field, with the terminating null byte.
pub const NAME_LENGTH: usize = uapi::LIVEUPDATE_SESSION_NAME_LENGTH;

/// What a file is called within its session.
pub type Token = u64;

/// `LIVEUPDATE_POLICY_*`: what becomes of an update if a file cannot be handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Policy {
    /// There is no update: starting the next kernel fails with the error of the file.
    #[default]
    Abort = uapi::LIVEUPDATE_POLICY_ABORT,
    /// The next kernel gets the session without the file.
    Skip = uapi::LIVEUPDATE_POLICY_SKIP,
}

/// An argument of an ioctl.
///
/// # Safety
///
/// The type must be `repr(C)`, start with its size as a `u32`, and consist of integers only. The
/// kernel must not use any part of it as an address.
pub unsafe trait Command {
    /// The request that goes with it.
    const REQUEST: u32;

    /// Sets the field that tells the kernel how long the structure is.
    fn set_size(&mut self, size: u32);
}

macro_rules! commands {
    ($($name:ident = $structure:ident, $request:ident;)*) => {$(
        #[doc(inline)]
        pub use uapi::$structure as $name;

        // SAFETY: It consists of integers, its size first; there are no addresses in it.
        unsafe impl Command for $name {
            const REQUEST: u32 = uapi::$request;

            fn set_size(&mut self, size: u32) {
                self.size = size;
            }
        }
    )*};
}

commands! {
    CreateSession = liveupdate_ioctl_create_session, LIVEUPDATE_IOCTL_CREATE_SESSION;
    RetrieveSession = liveupdate_ioctl_retrieve_session, LIVEUPDATE_IOCTL_RETRIEVE_SESSION;
    PreserveFd = liveupdate_session_preserve_fd, LIVEUPDATE_SESSION_PRESERVE_FD;
    RetrieveFd = liveupdate_session_retrieve_fd, LIVEUPDATE_SESSION_RETRIEVE_FD;
    Finish = liveupdate_session_finish, LIVEUPDATE_SESSION_FINISH;
    GetName = liveupdate_session_get_name, LIVEUPDATE_SESSION_GET_NAME;
    SetPolicy = liveupdate_session_set_policy, LIVEUPDATE_SESSION_SET_POLICY;
}

/// Any request with any argument.
struct Request {
    request: u32,
    arg: *mut c_void,
}

// SAFETY: The kernel may write to what `arg` refers to. The functions that make such a
// value make sure of that; there is no other output.
unsafe impl Ioctl for Request {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        Opcode::from(self.request)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.arg
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Does any ioctl.
///
/// # Errors
///
/// Whatever the kernel returns.
///
/// # Safety
///
/// The kernel may read and write as many bytes at `arg` as it likes to for this request, which may
/// depend on what is there. They must be memory that nobody else uses, or no memory at all.
pub unsafe fn ioctl(fd: BorrowedFd<'_>, request: u32, arg: *mut c_void) -> io::Result<()> {
    // SAFETY: That `request` and `arg` go together is what the caller promises.
    unsafe { rustix::ioctl::ioctl(fd, Request { request, arg }) }?;
    Ok(())
}

/// Does the ioctl that `command` belongs to, after setting its size.
///
/// # Errors
///
/// Whatever the kernel returns.
pub fn call<C: Command>(fd: BorrowedFd<'_>, command: &mut C) -> io::Result<()> {
    command.set_size(size_of::<C>() as u32);
    // SAFETY: The kernel accesses as many bytes as the command says to have, which it has. All of
    // them are integers, so any value is valid.
    unsafe { ioctl(fd, C::REQUEST, std::ptr::from_mut(command).cast()) }
}

/// Makes us the owner of a file descriptor that the kernel has just made for us.
pub(crate) fn take_fd(fd: RawFd) -> OwnedFd {
    // SAFETY: Only called with what a successful ioctl returned, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Reads the time-stamp counter of the processor, where there is one.
///
/// It runs on while kernels change, unlike the clocks of the kernel.
pub fn time_stamp_counter() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: All x86-64 processors have the instruction.
        Some(unsafe { core::arch::x86_64::_rdtsc() })
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Does the `kexec_file_load()` system call, which rustix has not.
fn kexec_file_load_call(
    kernel: RawFd,
    initrd: RawFd,
    cmdline: &CStr,
    flags: libc::c_ulong,
) -> io::Result<()> {
    // SAFETY: The kernel only reads as many bytes of the command line as it is told to, which
    // lives until the call returns. It takes descriptors that are not open for an error.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel,
            initrd,
            cmdline.to_bytes_with_nul().len(),
            cmdline.as_ptr(),
            flags,
        )
    };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Loads the kernel that the next kexec starts, by `kexec_file_load(2)`: an image that was loaded
/// by the older `kexec_load(2)` cannot take over anything.
///
/// It replaces what was loaded before. Without `initrd`, the next kernel gets no initial RAM file
/// system but its own.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_BOOT`, `ENOEXEC` if the file is no kernel for this machine, `EBUSY` if
/// an image is being loaded or started, `ENOMEM`, `EADDRNOTAVAIL` if there is not enough memory of
/// the right kind, `ENOSYS` without `CONFIG_KEXEC_FILE`. What was loaded before stays loaded.
pub fn kexec_file_load(
    kernel: BorrowedFd<'_>,
    initrd: Option<BorrowedFd<'_>>,
    cmdline: &CStr,
) -> io::Result<()> {
    load(kernel, initrd, cmdline, 0)
}

/// As [`kexec_file_load`]; the kernel logs what it does, if it is Linux 6.8 or later.
///
/// # Errors
///
/// As [`kexec_file_load`]; `EINVAL` if the kernel is older.
pub fn kexec_file_load_debug(
    kernel: BorrowedFd<'_>,
    initrd: Option<BorrowedFd<'_>>,
    cmdline: &CStr,
) -> io::Result<()> {
    /// `KEXEC_FILE_DEBUG`
    const DEBUG: libc::c_ulong = 8;

    load(kernel, initrd, cmdline, DEBUG)
}

fn load(
    kernel: BorrowedFd<'_>,
    initrd: Option<BorrowedFd<'_>>,
    cmdline: &CStr,
    flags: libc::c_ulong,
) -> io::Result<()> {
    /// `KEXEC_FILE_NO_INITRAMFS`
    const NO_INITRAMFS: libc::c_ulong = 4;

    let no_initramfs = if initrd.is_some() { 0 } else { NO_INITRAMFS };
    let initrd = initrd.map_or(-1, |fd| fd.as_raw_fd());
    kexec_file_load_call(kernel.as_raw_fd(), initrd, cmdline, flags | no_initramfs)
}

/// Unloads the kernel that the next kexec would start, however it was loaded.
///
/// # Errors
///
/// As [`kexec_file_load`]; none if nothing is loaded.
pub fn kexec_file_unload() -> io::Result<()> {
    /// `KEXEC_FILE_UNLOAD`
    const UNLOAD: libc::c_ulong = 1;

    kexec_file_load_call(-1, -1, c"", UNLOAD)
}

/// Takes the descriptors that a service manager has passed to this process: see
/// [`crate::systemd::inherited`].
pub(crate) fn inherited() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);

    let number = |name| env::var(name).ok().and_then(|value| value.parse().ok());
    let ours = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").unwrap_or(0);
    if !ours || TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let end = i32::try_from(count).map_or(i32::MAX, |count| count.saturating_add(3));
    let mut fds = Vec::new();
    for number in 3..end {
        let name = names.next().unwrap_or_default().to_owned();
        // SAFETY: The service manager has opened it for this process, which takes it only once. If
        // it has not, the next call finds that out, and the number is not used any more.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).is_err() {
            break;
        }
        // SAFETY: `fcntl` has shown that it is open, and nothing else in the process owns it.
        fds.push((name, unsafe { OwnedFd::from_raw_fd(number) }));
    }
    fds
}
