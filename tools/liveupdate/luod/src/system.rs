// SPDX-License-Identifier: GPL-2.0

//! The machine that luod runs on.

mod manager;

use crate::{config::Kexec, world::World};
use liveupdate::{raw, systemd::Manager, Device, DEVICE_PATH};
use luod_protocol::Stamp;
use manager::{is_systemd, systemctl};
use rustix::{
    io::Errno,
    process::{test_kill_process, Pid},
    system::RebootCommand,
    time::{clock_gettime, ClockId},
};
use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::BorrowedFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// How long the clocks have to be watched to tell how fast the time-stamp counter is.
const CALIBRATION_US: u64 = 100_000;

/// The machine that luod runs on.
#[derive(Debug)]
pub struct System {
    device: PathBuf,
    kexec: Kexec,
    manager: Option<Manager>,
    started: Stamp,
    /// Where something is remembered.
    state: PathBuf,
    /// What the service manager was given to keep.
    kept: BTreeSet<String>,
    /// Writes out all file systems.
    sync: Option<Child>,
}

/// What a clock says, in microseconds.
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

impl System {
    /// The machine, with its real device. `state` is a file that goes with the kernel, and
    /// `kept` what the service manager has kept for us.
    pub fn new(
        kexec: Kexec,
        manager: Option<Manager>,
        state: PathBuf,
        kept: BTreeSet<String>,
    ) -> Self {
        Self {
            device: DEVICE_PATH.into(),
            kexec,
            manager,
            started: now(),
            state,
            kept,
            sync: None,
        }
    }

    /// Starts the next kernel in the way that the configuration says.
    pub fn set_kexec(&mut self, kexec: Kexec) {
        self.kexec = kexec;
    }

    /// Tells the service manager something, if there is one.
    pub fn notify(&self, text: &str) {
        self.tell(text, |manager| manager.notify(text));
    }

    /// Whether the service manager starts the next kernel.
    fn by_systemctl(&self) -> bool {
        match self.kexec {
            Kexec::Auto => is_systemd(),
            Kexec::Reboot => false,
            Kexec::Systemctl => true,
        }
    }

    fn tell(&self, what: &str, tell: impl FnOnce(&Manager) -> io::Result<()>) {
        if let Some(Err(error)) = self.manager.as_ref().map(tell) {
            tracing::error!("cannot tell the service manager {what:?}: {error}");
        }
    }
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

    fn objection(&self) -> Option<String> {
        let findings = luo_check::System::default().check_loaded();
        let against = findings.into_iter();
        let against = against.filter(|finding| finding.verdict == luo_check::Verdict::No);
        let against: Vec<String> = against.map(|finding| finding.reason).collect();
        (!against.is_empty()).then(|| against.join("; "))
    }

    fn kexec(&mut self) -> io::Result<()> {
        if self.by_systemctl() {
            // It shuts everything down first.
            self.settle()?;
            return systemctl(&["kexec", "--no-block"]).map(drop);
        }
        // Clients are paused: what they had to write out is their own affair, the rest is done.
        rustix::system::reboot(RebootCommand::Kexec)?;
        Err(io::Error::other("the kernel did not do it"))
    }

    fn kexec_under_way(&self) -> io::Result<bool> {
        if !is_systemd() {
            return Ok(false);
        }
        // The number of the job by which it is started, if there is one.
        let job = systemctl(&["show", "--property=Job", "--value", "kexec.target"])?;
        Ok(!matches!(job.trim(), "" | "0"))
    }

    fn settle(&self) -> io::Result<()> {
        let Some(manager) = &self.manager else {
            return Err(io::Error::other(
                "systemctl kexec would end all sessions: luod has to run as a service with \
                 Type=notify and a file descriptor store",
            ));
        };
        manager.barrier()
    }

    fn is_kept(&mut self, handover: bool) -> io::Result<()> {
        if !handover && !self.by_systemctl() {
            return Ok(());
        }
        // It has to have read what it is asked about.
        self.settle()?;
        manager::Store::ask()?.check(self.kept.len())
    }

    fn start_sync(&mut self) -> io::Result<bool> {
        // systemd does it itself, after all services are stopped.
        if self.by_systemctl() {
            return Ok(false);
        }
        if self.sync.is_none() {
            // A process of its own, since one that is in the middle of it cannot be stopped.
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
        // What is not ours to signal is there, too.
        pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
    }

    fn close(&mut self, sessions: Box<dyn Send>) {
        std::thread::spawn(move || drop(sessions));
    }

    fn keep(&mut self, name: &str, fd: BorrowedFd<'_>) {
        self.tell(name, |manager| manager.store(name, fd));
        self.kept.insert(name.to_owned());
    }

    fn forget(&mut self, name: &str) {
        self.tell(name, |manager| manager.remove(name));
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
