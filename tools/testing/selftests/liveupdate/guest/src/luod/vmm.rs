// SPDX-License-Identifier: GPL-2.0

//! A guest of the example `luo-vmm`, in several live updates of its host.
//!
//! The guest runs [`crate::vm`], which counts and checks its memory on two processors. Its console
//! is passed on to the console of this machine, where the driver checks that no number is missing
//! and none comes twice.

use super::{
    fixture::{aborted, begin_update, counter, sessions, start_luod, wait, Process, SOCKET},
    results::{case, conclude},
};
use crate::support::{
    args::Args,
    error::{ensure, At, Failure, Result},
    kexec, state,
};
use luod_protocol::{SessionInfo, SessionState};
use rustix::thread::{sched_getaffinity, sched_setaffinity};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

const VMM: &str = "/bin/luo-vmm";
const NAME: &str = "guest";
/// The kernel of the guest is that of its host.
const KERNEL: &str = "/boot/next";
const INITRD: &str = "/boot/guest.cpio";

/// After this time, a guest is considered hung. Its processor is emulated by an emulated processor.
const LIMIT: Duration = Duration::from_secs(600);

/// The file with the last count, for the next kernel.
const STATE: &str = "vmm";
const COUNT: &str = "count";

/// The output of the guest and its monitor.
#[derive(Clone, Default)]
struct Heard {
    count: u64,
    /// Checks of the memory.
    checks: u64,
    restored: u64,
    continued: u64,
    bad: Option<String>,
    end: bool,
}

impl Heard {
    fn hear(&mut self, line: &str) {
        let number = |prefix| line.split_once(prefix)?.1.split(' ').next()?.parse().ok();
        if let Some(count) = number("vm: count ") {
            if self.count != 0 && count != self.count + 1 {
                self.bad = Some(format!("the count {count} follows {}", self.count));
            }
            self.count = count;
        }
        if line.contains("vm: memory ") && line.ends_with("on processor 1") {
            self.checks += 1;
        }
        self.restored += u64::from(line.contains(": continues; restored"));
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
struct Vmm {
    /// Killed on drop.
    _process: Process,
    heard: Shared,
}

impl Vmm {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(VMM);
        command.args([NAME, "--socket", SOCKET]).args(arguments);
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
                lock(&shared).hear(line);
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

    /// Waits until the guest has printed something.
    fn wait(&self, what: &str, done: impl Fn(&Heard) -> bool) -> Result<Heard> {
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

    /// Waits until the guest has used both processors for a while.
    fn runs(&self) -> Result<Heard> {
        let now = lock(&self.heard).clone();
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

/// The guest is saved and restored several times within this kernel, while it boots.
fn boots(args: &Args, vmm: &mut Option<Vmm>) -> Result {
    let inner = format!(
        "console=ttyS0 panic=-1 {} -- vm --mb={}",
        args.option("guest-params").unwrap_or_default(),
        args.number("mb", 4)?
    );
    let ram = args.option("memory").unwrap_or("memfd");
    // A guest_memfd belongs to one VM.
    let usual = if ram == "guest-memfd" { 0 } else { 10 };
    let rehearsals = args.number("rehearsals", usual)?;
    let arguments = [
        ("--kernel", KERNEL.to_owned()),
        ("--initrd", INITRD.to_owned()),
        ("--cmdline", inner),
        ("--memory", args.number("ram", 128)?.to_string()),
        ("--ram", ram.to_owned()),
        ("--cpus", args.number("cpus", 2)?.to_string()),
        ("--rehearse", rehearsals.to_string()),
    ];
    let arguments: Vec<&str> = (arguments.iter())
        .flat_map(|(name, value)| [*name, value.as_str()])
        .collect();
    let vmm = vmm.insert(Vmm::start(&arguments)?);
    vmm.wait("rehearsals", |heard| heard.restored >= rehearsals)?;
    vmm.runs().map(drop)
}

/// Waits until the guest is to take part in the next update.
fn subscribed() -> Result {
    let is = |info: &SessionInfo| {
        info.session.as_str() == NAME && info.state == SessionState::Subscribed
    };
    wait(|| Ok(sessions()?.iter().any(is)), "luo-vmm has subscribed")
}

/// The guest continues after an update that another client refuses.
fn aborts(vmm: &Vmm) -> Result {
    subscribed()?;
    let bad = counter("bad", &["refuse"])?;
    aborted(begin_update(None, false)?, "bad")?;
    vmm.wait("the guest continues", |heard| heard.continued > 0)?;
    drop(bad);
    vmm.runs().map(drop)
}

/// Starts the next kernel. Returns only if it is not started.
fn update(args: &Args, vmm: &Vmm) -> Result {
    subscribed()?;
    state::put(STATE, COUNT, &lock(&vmm.heard).count.to_string())?;
    kexec::Plan::stage(args, args.stage()? + 1)?.load()?;
    aborted(begin_update(None, false)?, "the next kernel")
}

/// The guest has gone on in this kernel.
fn comes_back(vmm: &mut Option<Vmm>) -> Result {
    let vmm = vmm.insert(Vmm::start(&[])?);
    vmm.wait("the guest is restored", |heard| heard.restored == 1)?;
    let first = vmm
        .wait("the guest counts", |heard| heard.count != 0)?
        .count;
    let last: u64 = state::get(STATE, COUNT)?.trim().parse()?;
    ensure!(first > last, "the guest counts {first} after {last}");
    vmm.runs().map(drop)
}

/// Runs the part for this kernel.
pub fn run(args: &Args) -> Result<u8> {
    let stage = args.stage()?;
    let updates = args.number("updates", 3)? as usize;
    let _luod = start_luod()?;
    let mut vmm = None;
    if stage == 1 {
        case("boots", || boots(args, &mut vmm))?;
        kexec::Plan::stage(args, 2)?.load()?;
        if let Some(vmm) = &vmm {
            case("aborts", || aborts(vmm))?;
        }
    } else {
        case(&format!("comes_back_{}", stage - 1), || {
            comes_back(&mut vmm)
        })?;
    }
    if let (Some(vmm), true) = (&vmm, stage <= updates) {
        // The results so far go along.
        case("update", || update(args, vmm))?;
    }
    drop(vmm);
    conclude("vmm")
}
