// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An in-process fake kernel: the implementation of [`crate::fake`] with file descriptors.

use crate::raw::{
    CreateSession, Finish, GetName, Policy, PreserveFd, RetrieveFd, RetrieveSession, SetPolicy,
    Token, NAME_LENGTH,
};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::{fstat, FileType},
    io::Errno,
    pipe::{pipe_with, PipeFlags},
};
use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// The identity of a file.
type Id = (u64, u64);

/// The files of all fake kernels.
static FILES: Mutex<Option<HashMap<Id, Ours>>> = Mutex::new(None);

#[derive(Clone)]
struct Ours {
    kernel: Kernel,
    what: What,
}

#[derive(Clone)]
enum What {
    Device,
    Outgoing(Vec<u8>),
    Incoming(Vec<u8>),
}

/// The end of a pipe, which shows whether the other end is still open.
#[derive(Debug)]
struct Watch(OwnedFd);

impl Watch {
    fn is_open(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::empty())];
        let polled = poll(&mut fds, Some(&Timespec::default()));
        polled.is_ok() && !fds[0].revents().contains(PollFlags::HUP)
    }
}

#[derive(Debug, Default)]
struct Outgoing {
    watch: Option<Watch>,
    files: BTreeMap<Token, OwnedFd>,
}

impl Outgoing {
    fn is_open(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_open)
    }
}

#[derive(Debug, Default)]
struct Incoming {
    watch: Option<Watch>,
    files: BTreeMap<Token, OwnedFd>,
    finished: bool,
}

impl Incoming {
    fn is_abandoned(&self) -> bool {
        !self.finished && !self.watch.as_ref().is_some_and(Watch::is_open)
    }
}

#[derive(Debug, Default)]
struct State {
    device: Option<Watch>,
    outgoing: BTreeMap<Vec<u8>, Outgoing>,
    /// The sessions and their files.
    preserved: HashMap<Id, Vec<u8>>,
    incoming: BTreeMap<Vec<u8>, Incoming>,
    updates: u64,
    broken: Option<Errno>,
    /// Whether FINISH blocks.
    holds_finishes: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signals that FINISH does not block any more.
    released: Condvar,
}

/// An in-process fake kernel. Clones are the same kernel.
#[derive(Clone, Debug, Default)]
pub struct Kernel(Arc<Shared>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn id(fd: impl AsFd) -> rustix::io::Result<Id> {
    // The types of the fields depend on the architecture.
    #[allow(clippy::unnecessary_cast)]
    fstat(fd).map(|stat| (stat.st_dev as u64, stat.st_ino as u64))
}

impl Kernel {
    /// Starts a kernel without incoming sessions.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Opens its device.
    pub(crate) fn open_device(&self) -> rustix::io::Result<OwnedFd> {
        let mut state = self.state();
        if let Some(errno) = state.broken {
            return Err(errno);
        }
        if state.device.as_ref().is_some_and(Watch::is_open) {
            return Err(Errno::BUSY);
        }
        let (fd, watch) = self.file(What::Device)?;
        state.device = Some(watch);
        Ok(fd)
    }

    /// Makes all attempts to open the device fail with this error number, or succeed again.
    pub fn break_device(&self, errno: Option<i32>) {
        self.state().broken = errno.map(Errno::from_raw_os_error);
    }

    /// Makes FINISH wait, as if the session had a lot of memory, or wait no longer.
    pub fn hold_finishes(&self, hold: bool) {
        self.state().holds_finishes = hold;
        self.0.released.notify_all();
    }

    /// Whether FINISH waits.
    pub fn holds_finishes(&self) -> bool {
        self.state().holds_finishes
    }

    /// The names of outgoing sessions that unfinished incoming sessions have as well: no kexec is
    /// possible.
    pub fn conflicts(&self) -> Vec<String> {
        let outgoing = self.outgoing();
        let mut incoming = self.incoming();
        incoming.retain(|name| outgoing.contains_key(name));
        incoming
    }

    /// Starts the next kernel: outgoing sessions become incoming ones.
    ///
    /// All descriptors of sessions and of the device stop working, as if their process had ended.
    pub fn kexec(&self) {
        let mut state = self.state();
        state.updates += 1;
        state.device = None;
        state.drop_closed();
        let outgoing = std::mem::take(&mut state.outgoing);
        state.preserved.clear();
        state.incoming.retain(|_, session| !session.finished);
        for session in state.incoming.values_mut() {
            session.watch = None;
        }
        for (name, session) in outgoing {
            let session = Incoming {
                files: session.files,
                ..Incoming::default()
            };
            state.incoming.insert(name, session);
        }
        if let Some(files) = lock(&FILES).as_mut() {
            files.retain(|_, file| !Arc::ptr_eq(&file.kernel.0, &self.0));
        }
    }

    /// The number of kernels that were started.
    pub fn updates(&self) -> u64 {
        self.state().updates
    }

    /// The names of the outgoing sessions, with their tokens.
    pub fn outgoing(&self) -> BTreeMap<String, Vec<Token>> {
        let mut state = self.state();
        state.drop_closed();
        let sessions = state.outgoing.iter();
        sessions
            .map(|(name, session)| (text(name), session.files.keys().copied().collect()))
            .collect()
    }

    /// The names of the unfinished incoming sessions.
    pub fn incoming(&self) -> Vec<String> {
        let state = self.state();
        let sessions = state.incoming.iter().filter(|(_, s)| !s.finished);
        sessions.map(|(name, _)| text(name)).collect()
    }

    /// Creates a file of this kernel.
    fn file(&self, what: What) -> rustix::io::Result<(OwnedFd, Watch)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let ours = Ours {
            kernel: self.clone(),
            what,
        };
        let id = id(&write)?;
        lock(&FILES).get_or_insert_default().insert(id, ours);
        Ok((write, Watch(read)))
    }

    fn device_call(&self, command: &mut dyn Any) -> rustix::io::Result<()> {
        let mut state = self.state();
        if let Some(command) = command.downcast_mut::<CreateSession>() {
            let name = name(&command.name)?;
            let taken = state.outgoing.get(&name).is_some_and(Outgoing::is_open);
            if taken
                || state
                    .incoming
                    .get(&name)
                    .is_some_and(Incoming::is_abandoned)
            {
                return Err(Errno::EXIST);
            }
            let (fd, watch) = self.file(What::Outgoing(name.clone()))?;
            let session = Outgoing {
                watch: Some(watch),
                ..Outgoing::default()
            };
            state.outgoing.insert(name, session);
            command.fd = fd.into_raw_fd();
        } else if let Some(command) = command.downcast_mut::<RetrieveSession>() {
            let name = name(&command.name)?;
            let session = state.incoming.get_mut(&name).ok_or(Errno::NOENT)?;
            if session.finished {
                return Err(Errno::NOENT);
            }
            if session.watch.as_ref().is_some_and(Watch::is_open) {
                return Err(Errno::BUSY);
            }
            let (fd, watch) = self.file(What::Incoming(name))?;
            session.watch = Some(watch);
            command.fd = fd.into_raw_fd();
        } else {
            return Err(Errno::NOTTY);
        }
        Ok(())
    }

    fn outgoing_call(&self, name: &[u8], command: &mut dyn Any) -> rustix::io::Result<()> {
        let mut state = self.state();
        if let Some(command) = command.downcast_mut::<PreserveFd>() {
            let file = borrow(command.fd)?;
            let id = id(&file)?;
            let other = state.preserved.get(&id);
            let other = other.and_then(|name| state.outgoing.get(name));
            // Its session may have ended, and its inode number be reused.
            let has = |session: &Outgoing| {
                let mut files = session.files.values();
                session.is_open() && files.any(|file| self::id(file) == Ok(id))
            };
            if other.is_some_and(has) {
                return Err(Errno::BUSY);
            }
            let session = state.outgoing.get_mut(name).ok_or(Errno::BUSY)?;
            if session.files.contains_key(&command.token) {
                return Err(Errno::EXIST);
            }
            session.files.insert(command.token, file);
            state.preserved.insert(id, name.to_vec());
            Ok(())
        } else if let Some(command) = command.downcast_mut::<SetPolicy>() {
            // The fake kernel can hand over every file.
            match [Policy::Abort, Policy::Skip].map(|policy| policy as u32) {
                known if known.contains(&command.policy) => Ok(()),
                _ => Err(Errno::INVAL),
            }
        } else {
            common_call(name, command)
        }
    }

    fn incoming_call(&self, name: &[u8], command: &mut dyn Any) -> rustix::io::Result<()> {
        let mut state = self.state();
        while command.is::<Finish>() && state.holds_finishes {
            let waited = self.0.released.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let session = state.incoming.get_mut(name).ok_or(Errno::NOENT)?;
        if let Some(command) = command.downcast_mut::<RetrieveFd>() {
            if session.finished {
                return Err(Errno::NOENT);
            }
            let file = session.files.get(&command.token).ok_or(Errno::NOENT)?;
            let file = rustix::io::fcntl_dupfd_cloexec(file, 0)?;
            command.fd = file.into_raw_fd();
            Ok(())
        } else if command.is::<Finish>() {
            session.finished = true;
            session.files.clear();
            Ok(())
        } else {
            common_call(name, command)
        }
    }
}

impl State {
    /// Ends the outgoing sessions that are not open.
    fn drop_closed(&mut self) {
        self.outgoing.retain(|_, session| session.is_open());
    }
}

fn common_call(name: &[u8], command: &mut dyn Any) -> rustix::io::Result<()> {
    if let Some(command) = command.downcast_mut::<GetName>() {
        for (to, from) in command.name.iter_mut().zip(name) {
            *to = *from;
        }
        return Ok(());
    }
    let of_sessions = command.is::<PreserveFd>() || command.is::<RetrieveFd>();
    Err(
        if of_sessions || command.is::<Finish>() || command.is::<SetPolicy>() {
            Errno::INVAL
        } else {
            Errno::NOTTY
        },
    )
}

/// Duplicates a descriptor.
fn borrow(fd: i32) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{fd}");
    let link = rustix::fs::stat(path.as_str()).map_err(|_| Errno::BADF)?;
    if FileType::from_raw_mode(link.st_mode) != FileType::RegularFile {
        return Err(Errno::NOENT);
    }
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty())
}

fn name(field: &[u8; NAME_LENGTH]) -> rustix::io::Result<Vec<u8>> {
    let end = field.iter().position(|byte| *byte == 0);
    match end.and_then(|end| field.get(..end)) {
        Some(name) if !name.is_empty() => Ok(name.to_vec()),
        _ => Err(Errno::INVAL),
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Emulates an ioctl, if `fd` belongs to a fake kernel.
pub(crate) fn call(fd: BorrowedFd<'_>, command: &mut dyn Any) -> Option<io::Result<()>> {
    let id = id(fd).ok()?;
    let ours = lock(&FILES).as_ref()?.get(&id).cloned()?;
    let result = match &ours.what {
        What::Device => ours.kernel.device_call(command),
        What::Outgoing(name) => ours.kernel.outgoing_call(name, command),
        What::Incoming(name) => ours.kernel.incoming_call(name, command),
    };
    Some(result.map_err(io::Error::from))
}
