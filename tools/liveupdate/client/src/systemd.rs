// SPDX-License-Identifier: Apache-2.0 OR MIT

//! For services of systemd: descriptors that it passes at their start, and that it stores.
//!
//! With `LUOSession=NAME` in its unit, a service gets a session without having access to
//! `/dev/liveupdate`. With `FileDescriptorStoreMax=` and `FileDescriptorStorePreserve=yes`, systemd
//! keeps that session, and other descriptors, during restarts of the service and `systemctl kexec`.
//! After the latter, the service gets the session as an incoming one, and must finish it:
//!
//! ```no_run
//! use liveupdate::{systemd::{Inherited, Manager, Session}, Device};
//! # fn main() -> std::io::Result<()> {
//! # let memfd = || std::fs::File::open("/dev/null");
//! let mut inherited = Inherited::take()?;
//! let manager = Manager::from_env()?;
//! if let Some(Session::Incoming(session)) = inherited.session("cache") {
//!     let memfd = session.retrieve(1)?;
//!     // ... use it, and then:
//!     manager.finish("cache", session)?;
//! }
//! // An incoming session cannot be used for the next update: get a new one.
//! let session = Device::open()?.create_session("cache")?;
//! session.preserve(memfd()?, 1)?;
//! manager.store("cache", &session)?;
//! manager.notify("READY=1")?;
//! manager.barrier()?;
//! # Ok(())
//! # }
//! ```
//!
//! systemd opens the device as well, and it can be open only once: do not keep it open.

use crate::{
    error::{errno, Context},
    raw,
    session::{FinishError, IncomingSession, OutgoingSession},
    transport,
};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    net::{
        sendmsg_addr, socket_with, AddressFamily, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    },
    pipe::{pipe_with, PipeFlags},
};
use std::{
    env,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    time::Duration,
};

/// The time limit for systemd to read notifications.
const BARRIER: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The prefix of the links of sessions in `/proc/self/fd`.
const LINK: &[u8] = b"anon_inode:[luo_session]";

/// The kinds of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Will be handed over to the next kernel.
    Outgoing,
    /// From the previous kernel.
    Incoming,
}

/// Returns the kind of the session `fd`, if it is one. Changes nothing.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn kind(fd: BorrowedFd<'_>) -> io::Result<Option<Kind>> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let link = std::fs::read_link(path).context(|| "determine the kind of a descriptor".into())?;
    if !link.as_os_str().as_bytes().starts_with(LINK) {
        return Ok(None);
    }
    // An incoming session refuses to preserve any file, before it checks the descriptor. An
    // outgoing one fails because the file does not exist.
    let mut command = raw::PreserveFd::default();
    let refusal = transport::call(fd, &mut command).err();
    let refusal = refusal.as_ref().and_then(errno);
    let incoming = refusal == Some(Errno::INVAL.raw_os_error());
    Ok(Some(if incoming {
        Kind::Incoming
    } else {
        Kind::Outgoing
    }))
}

/// A session of either kind.
#[derive(Debug)]
pub enum Session {
    /// Will be handed over to the next kernel.
    Outgoing(OutgoingSession),
    /// From the previous kernel.
    Incoming(IncomingSession),
}

impl Session {
    /// Converts `fd` to a session; returns it if it is not one.
    ///
    /// # Errors
    ///
    /// See [`kind`].
    pub fn recognize(fd: OwnedFd) -> io::Result<Result<Self, OwnedFd>> {
        Ok(match kind(fd.as_fd())? {
            Some(Kind::Outgoing) => Ok(Self::Outgoing(fd.into())),
            Some(Kind::Incoming) => Ok(Self::Incoming(fd.into())),
            None => Err(fd),
        })
    }

    /// Returns the name of the session in the kernel.
    ///
    /// The name in systemd, which [`Inherited`] uses, is another one (`FDNAME`).
    ///
    /// # Errors
    ///
    /// `ENOTTY` if the kernel does not support it.
    pub fn name(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Outgoing(session) => session.name(),
            Self::Incoming(session) => session.name(),
        }
    }
}

/// Takes the descriptors that a service manager has passed to this process, with their names, as
/// `sd_listen_fds_with_names(3)` does, without checking their kind.
///
/// Returns them only once; returns none in a process that the service manager has not started
/// itself. They are closed on exec. [`Inherited::take`] sorts them.
pub fn inherited() -> Vec<(String, OwnedFd)> {
    raw::inherited()
}

/// The interval for `WATCHDOG=1`, if the service manager expects it: half of `WatchdogSec=`.
pub fn watchdog() -> Option<Duration> {
    let for_us = env::var("WATCHDOG_PID")
        .ok()
        .and_then(|pid| pid.parse().ok())
        .is_none_or(|pid: u32| pid == std::process::id());
    let micros = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    for_us.then(|| Duration::from_micros(micros) / 2)
}

/// Descriptors that systemd has passed, by `FDNAME`.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Inherited {
    /// The sessions, those of `LUOSession=` and those that were put into the store.
    pub sessions: Vec<(String, Session)>,
    /// Other descriptors: files of the store, and sockets.
    pub files: Vec<(String, OwnedFd)>,
}

impl Inherited {
    /// Takes all descriptors; returns none at a second call, or in a process that systemd has not
    /// started itself.
    ///
    /// # Errors
    ///
    /// If the kind of a descriptor cannot be determined, which needs `/proc`.
    pub fn take() -> io::Result<Self> {
        Self::sort(inherited())
    }

    fn sort(fds: Vec<(String, OwnedFd)>) -> io::Result<Self> {
        let mut inherited = Self::default();
        for (name, fd) in fds {
            match Session::recognize(fd)? {
                Ok(session) => inherited.sessions.push((name, session)),
                Err(fd) => inherited.files.push((name, fd)),
            }
        }
        Ok(inherited)
    }

    /// Removes and returns the session `name`.
    pub fn session(&mut self, name: &str) -> Option<Session> {
        take(&mut self.sessions, name)
    }

    /// Removes and returns the file `name`.
    pub fn file(&mut self, name: &str) -> Option<OwnedFd> {
        take(&mut self.files, name)
    }
}

fn take<T>(from: &mut Vec<(String, T)>, name: &str) -> Option<T> {
    let at = from.iter().position(|(other, _)| other == name)?;
    Some(from.remove(at).1)
}

/// Notifications of a service to systemd: `sd_notify(3)`.
#[derive(Debug)]
pub struct Manager {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl Manager {
    /// Finds the socket in the environment.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if this process is not a service that may send notifications,
    /// see `NotifyAccess=` in `systemd.service(5)`.
    pub fn from_env() -> io::Result<Self> {
        let path = env::var_os("NOTIFY_SOCKET").ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "$NOTIFY_SOCKET is not set: this must run as a service with NotifyAccess=",
            )
        })?;
        Self::new(path.as_bytes()).context(|| "use $NOTIFY_SOCKET".into())
    }

    fn new(path: &[u8]) -> io::Result<Self> {
        let address = match path {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path => SocketAddrUnix::new(path)?,
        };
        // The service must not wait forever for a systemd that does not read.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        Ok(Self { socket, address })
    }

    fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut room);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::INVAL.into());
        }
        let text = [IoSlice::new(text.as_bytes())];
        let flags = SendFlags::NOSIGNAL;
        let result = loop {
            match sendmsg_addr(&self.socket, &self.address, &text, &mut ancillary, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
                    if poll(&mut fds, Some(&BARRIER)) == Ok(0) {
                        break Err(Errno::TIMEDOUT);
                    }
                }
                result => break result,
            }
        };
        result.map(drop).context(|| "reach systemd".into())
    }

    /// Sends a notification to systemd, such as `READY=1`.
    ///
    /// # Errors
    ///
    /// If systemd does not listen.
    pub fn notify(&self, state: &str) -> io::Result<()> {
        self.send(state, &[])
    }

    /// Adds a file or a session to the store, as `name`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if systemd does not accept the name; another error if it
    /// does not listen. A full store is not reported, see `FileDescriptorStoreMax=`.
    pub fn store(&self, name: &str, fd: impl AsFd) -> io::Result<()> {
        check(name)?;
        self.send(
            &format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"),
            &[fd.as_fd()],
        )
    }

    /// Removes all descriptors called `name` from the store.
    ///
    /// # Errors
    ///
    /// See [`Self::store`].
    pub fn remove(&self, name: &str) -> io::Result<()> {
        check(name)?;
        self.notify(&format!("FDSTOREREMOVE=1\nFDNAME={name}"))
    }

    /// Finishes a session, and removes it from the store, in which its name is `name`.
    ///
    /// After the finish, all retrieved files belong to the service, so that a failure to notify
    /// systemd is not an error. The store then has an empty session: the next start of the service
    /// finds no file in it (`ENOENT`), and must start without data.
    ///
    /// # Errors
    ///
    /// See [`IncomingSession::finish`]; nothing has changed then.
    pub fn finish(&self, name: &str, session: IncomingSession) -> Result<(), FinishError> {
        session.finish()?;
        // The session is finished, so that an error is ignored.
        let _ = self.remove(name);
        Ok(())
    }

    /// Waits until systemd has read all notifications.
    ///
    /// Otherwise notifications that a process sends right before its exit are lost.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] after five seconds.
    pub fn barrier(&self) -> io::Result<()> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        self.send("BARRIER=1", &[write.as_fd()])?;
        drop(write);
        let mut fds = [PollFd::new(&read, PollFlags::empty())];
        match rustix::io::retry_on_intr(|| poll(&mut fds, Some(&BARRIER)))? {
            0 => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "systemd does not read notifications",
            )),
            _ => Ok(()),
        }
    }
}

/// The rules for `FDNAME=` in `sd_pid_notify_with_fds(3)`.
fn check(name: &str) -> io::Result<()> {
    let valid = |byte: u8| (b' '..127).contains(&byte) && byte != b':';
    if name.is_empty() || name.len() > 255 || !name.bytes().all(valid) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "systemd does not accept '{}' as a name",
                name.escape_debug()
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{memfd_create, MemfdFlags};
    use std::os::unix::net::UnixDatagram;

    fn memfd() -> OwnedFd {
        memfd_create("x", MemfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn what_is_no_session_is_a_file() {
        let fds = vec![("a".to_owned(), memfd()), ("b".to_owned(), memfd())];
        let mut inherited = Inherited::sort(fds).unwrap();
        assert!(inherited.sessions.is_empty());
        assert!(inherited.session("a").is_none());
        assert!(inherited.file("b").is_some());
        assert!(inherited.file("b").is_none());
        assert_eq!(inherited.files.len(), 1);
    }

    #[test]
    fn without_systemd_there_is_nothing() {
        let inherited = Inherited::take().unwrap();
        assert!(inherited.sessions.is_empty() && inherited.files.is_empty());
    }

    /// A session is finished even if systemd does not listen.
    #[cfg(feature = "fake")]
    #[test]
    fn finished_without_systemd() {
        let kernel = crate::fake::Kernel::new();
        let session = kernel.open().unwrap().create_session("a").unwrap();
        session.preserve(memfd(), 1).unwrap();
        kernel.kexec();
        let session = kernel.open().unwrap().retrieve_session("a").unwrap();
        let manager = Manager::new(b"/nonexistent/notify").unwrap();
        assert!(manager.remove("a").is_err());
        manager.finish("a", session).unwrap();
        assert!(kernel.incoming().is_empty());
    }

    #[test]
    fn names() {
        assert!(check("cache").is_ok());
        for name in ["", "a:b", "a\nb", "ä", &"a".repeat(256)] {
            assert!(check(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_store() {
        let dir = env::temp_dir().join(format!("liveupdate-notify-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::new(path.as_os_str().as_bytes()).unwrap();
        manager.store("x", memfd()).unwrap();
        manager.remove("x").unwrap();
        assert!(manager.store("a:b", memfd()).is_err());
        let mut text = [0; 100];
        for expected in ["FDSTORE=1\nFDPOLL=0\nFDNAME=x", "FDSTOREREMOVE=1\nFDNAME=x"] {
            let length = socket.recv(&mut text).unwrap();
            assert_eq!(&text[..length], expected.as_bytes());
        }
        // The reader of the message closes its descriptors.
        let reader = std::thread::spawn(move || {
            let length = socket.recv(&mut text).unwrap();
            text[..length].to_vec()
        });
        manager.barrier().unwrap();
        assert_eq!(reader.join().unwrap(), b"BARRIER=1");
        assert!(manager.notify("READY=1").is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
