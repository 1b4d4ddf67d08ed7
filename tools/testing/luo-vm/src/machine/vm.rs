// SPDX-License-Identifier: GPL-2.0

//! Running QEMU.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::image::disk::DISK;
use crate::kernel::build::Kernel;
use crate::kernel::flavour::Flavour;
use crate::machine::console::Console;
use crate::machine::fault::KnownFault;
use crate::machine::named::{Machine, USUAL};
use crate::machine::silent::{self, Limits};
use crate::report::results::notice;
use crate::report::step::Step;

/// A virtual machine to be run.
pub struct Vm<'a> {
    /// Its purpose, which is the name of its log.
    pub name: String,
    /// The kind of machine.
    machine: &'static Machine,
    pub kernel: &'a Kernel,
    /// The initramfs; or the disk, if its name ends in [`DISK`], or firmware starts the machine.
    initrd: &'a Path,
    /// QEMU options for further devices.
    devices: Vec<String>,
    /// Kernel parameters in addition to the usual ones.
    params: String,
    /// Arguments of init.
    init: String,
    /// The time after which it is considered hung.
    limit: Duration,
    /// Whether one of its kernels is not ours, and may [stand still](silent) at boot.
    foreign: bool,
    /// The events of QEMU that are to be logged.
    trace: &'static [&'static str],
    /// Whether firmware starts the boot loader of the disk, also after a reset.
    firmware: bool,
}

/// The output of a machine that has ended.
pub struct Run {
    pub console: Console,
    pub log: PathBuf,
    pub timed_out: Option<Duration>,
}

/// The maximum number of machines that run at a time. More of them need more memory than a small
/// host has.
const MACHINES: usize = 2;

/// The number of running machines.
static RUNNING: Mutex<usize> = Mutex::new(0);

/// Signals that a machine has ended.
static ENDED: Condvar = Condvar::new();

/// The right to run a machine.
struct Slot;

impl Slot {
    /// Waits until there are less than [`MACHINES`].
    fn take() -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = ENDED
            .wait_while(running, |running| *running >= MACHINES)
            .unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// The time limit for a boot with its test: much more than on the slowest machine, since it only
/// detects hangs.
pub const BOOT: Duration = Duration::from_secs(600);

impl<'a> Vm<'a> {
    /// A machine of the usual kind, which boots once.
    pub fn new(name: impl Into<String>, kernel: &'a Kernel, initrd: &'a Path) -> Self {
        Self {
            name: name.into(),
            machine: &USUAL,
            kernel,
            initrd,
            devices: Vec::new(),
            params: String::new(),
            init: String::new(),
            limit: BOOT,
            foreign: !kernel.flavour.is_ours(),
            trace: &[],
            firmware: false,
        }
    }

    /// A kernel that it boots later.
    pub fn then(mut self, next: &Kernel) -> Self {
        self.foreign |= !next.flavour.is_ours();
        self
    }

    /// Another kind of machine.
    pub fn on(mut self, machine: &'static Machine) -> Self {
        self.machine = machine;
        self
    }

    /// QEMU options for devices in addition to those of the kind of machine.
    pub fn devices(mut self, devices: impl IntoIterator<Item = String>) -> Self {
        self.devices.extend(devices);
        self
    }

    /// Kernel parameters in addition to the usual ones.
    pub fn params(mut self, params: impl Into<String>) -> Self {
        self.params = params.into();
        self
    }

    /// Logs events of QEMU, to a file beside the log that ends in `trace`.
    pub fn trace(mut self, events: &'static [&'static str]) -> Self {
        self.trace = events;
        self
    }

    /// Lets firmware start the boot loader of the disk, which knows the kernel and its parameters.
    /// A reset starts the machine again, instead of ending it.
    pub fn firmware(mut self) -> Self {
        self.firmware = true;
        self
    }

    /// The arguments of init.
    pub fn init(mut self, arguments: impl Into<String>) -> Self {
        self.init = arguments.into();
        self
    }

    /// The number of kexecs after the first boot.
    pub fn kexecs(mut self, kexecs: u32) -> Self {
        self.limit = BOOT * (1 + kexecs);
        self
    }

    /// The time after which it is considered hung, instead of the one that follows from the number
    /// of boots.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The socket of the monitor of its QEMU; see [`Monitor`](crate::machine::monitor::Monitor).
    pub fn monitor(&self, ctx: &Ctx) -> PathBuf {
        monitor_of(&self.log(ctx))
    }

    fn log(&self, ctx: &Ctx) -> PathBuf {
        ctx.log(&format!("vm-{}", self.name.replace('/', "-")))
    }

    fn qemu(&self, ctx: &Ctx) -> Command {
        let arch = ctx.arch();
        let mut qemu = Command::new(arch.qemu);
        if self.machine.counts {
            qemu.args(["-accel", "tcg,thread=single", "-icount", "shift=0"]);
        } else {
            qemu.args(["-accel", "tcg,thread=multi"]);
        }
        let board = self.machine.board.unwrap_or(arch.board);
        let cpu = self.machine.cpu.unwrap_or(arch.cpu);
        qemu.args(["-machine", board, "-cpu", cpu]);
        qemu.args(["-display", "none"]);
        if !self.firmware {
            qemu.arg("-no-reboot");
        }
        qemu.args(self.machine.arguments);
        let memory = self.machine.memory.unwrap_or(&ctx.settings.mem);
        qemu.args(["-nodefaults", "-no-user-config", "-m", memory]);
        let smp = ctx.settings.smp;
        qemu.arg("-smp").arg(match self.machine.sockets {
            true => format!("{smp},sockets={smp}"),
            false => smp.to_string(),
        });
        if ctx.prefault {
            let memory = format!(
                "memory-backend-memfd,id=memory,size={memory},prealloc=on,prealloc-threads={}",
                ctx.jobs
            );
            qemu.args(["-object", &memory, "-machine", "memory-backend=memory"]);
        }
        qemu.args(&self.devices);
        if self.firmware || self.initrd.extension().is_some_and(|end| end == DISK) {
            let drive = format!("if=virtio,format=raw,file={}", self.initrd.display());
            // The next run must not see what this one writes.
            qemu.args(["-snapshot", "-drive", &drive]);
        } else {
            qemu.arg("-initrd").arg(self.initrd);
        }
        if self.firmware {
            return qemu;
        }
        qemu.arg("-kernel").arg(&self.kernel.image);
        let mut line = format!("console={} panic=-1 liveupdate=on kho=on", arch.console);
        if self.kernel.flavour == Flavour::Kasan {
            // The map of KASAN needs an eighth of the memory; a scratch area of twice this size
            // would be too large.
            line.push_str(" kho_scratch=32M,32M,450M");
            // For a moment at boot, the kernel has a wrong number of page table levels; if an
            // interrupt comes at this time, KASAN reports a correct address as wrong.
            line.push_str(" no5lvl");
        }
        for part in [
            arch.params,
            self.machine.params,
            self.params.as_str(),
            "--",
            self.init.as_str(),
        ] {
            if !(part.is_empty() || part == "--" && self.init.is_empty()) {
                line = format!("{line} {part}");
            }
        }
        qemu.arg("-append").arg(line);
        qemu
    }

    /// Runs the machine as a step of its own.
    pub fn boot(&self, ctx: &Ctx) -> Result<Run> {
        let step = Step::start(ctx, format!("vm {}", self.name));
        let run = self.run(ctx)?;
        step.done("");
        Ok(run)
    }

    /// Runs the machine until it stops by itself or its time limit is reached.
    pub fn run(&self, ctx: &Ctx) -> Result<Run> {
        self.run_within(ctx, Limits::ALWAYS, |_| {})
    }

    /// The same; `seen` is called for each line of the console immediately.
    pub fn run_with(&self, ctx: &Ctx, seen: impl FnMut(&str)) -> Result<Run> {
        self.run_within(ctx, Limits::BEFORE_INIT, seen)
    }

    fn run_within(&self, ctx: &Ctx, silence: Limits, mut seen: impl FnMut(&str)) -> Result<Run> {
        let _slot = Slot::take();
        let log = self.log(ctx);
        let silence = silence.times(self.slowness());
        if let Some(run) = self.start(ctx, &log, silence, self.foreign, &mut seen)? {
            return Ok(run);
        }
        let kept = log.with_extension("silent-1.log");
        fs::rename(&log, &kept)?;
        notice(&format!(
            "vm {}: it stood still and was started again; see {}",
            self.name,
            ctx.shown(&kept)
        ));
        let run = self.start(ctx, &log, silence, false, &mut seen)?;
        run.context("a machine that is not started again has ended")
    }

    /// The factor by which the kernel is slower than usual: a kernel with checks is several times
    /// slower.
    fn slowness(&self) -> u32 {
        match self.kernel.flavour {
            Flavour::Kasan => 6,
            Flavour::Debug => 2,
            _ => 1,
        }
    }

    /// Runs the machine once. The state of a machine that is silent for longer than `silence` is
    /// written to a file beside its log. [`None`] if it then remains silent and `give_up` is set.
    fn start(
        &self,
        ctx: &Ctx,
        log: &Path,
        silence: Limits,
        give_up: bool,
        seen: &mut impl FnMut(&str),
    ) -> Result<Option<Run>> {
        let started = Instant::now();
        let mut qemu = self.qemu(ctx);
        qemu.args(["-serial", "stdio", "-monitor", "none"]);
        let monitor = monitor_of(log);
        let socket = format!("unix:{},server=on,wait=off", monitor.display());
        qemu.args(["-qmp", &socket]);
        for event in self.trace {
            qemu.args(["-trace", event]);
        }
        if !self.trace.is_empty() {
            qemu.arg("-D").arg(log.with_extension("trace"));
        }
        qemu.stdin(Stdio::null())
            .stdout(File::create(log)?)
            .stderr(Stdio::piped());
        let mut child = spawn(ctx, &mut qemu)?;
        let limit = self.limit * self.slowness();
        let nudge = silent::AFTER_NUDGE * self.slowness();
        let mut heard = started;
        let mut init = false;
        let mut nudged = false;
        let mut console = BufReader::new(File::open(log)?);
        let mut line = Vec::new();
        let mut timed_out = None;
        let status = loop {
            let ended = child.try_wait()?;
            while console.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
                let text = String::from_utf8_lossy(&line);
                if ctx.verbose {
                    eprint!("{text}");
                }
                heard = Instant::now();
                init |= starts_init(&text);
                nudged = false;
                seen(text.trim_end());
                line.clear();
            }
            if let Some(status) = ended {
                break Some(status);
            }
            let allowed = match init {
                false => Some(silence.before_init),
                true => silence.later,
            };
            let allowed = allowed.map(|limit| if nudged { limit.min(nudge) } else { limit });
            let still = allowed.is_some_and(|allowed| heard.elapsed() > allowed);
            let ends = nudged && still && give_up;
            if still && !nudged {
                let seen = silent::look(&monitor, child.id(), ctx.settings.smp);
                fs::write(log.with_extension("silent.txt"), &seen)?;
                let done = silent::nudge(&monitor);
                let done = done.map_or_else(|error| format!("{error:#}"), |()| "done".to_owned());
                notice(&format!(
                    "vm {}: silent for {} s; stop and cont: {done}; all of this is in {}: {}",
                    self.name,
                    heard.elapsed().as_secs(),
                    ctx.shown(&log.with_extension("silent.txt")),
                    silent::essence(&seen)
                ));
                nudged = true;
                heard = Instant::now();
            } else if ends || started.elapsed() > limit {
                child.kill()?;
                child.wait()?;
                if ends {
                    let _ = fs::remove_file(&monitor);
                    return Ok(None);
                }
                timed_out = Some(limit);
                break None;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        // A QEMU that was killed leaves its socket.
        let _ = fs::remove_file(&monitor);
        if status.is_some_and(|s| !s.success()) {
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                std::io::Read::read_to_string(&mut stderr, &mut said)?;
            }
            let said = said.trim();
            if let Some(fault) = KnownFault::of(said) {
                return Err(fault.into());
            }
            bail!("QEMU failed: {said}");
        }
        let console = Console::read(&String::from_utf8_lossy(&fs::read(log)?));
        Ok(Some(Run {
            console,
            log: log.to_owned(),
            timed_out,
        }))
    }

    /// Runs the machine on this terminal.
    pub fn interact(&self, ctx: &Ctx) -> Result<()> {
        let mut qemu = self.qemu(ctx);
        qemu.args([
            "-chardev",
            "stdio,id=tty,mux=on,signal=off",
            "-serial",
            "chardev:tty",
        ]);
        qemu.args(["-mon", "chardev=tty"]);
        spawn(ctx, &mut qemu)?.wait()?;
        Ok(())
    }
}

/// The socket of the monitor of the machine with the log `log`.
fn monitor_of(log: &Path) -> PathBuf {
    log.with_extension("monitor")
}

/// Whether a line of the console comes from init, or is the line about its start.
fn starts_init(line: &str) -> bool {
    let line = line.trim();
    line.ends_with(" as init process") || !(line.is_empty() || line.starts_with('['))
}

fn spawn(ctx: &Ctx, qemu: &mut Command) -> Result<std::process::Child> {
    let arch = ctx.arch();
    qemu.spawn().with_context(|| {
        format!(
            "QEMU is missing ({}): `make doctor` says how to get it (apt-get install {}).",
            arch.qemu, arch.qemu_package
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_is_recognized() {
        assert!(starts_init("[    2.342968] Run /init as init process\r\n"));
        assert!(starts_init("# stage 1 of 2\n"));
        for early in [
            "\r\n",
            "[    0.000000] Linux version 7.3.4",
            "[    0.918055] Callback from call_rcu_tasks() invoked.",
        ] {
            assert!(!starts_init(early), "{early}");
        }
    }
}
