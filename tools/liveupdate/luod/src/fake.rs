// SPDX-License-Identifier: GPL-2.0

//! A fake machine, for tests of luod and of its clients.
//!
//! Requires the feature `fake`. A [`FakeWorld`] is a machine whose kernel, clock and service
//! manager exist only in the process; a [`Luod`] is a complete luod, with a real socket, on such a
//! machine.

use crate::{
    config::{Config, Identity, Memlock, Rule},
    hooks::Input,
    machine::Machine,
    server::{self, Server},
    world::{Question, QuestionId, World},
};
use liveupdate::{fake::Kernel, Device, IncomingSession};
use luo_check::Verdict;
use luod_protocol::Stamp;
use std::{
    collections::{BTreeMap, VecDeque},
    env, fs, io,
    io::{Read, Write},
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc, Mutex, MutexGuard, PoisonError,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The frequency of the time-stamp counter of the fake machine.
const TSC_KHZ: u64 = 2_000_000;

/// A configuration in which the user of this process is an operator, and may use any session.
pub fn own_config() -> Config {
    let uid = rustix::process::getuid().as_raw();
    Config {
        operator_uids: vec![uid],
        rules: vec![Rule {
            uid: Some(uid),
            gid: None,
            sessions: vec!["*".into()],
            memlock: None,
            max_sessions: None,
        }],
        ..Config::default()
    }
}

/// The state of the fake machine.
#[derive(Debug)]
pub struct State {
    /// The time, in microseconds since the first kernel started. [`None`]: the real time.
    pub clock: Option<u64>,
    /// When this kernel started.
    pub boot: u64,
    /// The number of kernels that were started before this one.
    pub boots: u64,
    /// The value of `/sys/kernel/kexec_loaded`.
    pub image_loaded: Option<bool>,
    /// Why the loaded kernel cannot take over the preserved files.
    pub objection: Option<String>,
    /// Why it is unknown whether it can.
    pub doubt: Option<String>,
    /// Why the next kernel cannot be started, if it cannot.
    pub kexec_error: Option<i32>,
    /// Whether another program starts the next kernel, like systemd.
    pub by_manager: bool,
    /// Whether another program is about to start the next kernel.
    pub kexec_under_way: bool,
    /// Whether the service manager does not answer whether it is.
    pub kexec_under_way_error: bool,
    /// The number of times that the next kernel was started.
    pub kexecs: u32,
    /// The contents of the file descriptor store, if there is one. Several can have the same name.
    pub store: Option<BTreeMap<String, Vec<OwnedFd>>>,
    /// Why the service manager does not keep all descriptors.
    pub not_kept: Option<String>,
    /// Whether the service manager does not answer.
    pub manager_hangs: bool,
    /// Whether it does not answer while it is asked to start the next kernel.
    pub jump_hangs: bool,
    /// The questions to it, and why it did not keep all descriptors at that time.
    pub(crate) questions: VecDeque<(QuestionId, Question, Option<String>)>,
    /// Threads that finish sessions, see [`Kernel::hold_finishes`].
    finishes: VecDeque<(QuestionId, JoinHandle<io::Result<bool>>)>,
    /// The hooks that were started.
    pub hooks: Vec<Input>,
    /// Why the next hooks fail.
    pub hook_error: Option<String>,
    /// Why the shutdown is inhibited.
    pub inhibited: Option<String>,
    /// Whether hooks and questions about inhibitors are not answered.
    pub hooks_hang: bool,
    /// Their answers.
    hook_answers: VecDeque<(QuestionId, io::Result<bool>)>,
    /// The number of questions.
    asked: QuestionId,
    /// Whether a sync of file systems is running.
    pub syncing: bool,
    /// The existing processes.
    pub alive: Vec<i32>,
    /// The processes whose limit for locked memory was changed.
    pub limited: Vec<(i32, Memlock)>,
    /// The text that luod has saved.
    pub remembered: Option<String>,
    /// The last notification to the service manager.
    pub status: String,
    /// Whether the time-stamp counter can be used.
    pub has_tsc: bool,
}

/// A fake machine.
#[derive(Clone, Debug)]
pub struct FakeWorld {
    /// Its kernel.
    pub kernel: Kernel,
    state: Arc<Mutex<State>>,
    started: Instant,
}

impl Default for FakeWorld {
    fn default() -> Self {
        Self {
            kernel: Kernel::new(),
            state: Arc::new(Mutex::new(State {
                clock: None,
                boot: 0,
                boots: 0,
                image_loaded: Some(true),
                objection: None,
                doubt: None,
                kexec_error: None,
                by_manager: false,
                kexec_under_way: false,
                kexec_under_way_error: false,
                kexecs: 0,
                store: None,
                not_kept: None,
                manager_hangs: false,
                jump_hangs: false,
                questions: VecDeque::new(),
                finishes: VecDeque::new(),
                hooks: Vec::new(),
                hook_error: None,
                inhibited: None,
                hooks_hang: false,
                hook_answers: VecDeque::new(),
                asked: 0,
                syncing: false,
                alive: Vec::new(),
                limited: Vec::new(),
                remembered: None,
                status: String::new(),
                has_tsc: true,
            })),
            started: Instant::now(),
        }
    }
}

impl FakeWorld {
    /// Creates a machine with the real clock.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a machine whose clock is advanced only by [`Self::pass`].
    pub fn with_own_clock() -> Self {
        let world = Self::default();
        world.state().clock = Some(1_000_000);
        world
    }

    /// The state of the machine, to be examined and changed.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Advances the clock.
    pub fn pass(&self, time: Duration) {
        if let Some(clock) = &mut self.state().clock {
            *clock += time.as_micros() as u64;
        }
    }

    fn clock(&self) -> u64 {
        let elapsed = self.started.elapsed().as_micros() as u64;
        self.state().clock.unwrap_or(elapsed)
    }

    /// Waits for sessions that are being finished, unless FINISH blocks.
    fn finish_all(&self, state: &mut State) {
        for (_, thread) in state.finishes.drain(..) {
            if !self.kernel.holds_finishes() {
                // The result is not needed.
                let _ = thread.join();
            }
        }
    }

    /// Starts the next kernel, which takes two seconds.
    pub fn boot(&self) {
        // The kernel would refuse the kexec.
        assert_eq!(self.kernel.conflicts(), [""; 0]);
        self.pass(Duration::from_secs(2));
        self.kernel.kexec();
        let now = self.clock();
        let mut state = self.state();
        state.boot = now;
        state.boots += 1;
        state.kexec_under_way = false;
        state.questions.clear();
        state.hook_answers.clear();
        self.finish_all(&mut state);
        state.remembered = None;
        // Retrieves the descriptors that the service manager has kept, under their names.
        let Some(store) = &mut state.store else {
            return;
        };
        let names: Vec<String> = store.keys().cloned().collect();
        for name in names {
            let session = self
                .kernel
                .open()
                .and_then(|device| device.retrieve_session(&name));
            match session {
                Ok(session) => store.insert(name, vec![session.into()]),
                Err(_) => store.remove(&name),
            };
        }
    }

    /// The descriptors that the service manager passes to luod at its start.
    ///
    /// Waits for sessions that the last luod was finishing.
    pub fn stored(&self) -> Vec<(String, OwnedFd)> {
        let mut state = self.state();
        self.finish_all(&mut state);
        let store = state.store.iter().flatten();
        let store = store.flat_map(|(name, fds)| fds.iter().map(move |fd| (name, fd)));
        store
            .filter_map(|(name, fd)| Some((name.clone(), fd.try_clone().ok()?)))
            .collect()
    }
}

impl FakeWorld {
    fn kexec(&self) -> io::Result<()> {
        let mut state = self.state();
        if let Some(errno) = state.kexec_error {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if !self.kernel.conflicts().is_empty() {
            return Err(rustix::io::Errno::EXIST.into());
        }
        state.kexecs += 1;
        let by_manager = state.by_manager;
        drop(state);
        if !by_manager {
            self.boot();
        }
        Ok(())
    }
}

impl World for FakeWorld {
    fn now(&self) -> Stamp {
        let clock = self.clock();
        let state = self.state();
        Stamp {
            // With the resolution of a hardware clock.
            realtime_us: clock / 1_000_000 * 1_000_000,
            monotonic_us: clock - state.boot,
            tsc: state.has_tsc.then_some(clock * (TSC_KHZ / 1000)),
        }
    }

    fn uptime_us(&self) -> u64 {
        self.now().monotonic_us
    }

    fn tsc_khz(&self) -> Option<u64> {
        self.state().has_tsc.then_some(TSC_KHZ)
    }

    fn boot_id(&self) -> String {
        format!("boot {}", self.state().boots)
    }

    fn release(&self) -> String {
        format!("7.3.{}", self.state().boots)
    }

    fn open(&mut self) -> io::Result<Device> {
        self.kernel.open()
    }

    fn image_loaded(&self) -> Option<bool> {
        self.state().image_loaded
    }

    fn objection(&self, minimum: Verdict) -> Option<String> {
        let state = self.state();
        let doubt = state.doubt.clone().filter(|_| minimum < Verdict::Unknown);
        state.objection.clone().or(doubt)
    }

    fn ask(&mut self, question: Question) -> QuestionId {
        let mut state = self.state();
        state.asked += 1;
        let id = state.asked;
        if question == Question::Inhibited {
            let answer = state.inhibited.clone();
            let answer = answer.map_or(Ok(true), |why| Err(io::Error::other(why)));
            state.hook_answers.push_back((id, answer));
            return id;
        }
        let not_kept = state.not_kept.clone();
        state.questions.push_back((id, question, not_kept));
        id
    }

    fn run_hooks(&mut self, input: Input) -> QuestionId {
        let mut state = self.state();
        state.asked += 1;
        let id = state.asked;
        state.hooks.push(input);
        let answer = state.hook_error.take();
        let answer = answer.map_or(Ok(true), |why| Err(io::Error::other(why)));
        state.hook_answers.push_back((id, answer));
        id
    }

    fn finish(&mut self, session: IncomingSession) -> QuestionId {
        let mut state = self.state();
        state.asked += 1;
        let id = state.asked;
        let finish = move || Ok(session.finish().map(|()| true)?);
        state.finishes.push_back((id, thread::spawn(finish)));
        id
    }

    fn answer(&mut self) -> Option<(QuestionId, io::Result<bool>)> {
        let mut state = self.state();
        let held = self.kernel.holds_finishes();
        let first = state.finishes.front();
        if first.is_some_and(|(_, thread)| !held || thread.is_finished()) {
            let (id, thread) = state.finishes.pop_front()?;
            let answer = thread.join();
            return Some((
                id,
                answer.unwrap_or_else(|_| Err(io::Error::other("panic"))),
            ));
        }
        if !state.hooks_hang {
            if let Some(answer) = state.hook_answers.pop_front() {
                return Some(answer);
            }
        }
        if state.manager_hangs {
            return None;
        }
        let first = state.questions.front().map(|(_, question, _)| *question);
        if state.jump_hangs && first == Some(Question::Kexec) {
            return None;
        }
        let (id, question, not_kept) = state.questions.pop_front()?;
        let under_way = match state.kexec_under_way_error {
            false => Ok(state.kexec_under_way),
            true => Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        let answer = match question {
            Question::IsKept { .. } => not_kept.map_or(Ok(true), |why| Err(io::Error::other(why))),
            Question::Inhibited => Ok(true),
            Question::KexecUnderWay => under_way,
            Question::Settle => match &state.store {
                Some(_) => Ok(true),
                None => Err(io::Error::other("there is no service manager")),
            },
            Question::Kexec => {
                drop(state);
                self.kexec().map(|()| true)
            }
        };
        Some((id, answer))
    }

    fn wait_for_answers(&mut self) {
        self.state().manager_hangs = false;
    }

    fn start_sync(&mut self) -> io::Result<bool> {
        Ok(self.state().syncing)
    }

    fn is_synced(&mut self) -> io::Result<bool> {
        Ok(!self.state().syncing)
    }

    fn is_alive(&self, pid: i32) -> bool {
        self.state().alive.contains(&pid)
    }

    fn limit_memlock(&mut self, who: &Identity, limit: Memlock) -> io::Result<()> {
        self.state().limited.push((who.credentials.pid, limit));
        Ok(())
    }

    fn close(&mut self, sessions: Box<dyn Send>) {
        drop(sessions);
    }

    fn keep(&mut self, name: &str, fd: BorrowedFd<'_>) {
        if let Some(store) = &mut self.state().store {
            if let Ok(fd) = fd.try_clone_to_owned() {
                store.entry(name.to_owned()).or_default().push(fd);
            }
        }
    }

    fn forget(&mut self, name: &str) {
        if let Some(store) = &mut self.state().store {
            store.remove(name);
        }
    }

    fn remember(&mut self, text: &str) {
        self.state().remembered = Some(text.to_owned());
    }

    fn recall(&self) -> Option<String> {
        self.state().remembered.clone()
    }

    fn status(&mut self, text: &str) {
        text.clone_into(&mut self.state().status);
    }
}

/// A luod on a fake machine, in a thread of its own.
///
/// Dropping it has the same effect as killing luod.
#[derive(Debug)]
pub struct Luod {
    path: PathBuf,
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Luod {
    /// Starts luod, with a socket in a directory for temporary files.
    ///
    /// # Errors
    ///
    /// If the socket cannot be created.
    pub fn start(world: &FakeWorld, config: Config) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("luod-test-{}-{number}/sock", std::process::id());
        Self::start_at(world, config, &env::temp_dir().join(name))
    }

    /// Starts luod at a path.
    ///
    /// # Errors
    ///
    /// If the socket cannot be created.
    pub fn start_at(world: &FakeWorld, config: Config, path: &Path) -> io::Result<Self> {
        let mut server = Server::new(server::listen(path)?)?;
        let (stop, wake) = UnixStream::pair()?;
        let world = world.clone();
        let thread = thread::spawn(move || {
            let boots = world.state().boots;
            let stored = world.stored();
            let mut machine = Machine::start(world.clone(), config, stored);
            loop {
                let soon = Some(Duration::from_millis(20));
                match server.turn(&mut machine, &wake, soon) {
                    // The next kernel has started: this luod no longer exists.
                    Ok(false) if world.state().boots == boots => {}
                    Ok(true) => {
                        let mut word = [0];
                        if matches!((&wake).read(&mut word), Ok(1)) && word == *b"t" {
                            machine.stop();
                            server.carry_out(&mut machine);
                            server.flush(Duration::from_secs(1));
                        }
                        return;
                    }
                    _ => return,
                }
            }
        });
        Ok(Self {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        })
    }

    /// The path of its socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for its end after the next kernel has started.
    pub fn wait(mut self) {
        self.join();
    }

    /// Stops it as SIGTERM does.
    pub fn terminate(mut self) {
        let _ = self.stop.write_all(b"t");
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // The failure has already been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Luod {
    fn drop(&mut self) {
        let _ = self.stop.write_all(b"k");
        self.join();
        if let Some(dir) = self.path.parent() {
            let _ = fs::remove_file(&self.path);
            let _ = fs::remove_file(self.path.with_extension("lock"));
            let _ = fs::remove_dir(dir);
        }
    }
}
