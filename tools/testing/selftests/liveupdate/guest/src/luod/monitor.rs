// SPDX-License-Identifier: GPL-2.0

//! A process of the example `luo-vmm`, and what its guest prints.

use super::fixture::{Process, SOCKET};
use crate::support::{
    clock::Ticks,
    error::{ensure, At, Failure, Result},
};
use rustix::thread::{sched_getaffinity, sched_setaffinity};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

const VMM: &str = "/bin/luo-vmm";
/// The kernel of a guest is that of its host.
const KERNEL: &str = "/boot/next";
pub const INITRD: &str = "/boot/guest.cpio";

/// After this time, a guest is considered hung. Its processor is emulated by an emulated processor.
const LIMIT: Duration = Duration::from_secs(600);

/// The output of the guest and its monitor.
#[derive(Clone, Default)]
pub struct Heard {
    /// The highest number that the guest has printed.
    pub count: u64,
    /// The last number on the port to which the guest's kernel prints nothing: on the other port,
    /// the messages of the kernel can come in the middle of a line.
    pub beat: u64,
    /// Checks of the memory, on the guest's last processor.
    pub checks: u64,
    pub restored: u64,
    /// The last line about a restored guest, and when it was read.
    pub restore: Option<(String, Ticks)>,
    pub continued: u64,
    pub bad: Option<String>,
    end: bool,
}

impl Heard {
    fn hear(&mut self, line: &str, last_cpu: u64) {
        let number = |prefix| line.split_once(prefix)?.1.split(' ').next()?.parse().ok();
        if let Some(beat) = number("vm: beat ") {
            if self.beat != 0 && beat != self.beat + 1 {
                self.bad = Some(format!("the number {beat} follows {}", self.beat));
            }
            self.beat = beat;
        }
        let count = number("vm: count ").unwrap_or(self.beat);
        self.count = self.count.max(count);
        if line.contains("vm: memory ") && line.ends_with(&format!("on processor {last_cpu}")) {
            self.checks += 1;
        }
        if line.contains(": continues; restored") {
            self.restored += 1;
            self.restore = Some((line.to_owned(), Ticks::now()));
        }
        self.continued += u64::from(line.contains(": continues: "));
        if line.contains("BAD") || line.contains("Kernel panic") {
            self.bad = Some(line.to_owned());
        }
    }
}

type Shared = Arc<(Mutex<Heard>, Condvar)>;

fn lock(shared: &Shared) -> MutexGuard<'_, Heard> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A monitor with its guest.
pub struct Vmm {
    /// Killed on drop.
    _process: Process,
    heard: Shared,
}

/// A new guest.
pub struct NewGuest<'a> {
    pub cpus: u64,
    pub ram_mb: u64,
    /// Further arguments of the monitor.
    pub arguments: Vec<&'a str>,
    /// Further parameters of the guest's kernel.
    pub params: &'a str,
    /// The arguments of its program.
    pub program: String,
}

impl Vmm {
    /// Starts a new guest.
    pub fn start(name: &str, guest: &NewGuest<'_>) -> Result<Self> {
        let (params, program) = (guest.params, &guest.program);
        let cmdline = format!("console=ttyS0 panic=-1 {params} -- {program}");
        let (ram, cpus) = (guest.ram_mb.to_string(), guest.cpus.to_string());
        let mut arguments = guest.arguments.clone();
        arguments.extend(["--kernel", KERNEL, "--initrd", INITRD]);
        arguments.extend(["--cmdline", &cmdline]);
        arguments.extend(["--memory", &ram, "--cpus", &cpus]);
        Self::run(name, guest.cpus, &arguments)
    }

    /// Restores a guest with that number of processors.
    pub fn restore(name: &str, cpus: u64) -> Result<Self> {
        Self::run(name, cpus, &[])
    }

    fn run(name: &str, cpus: u64, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(VMM);
        command.args([name, "--socket", SOCKET]).args(arguments);
        command.stdout(Stdio::piped());
        let mut child = spawn_off_first(command)?;
        let output = child.stdout.take().at("there is no output")?;
        let heard = Shared::default();
        let shared = heard.clone();
        thread::spawn(move || {
            for line in BufReader::new(output)
                .split(b'\n')
                .map_while(|line| line.ok())
            {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                println!("{line}");
                let _ = std::io::stdout().flush();
                lock(&shared).hear(line, cpus - 1);
                shared.1.notify_all();
            }
            lock(&shared).end = true;
            shared.1.notify_all();
        });
        let process = Process(child);
        Ok(Self {
            _process: process,
            heard,
        })
    }

    /// What the monitor and its guest have printed up to now.
    pub fn heard(&self) -> Heard {
        lock(&self.heard).clone()
    }

    /// Waits until the guest has printed something.
    pub fn wait(&self, what: &str, done: impl Fn(&Heard) -> bool) -> Result<Heard> {
        let start = Instant::now();
        let mut heard = lock(&self.heard);
        while !done(&heard) {
            if let Some(bad) = &heard.bad {
                return Err(Failure::new(format!("the guest: {bad}")));
            }
            ensure!(!heard.end, "the monitor has ended before: {what}");
            ensure!(start.elapsed() < LIMIT, "it takes too long: {what}");
            let waited = self.heard.1.wait_timeout(heard, Duration::from_secs(1));
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(heard.clone())
    }

    /// Waits until the guest has used its first and its last processor for a while.
    pub fn runs(&self) -> Result<Heard> {
        let now = self.heard();
        let done = |heard: &Heard| heard.count >= now.count + 5 && heard.checks >= now.checks + 2;
        self.wait("the guest counts and checks its memory", done)
    }
}

/// Starts a process that does not use the first processor: see the machine `amd` of the driver.
fn spawn_off_first(mut command: Command) -> Result<Child> {
    let spawn = move || -> Result<Child> {
        let mut processors = sched_getaffinity(None)?;
        processors.unset(0);
        // A process has the processors of the thread that started it.
        sched_setaffinity(None, &processors).at("leave the first processor")?;
        command.spawn().at("start luo-vmm")
    };
    let thread = thread::spawn(spawn);
    let ended = thread.join();
    ended.map_err(|_| Failure::new("a thread has panicked"))?
}

#[cfg(test)]
mod unit {
    use super::Heard;

    fn heard(lines: &[&str]) -> Heard {
        let mut heard = Heard::default();
        lines.iter().for_each(|line| heard.hear(line, 1));
        heard
    }

    #[test]
    fn a_kernel_message_can_be_in_a_line() {
        let heard = heard(&[
            "vm: count 1",
            "vm: beat 1",
            "vm: count 2[   13.969470] clocksource: Marking clocksource tsc unstable",
            "vm: beat 2",
            "vm: count 3",
        ]);
        assert_eq!((heard.bad, heard.beat, heard.count), (None, 2, 3));
    }

    #[test]
    fn a_missing_number_is_noticed() {
        assert!(heard(&["vm: beat 1", "vm: beat 3"]).bad.is_some());
        assert!(heard(&["vm: beat 2", "vm: beat 2"]).bad.is_some());
    }
}
