// SPDX-License-Identifier: GPL-2.0

//! A thread of the stress test.

use super::plan::{Contents, Plan};
use crate::support::{
    error::{At, Failure, Result},
    kexec, memfd,
    pattern::{Pattern, Random},
    sessions::fdinfo,
    test_device::TestDevice,
};
use liveupdate::{Device, IncomingSession, OutgoingSession};
use rustix::io::Errno;
use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex, MutexGuard, PoisonError,
    },
};

const PAGE: u64 = 4096;
const LISTING: &str = "/sys/kernel/debug/liveupdate/sessions";
/// The maximum number of outgoing sessions.
const SESSIONS: usize = 24;
/// The number of tokens: small, so that threads use the same tokens.
const TOKENS: u64 = 12;

/// A file that is preserved, or about to be preserved.
struct Preserved {
    file: File,
    contents: Contents,
}

/// An outgoing session that all threads use.
struct Outgoing {
    name: String,
    session: OutgoingSession,
    files: Mutex<BTreeMap<u64, Arc<Mutex<Preserved>>>>,
}

/// An incoming session of a thread.
struct Found {
    name: String,
    files: BTreeMap<u64, Contents>,
    session: IncomingSession,
}

/// A session with a file that cannot be frozen, which makes a kexec fail.
pub struct Brake {
    name: String,
    device: TestDevice,
    _session: OutgoingSession,
}

impl Brake {
    fn file() -> Result<TestDevice> {
        let file = TestDevice::open(TestDevice::C)?;
        file.write("fail-freeze 5")?;
        Ok(file)
    }

    fn new(device: &Device, file: TestDevice, name: String) -> io::Result<Self> {
        let session = device.create_session(&name)?;
        session.preserve(&file, 1)?;
        Ok(Self {
            name,
            device: file,
            _session: session,
        })
    }

    pub fn release(&self) -> Result {
        self.device.write("fail-freeze 0")
    }
}

/// The state that the threads share.
pub struct Shared {
    pub stop: AtomicBool,
    brake: Mutex<Brake>,
    outgoing: Mutex<Vec<Arc<Outgoing>>>,
    /// Unfinished incoming sessions.
    incoming: Mutex<Plan>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(incoming: Plan, stage: u64) -> Result<Self> {
        Ok(Self {
            stop: AtomicBool::new(false),
            brake: Mutex::new(Brake::new(
                &Device::open()?,
                Brake::file()?,
                format!("brake-{stage}"),
            )?),
            outgoing: Mutex::default(),
            incoming: Mutex::new(incoming),
        })
    }

    /// The sessions to hand over at the end, and the files that must stay open.
    pub fn into_plan(self) -> (Plan, Brake, Box<dyn Any>) {
        // Unfinished sessions are carried over.
        let mut plan = self
            .incoming
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let outgoing = self
            .outgoing
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for session in &outgoing {
            let files = lock(&session.files);
            let files = files
                .iter()
                .map(|(token, file)| (*token, lock(file).contents.clone()))
                .collect();
            plan.0.insert(session.name.clone(), files);
        }
        let brake = self
            .brake
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        plan.0.insert(brake.name.clone(), BTreeMap::new());
        (plan, brake, Box::new(outgoing))
    }
}

/// The number of successful operations.
#[derive(Default)]
pub struct Counts {
    created: u64,
    closed: u64,
    preserved: u64,
    written: u64,
    retrieved: u64,
    finished: u64,
    listed: u64,
    kexecs: u64,
    /// Errors that concurrent operations can cause.
    refused: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.created += other.created;
        self.closed += other.closed;
        self.preserved += other.preserved;
        self.written += other.written;
        self.retrieved += other.retrieved;
        self.finished += other.finished;
        self.listed += other.listed;
        self.kexecs += other.kexecs;
        self.refused += other.refused;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "created {} closed {} preserved {} written {} retrieved {} finished {} listed {} \
             kexecs {} refused {}",
            self.created,
            self.closed,
            self.preserved,
            self.written,
            self.retrieved,
            self.finished,
            self.listed,
            self.kexecs,
            self.refused
        )
    }
}

pub struct Worker<'a> {
    shared: &'a Shared,
    random: Random,
    name: String,
    number: u64,
    counts: Counts,
}

impl<'a> Worker<'a> {
    pub fn new(shared: &'a Shared, random: Random, name: String) -> Self {
        Self {
            shared,
            random,
            name,
            number: 0,
            counts: Counts::default(),
        }
    }

    /// Runs until it is stopped, or until a failure, which stops the other threads as well.
    pub fn run(mut self) -> Result<Counts> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let choice = self.below(100);
            let result = match choice {
                0..=14 => self.create(),
                15..=19 => self.close(),
                20..=49 => self.preserve(),
                50..=69 => self.write(),
                70..=79 => self.retrieve(),
                80..=81 => self.finish(),
                82..=88 => self.list(),
                89 => self.move_brake(),
                _ => self.kexec(),
            };
            if let Err(failure) = result {
                self.shared.stop.store(true, Ordering::Relaxed);
                return Err(failure).at(format_args!("thread {}", self.name));
            }
        }
        Ok(self.counts)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.number() % limit
    }

    /// [`None`] if the error was one that other threads can cause.
    fn allow<T>(
        &mut self,
        result: io::Result<T>,
        errnos: &[Errno],
        what: &str,
    ) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let errno = liveupdate::errno(&error).map(Errno::from_raw_os_error);
                if errno.is_some_and(|errno| errnos.contains(&errno)) {
                    self.counts.refused += 1;
                    return Ok(None);
                }
                Err(Failure::from(error)).at(what)
            }
        }
    }

    fn device(&mut self) -> Result<Option<Device>> {
        self.allow(Device::open(), &[Errno::BUSY], "open the device")
    }

    fn session(&mut self) -> Option<Arc<Outgoing>> {
        let sessions = lock(&self.shared.outgoing);
        let number = self.random.number() as usize;
        sessions.get(number % sessions.len().max(1)).cloned()
    }

    fn create(&mut self) -> Result {
        if lock(&self.shared.outgoing).len() >= SESSIONS {
            return self.close();
        }
        let Some(device) = self.device()? else {
            return Ok(());
        };
        self.number += 1;
        let name = format!("stress-{}-{}", self.name, self.number);
        let created = device.create_session(&name);
        let Some(session) = self.allow(created, &[Errno::BUSY], "create a session")? else {
            return Ok(());
        };
        lock(&self.shared.outgoing).push(Arc::new(Outgoing {
            name,
            session,
            files: Mutex::default(),
        }));
        self.counts.created += 1;
        Ok(())
    }

    /// The session ends when the last thread drops it.
    fn close(&mut self) -> Result {
        let session = {
            let mut sessions = lock(&self.shared.outgoing);
            let count = sessions.len();
            match count {
                0 => None,
                _ => Some(sessions.swap_remove(self.random.number() as usize % count)),
            }
        };
        if let Some(session) = session {
            drop(session);
            self.counts.closed += 1;
        }
        Ok(())
    }

    fn preserve(&mut self) -> Result {
        let Some(outgoing) = self.session() else {
            return Ok(());
        };
        let token = self.below(TOKENS);
        let file = memfd::new()?;
        let pages = [1, 4, 40, 300][self.below(4) as usize];
        let contents = Contents {
            len: (pages * 2) * PAGE,
            pieces: vec![(
                0,
                Pattern::new(self.random.number(), 1 + self.below(pages * PAGE)),
            )],
        };
        file.set_len(contents.len).at("set the size")?;
        contents.pieces[0].1.write(&file, 0)?;
        let fd = file.try_clone().at("dup")?;
        let preserved = Arc::new(Mutex::new(Preserved { file, contents }));
        let result = outgoing.session.preserve(&fd, token);
        if self
            .allow(result, &[Errno::BUSY, Errno::EXIST], "preserve a memfd")?
            .is_some()
        {
            lock(&outgoing.files).insert(token, preserved);
            self.counts.preserved += 1;
        }
        Ok(())
    }

    /// Fills a hole of a preserved file.
    fn write(&mut self) -> Result {
        let Some(outgoing) = self.session() else {
            return Ok(());
        };
        let token = self.below(TOKENS);
        let Some(preserved) = lock(&outgoing.files).get(&token).cloned() else {
            return Ok(());
        };
        let mut preserved = lock(&preserved);
        let len = preserved.contents.len;
        let at = len / 2 + self.below(len / 2);
        let pattern = Pattern::new(self.random.number(), 1 + self.below((len - at).min(9000)));
        pattern.write(&preserved.file, at)?;
        // Removes an overwritten pattern.
        preserved
            .contents
            .pieces
            .retain(|(other, old)| other + old.len <= at || *other >= at + pattern.len);
        preserved.contents.pieces.push((at, pattern));
        self.counts.written += 1;
        Ok(())
    }

    /// A session of the previous kernel, unless it is finished or another thread has it open.
    fn incoming(&mut self) -> Result<Option<Found>> {
        let chosen = {
            let plan = lock(&self.shared.incoming);
            let number = self.random.number() as usize % plan.0.len().max(1);
            plan.0
                .iter()
                .nth(number)
                .map(|(name, files)| (name.clone(), files.clone()))
        };
        let Some((name, files)) = chosen else {
            return Ok(None);
        };
        let Some(device) = self.device()? else {
            return Ok(None);
        };
        let retrieved = device.retrieve_session(&name);
        drop(device);
        let session = self.allow(
            retrieved,
            &[Errno::BUSY, Errno::NOENT],
            &format!("retrieve session {name}"),
        )?;
        Ok(session.map(|session| Found {
            name,
            files,
            session,
        }))
    }

    fn retrieve(&mut self) -> Result {
        let Some(Found {
            name,
            files,
            session,
        }) = self.incoming()?
        else {
            return Ok(());
        };
        for (token, contents) in &files {
            if self.below(3) != 0 {
                continue;
            }
            let place = format!("session {name}, token {token}");
            let result = session.retrieve(*token);
            if let Some(file) = self.allow(result, &[Errno::BUSY], &place)? {
                contents.check(&file.into()).at(&place)?;
                self.counts.retrieved += 1;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result {
        let Some(Found { name, session, .. }) = self.incoming()? else {
            return Ok(());
        };
        let result = session.finish().map_err(io::Error::from);
        if self
            .allow(result, &[Errno::BUSY], &format!("finish session {name}"))?
            .is_some()
        {
            lock(&self.shared.incoming).0.remove(&name);
            self.counts.finished += 1;
        }
        Ok(())
    }

    fn list(&mut self) -> Result {
        match self.session() {
            Some(outgoing) if self.below(2) == 0 => {
                fdinfo(&outgoing.session)?;
            }
            _ => {
                fs::read_to_string(LISTING).at(LISTING)?;
            }
        }
        self.counts.listed += 1;
        Ok(())
    }

    /// Sessions are frozen in the order of their creation: creates the file that cannot be
    /// frozen again, so that it follows the existing sessions.
    fn move_brake(&mut self) -> Result {
        let Some(device) = self.device()? else {
            return Ok(());
        };
        self.number += 1;
        let name = format!("brake-{}-{}", self.name, self.number);
        let brake = Brake::new(&device, Brake::file()?, name);
        if let Some(brake) = self.allow(
            brake,
            &[Errno::BUSY],
            "preserve another file that cannot be frozen",
        )? {
            // The old file is dropped last.
            let _old = std::mem::replace(&mut *lock(&self.shared.brake), brake);
        }
        Ok(())
    }

    /// The kexec fails at the file that cannot be frozen.
    fn kexec(&mut self) -> Result {
        let error: io::Result<()> = Err(kexec::try_jump());
        self.allow(error, &[Errno::IO, Errno::BUSY], "reboot(KEXEC)")?;
        self.counts.kexecs += 1;
        Ok(())
    }
}
