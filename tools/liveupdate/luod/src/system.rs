// SPDX-License-Identifier: GPL-2.0

//! The real system that luod runs on.

mod hooks;
mod inhibitors;
mod manager;
mod notifier;
mod workers;

use crate::{
    config::{Identity, Kexec, Memlock},
    hooks::{Input, DIR},
    world::{Question, QuestionId, World},
};
use hooks::Runner;
use liveupdate::{raw, systemd::Manager, Device, IncomingSession, DEVICE_PATH};
use luo_check::Verdict;
use luod_protocol::Stamp;
use manager::{is_systemd, systemctl};
use notifier::{Barrier, Notifier};
use rustix::{
    io::Errno,
    process::{prlimit, test_kill_process, Pid, Resource, Rlimit},
    system::RebootCommand,
    time::{clock_gettime, ClockId},
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::{fd::BorrowedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{channel, Receiver, Sender},
    thread::{self, JoinHandle},
};
use workers::Workers;

/// The time to measure the frequency of the time-stamp counter.
const CALIBRATION_US: u64 = 100_000;

/// The real system.
#[derive(Debug)]
pub struct System {
    device: PathBuf,
    kexec: Kexec,
    manager: Option<Notifier>,
    started: Stamp,
    /// The file for saved state.
    state: PathBuf,
    /// The number of descriptors of each name in the store of the service manager.
    kept: BTreeMap<String, usize>,
    /// The process that syncs all file systems.
    sync: Option<Child>,
    /// The file that names this service.
    cgroup: PathBuf,
    /// The directory of hooks.
    hooks: PathBuf,
    questions: Questions,
}

/// Questions to systemd, each in a thread of its own, and sessions that are being finished.
#[derive(Debug)]
struct Questions {
    last: QuestionId,
    threads: Vec<JoinHandle<()>>,
    workers: Workers,
    /// Runs hooks, one after another.
    hooks: Workers,
    sender: Sender<(QuestionId, io::Result<bool>)>,
    answers: Receiver<(QuestionId, io::Result<bool>)>,
    /// A byte is written here for each answer.
    wake: Option<UnixStream>,
}

impl Default for Questions {
    fn default() -> Self {
        let (sender, answers) = channel();
        Self {
            last: 0,
            threads: Vec::new(),
            workers: Workers::default(),
            hooks: Workers::new(1),
            sender,
            answers,
            wake: None,
        }
    }
}

impl Questions {
    /// A question, and the function that gets its answer in a thread.
    fn prepare(
        &mut self,
        ask: impl FnOnce() -> io::Result<bool> + Send + 'static,
    ) -> (QuestionId, impl FnOnce() + Send + 'static) {
        self.last += 1;
        let id = self.last;
        let sender = self.sender.clone();
        let wake = self.wake.as_ref().and_then(|wake| wake.try_clone().ok());
        let run = move || {
            // The receiver no longer exists if luod ends.
            let _ = sender.send((id, ask()));
            // If it is full, luod is woken anyway.
            let _ = wake.map(|wake| (&wake).write(b"a"));
        };
        (id, run)
    }

    /// Asks in a thread.
    fn ask(&mut self, ask: impl FnOnce() -> io::Result<bool> + Send + 'static) -> QuestionId {
        let (id, run) = self.prepare(ask);
        self.threads.retain(|thread| !thread.is_finished());
        self.threads.push(thread::spawn(run));
        id
    }

    /// Answers a question immediately.
    fn answer(&mut self, answer: io::Result<bool>) -> QuestionId {
        self.last += 1;
        // This struct owns the other end as well.
        let _ = self.sender.send((self.last, answer));
        self.last
    }
}

/// The time of a clock, in microseconds.
fn clock(id: ClockId) -> u64 {
    let time = clock_gettime(id);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds
        .saturating_mul(1_000_000)
        .saturating_add(nanos / 1000)
}

fn now() -> Stamp {
    Stamp {
        realtime_us: clock(ClockId::Realtime),
        monotonic_us: clock(ClockId::Monotonic),
        tsc: raw::time_stamp_counter(),
    }
}

/// Sets or removes the limit for locked memory of a peer, whose process must not have ended.
fn limit_memlock_of(who: &Identity, limit: Memlock) -> io::Result<()> {
    let lives = || match &who.process {
        Some(process) if process.lives() => Ok(()),
        Some(_) => Err(io::Error::from(Errno::SRCH)),
        None => Err(io::Error::other(
            "the kernel does not tell which process it is",
        )),
    };
    lives()?;
    let pid = Pid::from_raw(who.credentials.pid).ok_or(Errno::SRCH)?;
    let old = limit_memlock(pid, limit)?;
    // If it has ended in between, the number may be that of another process.
    lives().inspect_err(|_| {
        let _ = prlimit(Some(pid), Resource::Memlock, old);
    })
}

/// Sets or removes the limit for locked memory of a process. Returns the old limit.
fn limit_memlock(pid: Pid, limit: Memlock) -> io::Result<Rlimit> {
    let bytes = match limit {
        Memlock::Unlimited => None,
        Memlock::Bytes(bytes) => Some(bytes),
    };
    let limit = Rlimit {
        current: bytes,
        maximum: bytes,
    };
    Ok(prlimit(Some(pid), Resource::Memlock, limit)?)
}

impl System {
    /// The system with its real device. `state` is a file that does not survive the kernel, and
    /// `kept` has the names of the descriptors that the service manager has kept.
    pub fn new(
        kexec: Kexec,
        manager: Option<Manager>,
        state: PathBuf,
        kept: impl IntoIterator<Item = String>,
    ) -> Self {
        let names = kept.into_iter();
        let mut kept = BTreeMap::new();
        names.for_each(|name| *kept.entry(name).or_default() += 1);
        Self {
            device: DEVICE_PATH.into(),
            kexec,
            manager: manager.map(Notifier::new),
            started: now(),
            state,
            kept,
            sync: None,
            cgroup: "/proc/self/cgroup".into(),
            hooks: DIR.into(),
            questions: Questions::default(),
        }
    }

    /// Writes a byte to `wake` when the service manager has answered.
    pub fn wake_by(&mut self, wake: UnixStream) {
        self.questions.wake = Some(wake);
    }

    /// Reads the name of this service from this file instead of `/proc/self/cgroup`.
    pub fn set_cgroup(&mut self, file: PathBuf) {
        self.cgroup = file;
    }

    /// Runs the hooks of another directory than `/etc/luod`.
    pub fn set_hooks(&mut self, dir: PathBuf) {
        self.hooks = dir;
    }

    /// Sets how the next kernel is started.
    pub fn set_kexec(&mut self, kexec: Kexec) {
        self.kexec = kexec;
    }

    /// Sends a notification to the service manager, if there is one.
    pub fn notify(&self, text: &str) {
        if let Some(manager) = &self.manager {
            manager.notify(text);
        }
    }

    /// Waits until the service manager has read all notifications, up to a time. Notifications of a
    /// process that has ended may be lost.
    pub fn flush(&self) {
        if let Some(Err(error)) = self.barrier().map(Barrier::wait) {
            tracing::warn!("{error}");
        }
    }

    /// Returns whether the service manager starts the next kernel.
    fn by_systemctl(&self) -> bool {
        match self.kexec {
            Kexec::Auto => is_systemd(),
            Kexec::Reboot => false,
            Kexec::Systemctl => true,
        }
    }

    /// The barrier after all descriptors that systemd was given so far.
    fn barrier(&self) -> Option<Barrier> {
        self.manager.as_ref().map(Notifier::barrier)
    }
}

/// Returns whether systemd is starting the next kernel.
fn kexec_under_way() -> io::Result<bool> {
    // The number of the job that starts it, if there is one.
    let job = systemctl(&["show", "--property=Job", "--value", "kexec.target"])?;
    Ok(!matches!(job.trim(), "" | "0"))
}

/// Waits until systemd has received all descriptors.
fn settle(barrier: Option<Barrier>) -> io::Result<()> {
    let Some(barrier) = barrier else {
        return Err(io::Error::other(
            "systemctl kexec would end all sessions: luod must run as a service with \
             Type=notify and a file descriptor store",
        ));
    };
    barrier.wait()
}

impl World for System {
    fn now(&self) -> Stamp {
        now()
    }

    fn uptime_us(&self) -> u64 {
        clock(ClockId::Boottime)
    }

    fn tsc_khz(&self) -> Option<u64> {
        let now = now();
        let micros = now.monotonic_us.checked_sub(self.started.monotonic_us)?;
        let ticks = now.tsc?.checked_sub(self.started.tsc?)?;
        (micros >= CALIBRATION_US).then(|| {
            u64::try_from(u128::from(ticks) * 1000 / u128::from(micros)).unwrap_or(u64::MAX)
        })
    }

    fn boot_id(&self) -> String {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.unwrap_or_default().trim().to_owned()
    }

    fn release(&self) -> String {
        let uname = rustix::system::uname();
        uname.release().to_string_lossy().into_owned()
    }

    fn open(&mut self) -> io::Result<Device> {
        Device::open_path(&self.device)
    }

    fn image_loaded(&self) -> Option<bool> {
        let loaded = fs::read_to_string("/sys/kernel/kexec_loaded").ok()?;
        Some(loaded.trim() == "1")
    }

    fn objection(&self, minimum: Verdict) -> Option<String> {
        let findings = luo_check::System::default().check_loaded();
        let against = findings.into_iter();
        let against = against.filter(|finding| finding.verdict > minimum);
        let against: Vec<String> = against.map(|finding| finding.reason).collect();
        (!against.is_empty()).then(|| against.join("; "))
    }

    fn ask(&mut self, question: Question) -> QuestionId {
        let by_systemctl = self.by_systemctl();
        match question {
            Question::IsKept { handover: false } if !by_systemctl => {
                self.questions.answer(Ok(true))
            }
            Question::IsKept { .. } => {
                let (kept, cgroup) = (self.kept.values().sum(), self.cgroup.clone());
                let barrier = self.barrier();
                self.questions.ask(move || {
                    // It must have read all notifications before it is asked.
                    settle(barrier)?;
                    manager::Store::ask(&cgroup)?.check(kept)?;
                    Ok(true)
                })
            }
            Question::Inhibited => self.questions.ask(|| inhibitors::check().map(|()| true)),
            Question::KexecUnderWay if !is_systemd() => self.questions.answer(Ok(false)),
            Question::KexecUnderWay => self.questions.ask(kexec_under_way),
            Question::Settle => {
                let barrier = self.barrier();
                self.questions.ask(move || settle(barrier).map(|()| true))
            }
            Question::Kexec if by_systemctl => {
                let barrier = self.barrier();
                self.questions.ask(move || {
                    // systemd shuts everything down first.
                    settle(barrier)?;
                    systemctl(&["kexec", "--no-block"])?;
                    Ok(true)
                })
            }
            Question::Kexec => {
                // Clients are paused and have synced their own writes; all other data is already
                // synced.
                let done = rustix::system::reboot(RebootCommand::Kexec);
                let done = done.map_err(io::Error::from);
                let done = done.and(Err(io::Error::other(
                    "the kernel did not start the next one",
                )));
                self.questions.answer(done)
            }
        }
    }

    fn run_hooks(&mut self, input: Input) -> QuestionId {
        let runner = Runner {
            dir: self.hooks.clone(),
            // Only a service has a sandbox.
            service: self
                .manager
                .as_ref()
                .filter(|_| is_systemd())
                .and_then(|_| self.state.parent())
                .map(Into::into),
        };
        let (id, run) = self.questions.prepare(move || runner.run(&input));
        self.questions.hooks.run(run);
        id
    }

    fn finish(&mut self, session: IncomingSession) -> QuestionId {
        let (id, run) = self
            .questions
            .prepare(move || Ok(session.finish().map(|()| true)?));
        self.questions.workers.run(run);
        id
    }

    fn answer(&mut self) -> Option<(QuestionId, io::Result<bool>)> {
        self.questions.answers.try_recv().ok()
    }

    fn wait_for_answers(&mut self) {
        for thread in self.questions.threads.drain(..) {
            // If the thread has panicked, the answer is an error or missing.
            let _ = thread.join();
        }
        std::mem::take(&mut self.questions.workers).wait();
        std::mem::replace(&mut self.questions.hooks, Workers::new(1)).wait();
    }

    fn start_sync(&mut self) -> io::Result<bool> {
        // systemd syncs file systems itself, after all services are stopped.
        if self.by_systemctl() {
            return Ok(false);
        }
        if self.sync.is_none() {
            // A process of its own, since a running sync cannot be interrupted.
            let mut command = Command::new("/proc/self/exe");
            self.sync = Some(command.arg("--sync").stdin(Stdio::null()).spawn()?);
        }
        Ok(true)
    }

    fn is_synced(&mut self) -> io::Result<bool> {
        let Some(child) = &mut self.sync else {
            return Ok(true);
        };
        let Some(status) = child.try_wait()? else {
            return Ok(false);
        };
        self.sync = None;
        if status.success() {
            Ok(true)
        } else {
            Err(io::Error::other(format!("luod --sync failed: {status}")))
        }
    }

    fn is_alive(&self, pid: i32) -> bool {
        let pid = Pid::from_raw(pid);
        // EPERM means that the process exists.
        pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
    }

    fn limit_memlock(&mut self, who: &Identity, limit: Memlock) -> io::Result<()> {
        limit_memlock_of(who, limit)
    }

    fn close(&mut self, sessions: Box<dyn Send>) {
        std::thread::spawn(move || drop(sessions));
    }

    fn keep(&mut self, name: &str, fd: BorrowedFd<'_>) {
        if let Some(manager) = &self.manager {
            manager.store(name, fd);
        }
        *self.kept.entry(name.to_owned()).or_default() += 1;
    }

    fn forget(&mut self, name: &str) {
        if let Some(manager) = &self.manager {
            manager.remove(name);
        }
        self.kept.remove(name);
    }

    fn remember(&mut self, text: &str) {
        let new = self.state.with_extension("new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.state));
        if let Err(error) = written {
            tracing::warn!("cannot write {}: {error}", self.state.display());
        }
    }

    fn recall(&self) -> Option<String> {
        fs::read_to_string(&self.state).ok()
    }

    fn status(&mut self, text: &str) {
        self.notify(&format!("STATUS={text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Credentials, Process};
    use rustix::process::PidfdFlags;
    use std::os::fd::AsFd;

    /// With `CAP_SYS_RESOURCE`, the limit of another process is removed; without, it stays.
    #[test]
    fn limit_for_locked_memory_of_a_process() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let low = Rlimit {
            current: Some(65536),
            maximum: Some(65536),
        };
        prlimit(Some(pid), Resource::Memlock, low).unwrap();
        let result = limit_memlock(pid, Memlock::Unlimited);
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id()));
        // Lowering a limit needs no capability.
        limit_memlock(pid, Memlock::Bytes(32768)).unwrap();
        let lowered = fs::read_to_string(format!("/proc/{}/limits", child.id()));
        assert!(lowered.unwrap().contains(" 32768 "));
        child.kill().unwrap();
        child.wait().unwrap();
        let limits = limits.unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max locked"));
        let expected = match result {
            Ok(_) => "unlimited",
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => "65536",
            Err(error) => panic!("{error}"),
        };
        assert_eq!(line.unwrap().matches(expected).count(), 2, "{line:?}");
    }

    /// A process that has ended after it has connected is left alone, since another one may have its
    /// number.
    #[test]
    fn limits_of_processes_that_have_ended() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut who = Identity::from(Credentials {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            uid: 0,
            gid: 0,
        });
        let limits = || rustix::process::getrlimit(Resource::Memlock);
        let before = limits();
        assert!(limit_memlock_of(&who, Memlock::Bytes(4096)).is_err());
        who.process = raw::peer_process(ours.as_fd()).ok().map(Process::new);
        assert!(who.process.as_ref().unwrap().lives());
        drop(theirs);

        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        who.process = Some(Process::new(pidfd));
        assert!(!who.process.as_ref().unwrap().lives());
        let error = limit_memlock_of(&who, Memlock::Bytes(4096)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::SRCH.raw_os_error()));
        assert_eq!(limits(), before);
    }
}
