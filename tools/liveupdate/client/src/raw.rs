// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The ioctls of `include/uapi/linux/liveupdate.h`, and related system calls.
//!
//! For tests, and for operations that the other modules do not have.

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

/// The number of a file within its session.
pub type Token = u64;

/// `LIVEUPDATE_POLICY_*`: whether an update continues if a file cannot be handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Policy {
    /// The update is aborted: starting the next kernel fails with the error of the file.
    #[default]
    Abort = uapi::LIVEUPDATE_POLICY_ABORT,
    /// The session is handed over without the file.
    Skip = uapi::LIVEUPDATE_POLICY_SKIP,
}

/// An argument of an ioctl.
///
/// # Safety
///
/// The type must be `repr(C)`, start with its size as a `u32`, and consist of integers only. The
/// kernel must not use any part of it as an address.
pub unsafe trait Command {
    /// The number of the ioctl.
    const REQUEST: u32;

    /// Sets the field with the size of the structure.
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

// SAFETY: The kernel may write to the memory at `arg`. The constructors of this type require that
// it is writable; there is no other output.
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

/// Calls any ioctl.
///
/// # Errors
///
/// All errors of the kernel.
///
/// # Safety
///
/// The kernel may read and write any number of bytes at `arg` that this request implies, which may
/// depend on their contents. They must be memory that is not otherwise in use, or not be mapped.
pub unsafe fn ioctl(fd: BorrowedFd<'_>, request: u32, arg: *mut c_void) -> io::Result<()> {
    // SAFETY: The caller guarantees that `arg` is valid for `request`.
    unsafe { rustix::ioctl::ioctl(fd, Request { request, arg }) }?;
    Ok(())
}

/// Calls the ioctl of `command`, after setting its size.
///
/// # Errors
///
/// All errors of the kernel.
pub fn call<C: Command>(fd: BorrowedFd<'_>, command: &mut C) -> io::Result<()> {
    command.set_size(size_of::<C>() as u32);
    // SAFETY: The kernel accesses the number of bytes in the size field, which is the size of the
    // command. All of them are integers, so any value is valid.
    unsafe { ioctl(fd, C::REQUEST, std::ptr::from_mut(command).cast()) }
}

/// Takes ownership of a file descriptor that the kernel has just created.
pub(crate) fn take_fd(fd: RawFd) -> OwnedFd {
    // SAFETY: Only called with a descriptor of a successful ioctl, which has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Reads the counter of the processor, if it has one: the time-stamp counter of x86, or the virtual
/// count of arm64.
///
/// It continues during a kexec, unlike the clocks of the kernel.
pub fn time_stamp_counter() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: All x86-64 processors have the instruction.
        Some(unsafe { core::arch::x86_64::_rdtsc() })
    }
    #[cfg(target_arch = "aarch64")]
    {
        let count;
        // SAFETY: Linux lets programs read the register, which all processors have. The instruction
        // changes nothing but the destination.
        unsafe {
            core::arch::asm!("mrs {}, cntvct_el0", out(reg) count,
                options(nomem, nostack, preserves_flags));
        }
        Some(count)
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    None
}

/// Calls `kexec_file_load()`, which rustix does not have.
fn kexec_file_load_call(
    kernel: RawFd,
    initrd: RawFd,
    cmdline: &CStr,
    flags: libc::c_ulong,
) -> io::Result<()> {
    // SAFETY: The kernel only reads the given number of bytes of the command line, which lives
    // until the call returns. It returns an error for descriptors that are not open.
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
/// by the older `kexec_load(2)` cannot take over data.
///
/// It replaces the previously loaded image. Without `initrd`, the next kernel has only its
/// built-in initial RAM file system.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_BOOT`, `ENOEXEC` if the file is not a kernel for this machine, `EBUSY`
/// if an image is being loaded or started, `ENOMEM`, `EADDRNOTAVAIL` if there is not enough memory
/// of the right kind, `ENOSYS` without `CONFIG_KEXEC_FILE`. The previous image stays loaded.
pub fn kexec_file_load(
    kernel: BorrowedFd<'_>,
    initrd: Option<BorrowedFd<'_>>,
    cmdline: &CStr,
) -> io::Result<()> {
    load(kernel, initrd, cmdline, 0)
}

/// Like [`kexec_file_load`]; Linux 6.8 and later log the steps.
///
/// # Errors
///
/// See [`kexec_file_load`]; `EINVAL` if the kernel is older.
pub fn kexec_file_load_debug(
    kernel: BorrowedFd<'_>,
    initrd: Option<BorrowedFd<'_>>,
    cmdline: &CStr,
) -> io::Result<()> {
    /// `KEXEC_FILE_DEBUG`
    const DEBUG: libc::c_ulong = 8;

    load(kernel, initrd, cmdline, DEBUG)
}

/// Like [`kexec_file_load`], for the kernel that is started when this one crashes. It needs memory of
/// its own, which the parameter `crashkernel=` reserves.
///
/// # Errors
///
/// See [`kexec_file_load`]; `EADDRNOTAVAIL` as well if no memory is reserved.
pub fn kexec_file_load_crash(
    kernel: BorrowedFd<'_>,
    initrd: Option<BorrowedFd<'_>>,
    cmdline: &CStr,
) -> io::Result<()> {
    /// `KEXEC_FILE_ON_CRASH`
    const ON_CRASH: libc::c_ulong = 2;

    load(kernel, initrd, cmdline, ON_CRASH)
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

/// Unloads the kernel that the next kexec would start, independent of how it was loaded.
///
/// # Errors
///
/// See [`kexec_file_load`]; no error if no image is loaded.
pub fn kexec_file_unload() -> io::Result<()> {
    /// `KEXEC_FILE_UNLOAD`
    const UNLOAD: libc::c_ulong = 1;

    kexec_file_load_call(-1, -1, c"", UNLOAD)
}

/// The supplementary groups of the process that has connected a UNIX socket (`SO_PEERGROUPS`), as
/// they were when it connected.
///
/// # Errors
///
/// Those of `getsockopt()`; `ENODATA` if the socket is not connected.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let bytes = size_of_val(groups.as_slice());
        let mut length = libc::socklen_t::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: `groups` is a buffer of `length` bytes that may have any contents, and both
        // pointers are valid during the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let error = io::Error::last_os_error();
        // The length of the groups, even if the buffer is too short for them.
        let count = usize::try_from(length).map_err(io::Error::other)? / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// A descriptor of the process that has connected a UNIX socket (`SO_PEERPIDFD`): it becomes readable when
/// the process ends, and its number is not used for another one before.
///
/// # Errors
///
/// Those of `getsockopt()`, also if the process has ended; `ENOPROTOOPT` on kernels before 6.5.
pub fn peer_process(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of_val(&fd)).map_err(io::Error::other)?;
    // SAFETY: `fd` has `length` bytes and may have any contents, and both pointers are valid during the
    // call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The kernel has returned a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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
        // SAFETY: The service manager has opened it for this process, which takes it only once.
        // Otherwise the next call fails, and the number is not used.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).is_err() {
            break;
        }
        // SAFETY: `fcntl` has succeeded, so that it is open, and it has no other owner in the
        // process.
        fds.push((name, unsafe { OwnedFd::from_raw_fd(number) }));
    }
    fds
}
