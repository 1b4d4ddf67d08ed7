// SPDX-License-Identifier: GPL-2.0

//! The machine that luod runs on.

use crate::{config::Kexec, world::World};
use liveupdate::{raw, systemd::Manager, Device, DEVICE_PATH};
use luod_protocol::Stamp;
use rustix::{
    system::RebootCommand,
    time::{clock_gettime, ClockId},
};
use std::{
    fs, io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
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
    /// The machine, with its real device. `state` is a file that goes with the kernel.
    pub fn new(kexec: Kexec, manager: Option<Manager>, state: PathBuf) -> Self {
        Self {
            device: DEVICE_PATH.into(),
            kexec,
            manager,
            started: now(),
            state,
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

    fn tell(&self, what: &str, tell: impl FnOnce(&Manager) -> io::Result<()>) {
        if let Some(Err(error)) = self.manager.as_ref().map(tell) {
            tracing::error!("cannot tell the service manager {what:?}: {error}");
        }
    }
}

/// Whether process 1 is systemd.
fn is_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Asks something of systemd, for what `systemctl` prints.
fn systemctl(args: &[&str]) -> io::Result<String> {
    let mut command = Command::new("systemctl");
    let output = command.args(args).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        let what = args.join(" ");
        let error = format!("systemctl {what} failed: {}", error.trim());
        return Err(io::Error::other(error));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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
        let by_systemctl = match self.kexec {
            Kexec::Auto => is_systemd(),
            Kexec::Reboot => false,
            Kexec::Systemctl => true,
        };
        if by_systemctl {
            // It shuts everything down first.
            self.settle()?;
            return systemctl(&["kexec", "--no-block"]).map(drop);
        }
        rustix::fs::sync();
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

    fn keep(&mut self, name: &str, fd: BorrowedFd<'_>) {
        self.tell(name, |manager| manager.store(name, fd));
    }

    fn forget(&mut self, name: &str) {
        self.tell(name, |manager| manager.remove(name));
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
