// SPDX-License-Identifier: GPL-2.0

//! For services of systemd: what it hands over at their start, and what it keeps for them.
//!
//! With `LUOSession=NAME` in its unit, a service gets a session without having access to
//! `/dev/liveupdate`. With `FileDescriptorStoreMax=` and `FileDescriptorStorePreserve=yes`, systemd
//! keeps that session, and other descriptors, over restarts of the service and over `systemctl
//! kexec`. The same session comes back as an incoming one, to be emptied and finished:
//!
//! ```no_run
//! use liveupdate::{systemd::{Inherited, Manager, Session}, Device};
//! # fn main() -> std::io::Result<()> {
//! # let memfd = || std::fs::File::open("/dev/null");
//! let mut inherited = Inherited::take()?;
//! let manager = Manager::from_env()?;
//! if let Some(Session::Incoming(session)) = inherited.session("cache") {
//!     let memfd = session.retrieve(1)?;
//!     // ... take it into use, and only then:
//!     manager.finish("cache", session)?;
//! }
//! // A session can be filled once: get a new one for the next update.
//! let session = Device::open()?.create_session("cache")?;
//! session.preserve(memfd()?, 1)?;
//! manager.store("cache", &session)?;
//! manager.notify("READY=1")?;
//! manager.barrier()?;
//! # Ok(())
//! # }
//! ```
//!
//! systemd opens the device, too, and only one file of it can be open: leave it closed.

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

/// How long systemd may take to read what it was sent.
const BARRIER: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// How the links of sessions in `/proc/self/fd` begin.
const LINK: &[u8] = b"anon_inode:[luo_session]";

/// The kinds of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To be filled, for the next kernel.
    Outgoing,
    /// From the previous kernel.
    Incoming,
}

/// Tells which kind of session `fd` is, if it is one. Changes nothing.
///
/// # Errors
///
/// If the kernel does not tell, for which `/proc` is needed.
pub fn kind(fd: BorrowedFd<'_>) -> io::Result<Option<Kind>> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let link = std::fs::read_link(path).context(|| "see what a descriptor is".into())?;
    if !link.as_os_str().as_bytes().starts_with(LINK) {
        return Ok(None);
    }
    // An incoming session refuses whatever it is asked to preserve, before it looks at it. An
    // outgoing one finds that there is no such file.
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
    /// To be filled, for the next kernel.
    Outgoing(OutgoingSession),
    /// From the previous kernel.
    Incoming(IncomingSession),
}

impl Session {
    /// Takes `fd` for what it is; gives it back if it is not a session.
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

    /// Returns the name that the kernel knows it by.
    ///
    /// systemd calls it `FDNAME`, which is what [`Inherited`] goes by, something else.
    ///
    /// # Errors
    ///
    /// `ENOTTY` if the kernel is too old to tell.
    pub fn name(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Outgoing(session) => session.name(),
            Self::Incoming(session) => session.name(),
        }
    }
}

/// Takes the descriptors that a service manager has passed to this process, with their names, as
/// `sd_listen_fds_with_names(3)` does, without looking at what they are.
///
/// Returns them once only; to a process that the service manager has not started itself, none.
/// They are closed on exec. [`Inherited::take`] sorts them.
pub fn inherited() -> Vec<(String, OwnedFd)> {
    raw::inherited()
}

/// How often the service manager wants to hear `WATCHDOG=1` at least, if it does: twice as often as
/// `WatchdogSec=` says.
pub fn watchdog() -> Option<Duration> {
    let for_us = env::var("WATCHDOG_PID")
        .ok()
        .and_then(|pid| pid.parse().ok())
        .is_none_or(|pid: u32| pid == std::process::id());
    let micros = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    for_us.then(|| Duration::from_micros(micros) / 2)
}

/// What systemd has handed over, by `FDNAME`.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The sessions, those of `LUOSession=` and those that were put into the store.
    pub sessions: Vec<(String, Session)>,
    /// Everything else: files of the store, and sockets.
    pub files: Vec<(String, OwnedFd)>,
}

impl Inherited {
    /// Takes everything; a second call gets nothing, and so does a process that systemd has not
    /// started itself.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell what a descriptor is, which needs `/proc`.
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

    /// Takes the session `name` out.
    pub fn session(&mut self, name: &str) -> Option<Session> {
        take(&mut self.sessions, name)
    }

    /// Takes the file `name` out.
    pub fn file(&mut self, name: &str) -> Option<OwnedFd> {
        take(&mut self.files, name)
    }
}

fn take<T>(from: &mut Vec<(String, T)>, name: &str) -> Option<T> {
    let at = from.iter().position(|(other, _)| other == name)?;
    Some(from.remove(at).1)
}

/// systemd, as a service talks to it: `sd_notify(3)`.
#[derive(Debug)]
pub struct Manager {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl Manager {
    /// Finds it in the environment.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if this process is not a service that may send notifications,
    /// see `NotifyAccess=` in `systemd.service(5)`.
    pub fn from_env() -> io::Result<Self> {
        let path = env::var_os("NOTIFY_SOCKET").ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "$NOTIFY_SOCKET is not set: this has to run as a service with NotifyAccess=",
            )
        })?;
        Self::new(path.as_bytes()).context(|| "use $NOTIFY_SOCKET".into())
    }

    fn new(path: &[u8]) -> io::Result<Self> {
        let address = match path {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path => SocketAddrUnix::new(path)?,
        };
        // So that no service waits for ever for one that does not read.
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

    /// Tells systemd something, such as `READY=1`.
    ///
    /// # Errors
    ///
    /// If it does not listen.
    pub fn notify(&self, state: &str) -> io::Result<()> {
        self.send(state, &[])
    }

    /// Puts a file or a session into the store, as `name`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if systemd does not accept the name; if it does not listen.
    /// Whether there is room in the store is not known, see `FileDescriptorStoreMax=`.
    pub fn store(&self, name: &str, fd: impl AsFd) -> io::Result<()> {
        check(name)?;
        self.send(
            &format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"),
            &[fd.as_fd()],
        )
    }

    /// Removes everything called `name` from the store.
    ///
    /// # Errors
    ///
    /// As [`Self::store`].
    pub fn remove(&self, name: &str) -> io::Result<()> {
        check(name)?;
        self.notify(&format!("FDSTOREREMOVE=1\nFDNAME={name}"))
    }

    /// Finishes a session, and removes it from the store, where it is called `name`.
    ///
    /// Once it is finished, everything that was retrieved from it is the service's: that systemd
    /// cannot be told is no error. What is in the store then is an empty session: the next start of
    /// the service finds no file in it (`ENOENT`), and has to begin anew.
    ///
    /// # Errors
    ///
    /// As [`IncomingSession::finish`]; nothing has changed then.
    pub fn finish(&self, name: &str, session: IncomingSession) -> Result<(), FinishError> {
        session.finish()?;
        // See above.
        let _ = self.remove(name);
        Ok(())
    }

    /// Waits until systemd has read everything that it was sent.
    ///
    /// What a process sends right before it exits is lost otherwise.
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
                "systemd does not read what it is sent",
            )),
            _ => Ok(()),
        }
    }
}

/// What `sd_pid_notify_with_fds(3)` says about `FDNAME=`.
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

    /// systemd does not listen when a session is finished: it is finished anyway.
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
        // The reader of the message closes the descriptors that came with it.
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
