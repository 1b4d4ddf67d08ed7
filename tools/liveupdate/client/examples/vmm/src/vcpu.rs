// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The processors of the guest: a thread for each, and their state.

use crate::{serial::Ports, state};
use kvm_bindings::{kvm_msr_entry, CpuId, Msrs};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use liveupdate::luod::Result;
use std::{
    io,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use vmm_sys_util::signal::{register_signal_handler, Killable, SIGRTMIN};

/// How long a thread that was interrupted has to leave the guest before it is interrupted again:
/// the signal is lost if it comes just before it enters.
const KICK: Duration = Duration::from_millis(1);
/// How long a processor may run before it is interrupted to see that it runs.
const TRIAL: Duration = Duration::from_millis(20);

/// KVM accepts a frequency that differs by this part of it from that of the host, or less.
const STEP: u32 = 2500;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Paused,
    Running,
    /// The threads end.
    Over,
}

struct Threads {
    mode: Mode,
    /// Threads that are not paused.
    active: usize,
    /// Threads that KVM has let run since [`Vcpus::resume`].
    entered: usize,
    /// Why the guest does not run any more.
    end: Option<String>,
}

/// The state that the threads and their owner share.
struct Gate {
    threads: Mutex<Threads>,
    changed: Condvar,
    /// Whether the mode is [`Mode::Running`], for a fast check.
    open: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    fn set(&self, mode: Mode) -> MutexGuard<'_, Threads> {
        let mut threads = lock(&self.threads);
        if threads.end.is_none() || mode == Mode::Over {
            threads.mode = mode;
            self.open.store(mode == Mode::Running, Ordering::SeqCst);
        }
        self.changed.notify_all();
        threads
    }

    /// Waits until the guest may run. False if it never will.
    fn enter(&self) -> bool {
        let threads = lock(&self.threads);
        let threads = self.changed.wait_while(threads, |t| t.mode == Mode::Paused);
        let mut threads = threads.unwrap_or_else(PoisonError::into_inner);
        threads.active += usize::from(threads.mode == Mode::Running);
        threads.mode == Mode::Running
    }

    /// Called by a thread that pauses; `end` is set if the guest has ended.
    fn leave(&self, end: Option<String>) {
        let mut threads = lock(&self.threads);
        threads.active -= 1;
        if end.is_some() {
            threads.mode = Mode::Over;
            threads.end = threads.end.take().or(end);
            self.open.store(false, Ordering::SeqCst);
        }
        self.changed.notify_all();
    }
}

/// All processors of a guest.
pub struct Vcpus {
    fds: Vec<Arc<Mutex<VcpuFd>>>,
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<()>>,
}

impl Vcpus {
    /// Starts paused threads for the processors.
    ///
    /// # Errors
    ///
    /// If there are no resources for them.
    pub fn new(fds: Vec<VcpuFd>, ports: &Arc<Ports>) -> Result<Self> {
        extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        // Without a handler, the signal would end the process.
        register_signal_handler(SIGRTMIN(), nothing)?;
        let mut vcpus = Self {
            fds: fds.into_iter().map(|fd| Arc::new(Mutex::new(fd))).collect(),
            gate: Arc::new(Gate {
                threads: Mutex::new(Threads {
                    mode: Mode::Paused,
                    active: 0,
                    entered: 0,
                    end: None,
                }),
                changed: Condvar::new(),
                open: AtomicBool::new(false),
            }),
            threads: Vec::new(),
        };
        for (id, fd) in vcpus.fds.iter().enumerate() {
            let (fd, gate, ports) = (fd.clone(), vcpus.gate.clone(), ports.clone());
            let thread = thread::Builder::new().name(format!("vcpu-{id}"));
            vcpus.threads.push(thread.spawn(move || {
                while gate.enter() {
                    let outcome = run(&mut lock(&fd), &gate, &ports);
                    gate.leave(outcome.unwrap_or_else(|error| Some(error.to_string())));
                }
            })?);
        }
        Ok(vcpus)
    }

    fn kick(&self) {
        for thread in &self.threads {
            // It fails only for a thread that has ended.
            let _ = thread.kill(SIGRTMIN());
        }
    }

    /// Interrupts all threads until `done`.
    fn kick_until(
        &self,
        mut threads: MutexGuard<'_, Threads>,
        done: impl Fn(&Threads) -> bool,
        time: Duration,
    ) {
        while !done(&threads) {
            let waited = self.gate.changed.wait_timeout(threads, time);
            threads = waited.unwrap_or_else(PoisonError::into_inner).0;
            self.kick();
        }
    }

    /// Pauses all processors, after which their state can be saved.
    ///
    /// # Errors
    ///
    /// If the guest has ended.
    pub fn pause(&self) -> Result {
        let threads = self.gate.set(Mode::Paused);
        self.kick();
        self.kick_until(threads, |threads| threads.active == 0, KICK);
        self.running()
    }

    /// Lets all processors run, and returns when each of them has.
    ///
    /// # Errors
    ///
    /// If KVM does not let one run.
    pub fn resume(&self) -> Result {
        lock(&self.gate.threads).entered = 0;
        let threads = self.gate.set(Mode::Running);
        let count = self.threads.len();
        let done = |threads: &Threads| threads.entered >= count || threads.end.is_some();
        self.kick_until(threads, done, TRIAL);
        self.running()
    }

    fn running(&self) -> Result {
        match self.end() {
            Some(end) => Err(format!("the guest has ended: {end}").into()),
            None => Ok(()),
        }
    }

    /// Why the guest does not run any more, if it has ended.
    pub fn end(&self) -> Option<String> {
        lock(&self.gate.threads).end.clone()
    }

    /// Saves the state of all processors, which must be paused.
    ///
    /// # Errors
    ///
    /// If KVM does not return it.
    pub fn save(&self, kvm: &Kvm) -> Result<Vec<state::Vcpu>> {
        self.fds.iter().map(|fd| save(&lock(fd), kvm)).collect()
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        let threads = self.gate.set(Mode::Over);
        self.kick_until(threads, |threads| threads.active == 0, KICK);
        for thread in self.threads.drain(..) {
            // A thread that has panicked has printed a message.
            let _ = thread.join();
        }
    }
}

/// How a processor came back from the guest.
enum Exit {
    /// An access to a device. It is complete only when the processor is run again.
    Access,
    Interrupted,
    Ended(String),
}

/// Runs a processor until it is to pause. Returns why, if the guest has ended.
fn run(fd: &mut VcpuFd, gate: &Gate, ports: &Ports) -> Result<Option<String>> {
    let mut entered = false;
    while gate.open.load(Ordering::SeqCst) {
        let exit = run_once(fd, ports)?;
        if !entered {
            entered = true;
            lock(&gate.threads).entered += 1;
            gate.changed.notify_all();
        }
        if let Exit::Ended(why) = exit {
            return Ok(Some(why));
        }
    }
    // Completes an access, without another instruction of the guest: otherwise the state would be
    // that of the middle of an instruction.
    fd.set_kvm_immediate_exit(1);
    let end = loop {
        match run_once(fd, ports)? {
            Exit::Access => {}
            Exit::Interrupted => break None,
            Exit::Ended(why) => break Some(why),
        }
    };
    fd.set_kvm_immediate_exit(0);
    Ok(end)
}

fn run_once(fd: &mut VcpuFd, ports: &Ports) -> Result<Exit> {
    match fd.run() {
        Ok(VcpuExit::IoOut(0x64, [0xfe])) => return Ok(Exit::Ended("it was reset".into())),
        Ok(VcpuExit::IoOut(port, data)) => ports.write(port, data)?,
        Ok(VcpuExit::IoIn(port, data)) => ports.read(port, data),
        // There is nothing else.
        Ok(VcpuExit::MmioRead(_, data)) => data.fill(0xff),
        Ok(VcpuExit::MmioWrite(..)) => {}
        Ok(VcpuExit::Shutdown) => return Ok(Exit::Ended("it has shut down".into())),
        Ok(other) => return Err(format!("KVM has returned {other:?}").into()),
        Err(error) => match io::Error::from(error).raw_os_error() {
            Some(libc::EINTR | libc::EAGAIN) => return Ok(Exit::Interrupted),
            _ => return Err(format!("KVM does not run the processor: {error}").into()),
        },
    }
    Ok(Exit::Access)
}

/// Lets KVM accept the frequency of the time-stamp counter that it assumes for a new processor.
///
/// KVM assumes what the host has measured first. If the host has corrected that since, and the
/// processor cannot scale its counter, KVM refuses its own value as too low, and timers of the guest
/// stop. A frequency that is accepted differs from that of the host by less than [`STEP`].
///
/// # Errors
///
/// If there is no such frequency within one percent.
pub fn settle_frequency(fd: &VcpuFd) -> Result {
    let first = fd.get_tsc_khz()?;
    let accepted = (0..STEP / 100)
        .map(|step| first + step * (first / STEP))
        .any(|khz| fd.set_tsc_khz(khz).is_ok());
    if accepted {
        Ok(())
    } else {
        Err(format!("KVM refuses a time-stamp counter of {first} kHz").into())
    }
}

/// Reads the state of a processor. The first call may change what the others return.
fn save(fd: &VcpuFd, kvm: &Kvm) -> Result<state::Vcpu> {
    Ok(state::Vcpu {
        mp_state: fd.get_mp_state()?,
        regs: fd.get_regs()?,
        sregs: fd.get_sregs()?,
        xsave: fd.get_xsave()?,
        xcrs: fd.get_xcrs()?,
        debugregs: fd.get_debug_regs()?,
        lapic: fd.get_lapic()?,
        msrs: get_msrs(fd, kvm)?,
        cpuid: fd
            .get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?
            .as_slice()
            .to_vec(),
        events: fd.get_vcpu_events()?,
    })
}

/// Sets the state of a new processor. The order matters: features decide what the registers can
/// have, the base of the local APIC is in `sregs`, its timer needs the mode that is in `lapic`
/// before the deadline that is an MSR, and `events` are last, since other calls change them.
///
/// # Errors
///
/// If KVM refuses a part, which is then named.
pub fn restore(fd: &VcpuFd, state: &state::Vcpu) -> Result {
    let at = |what| move |error| format!("KVM refuses the {what} of the guest: {error}");
    let cpuid = CpuId::from_entries(&state.cpuid).map_err(|error| format!("{error:?}"))?;
    fd.set_cpuid2(&cpuid).map_err(at("features"))?;
    fd.set_mp_state(state.mp_state).map_err(at("mp_state"))?;
    fd.set_regs(&state.regs).map_err(at("registers"))?;
    fd.set_sregs(&state.sregs).map_err(at("sregs"))?;
    fd.set_xcrs(&state.xcrs).map_err(at("xcrs"))?;
    // SAFETY: KVM reads more than this structure only for features that a process must ask for
    // (arch_prctl), which this one does not.
    unsafe { fd.set_xsave(&state.xsave) }.map_err(at("xsave"))?;
    fd.set_debug_regs(&state.debugregs)
        .map_err(at("debugregs"))?;
    fd.set_lapic(&state.lapic).map_err(at("lapic"))?;
    set_msrs(fd, &state.msrs)?;
    fd.set_vcpu_events(&state.events).map_err(at("events"))?;
    Ok(())
}

fn msrs(entries: &[kvm_msr_entry]) -> Result<Msrs> {
    Msrs::from_entries(entries).map_err(|error| format!("{error:?}").into())
}

/// Reads all MSRs that KVM names. KVM stops at one that this guest does not have, which is left out.
fn get_msrs(fd: &VcpuFd, kvm: &Kvm) -> Result<Vec<kvm_msr_entry>> {
    let list = kvm.get_msr_index_list()?;
    let mut left: Vec<kvm_msr_entry> = list
        .as_slice()
        .iter()
        .map(|&index| kvm_msr_entry {
            index,
            ..Default::default()
        })
        .collect();
    let mut found = Vec::new();
    while !left.is_empty() {
        let mut some = msrs(&left)?;
        let count = fd.get_msrs(&mut some)?;
        found.extend_from_slice(&some.as_slice()[..count]);
        left.drain(..left.len().min(count + 1));
    }
    Ok(found)
}

/// Sets MSRs. Some cannot be set, but have the right value already.
fn set_msrs(fd: &VcpuFd, mut entries: &[kvm_msr_entry]) -> Result {
    while !entries.is_empty() {
        let count = fd.set_msrs(&msrs(entries)?)?;
        entries = &entries[count..];
        let Some((refused, rest)) = entries.split_first() else {
            break;
        };
        let mut present = msrs(&[*refused])?;
        let known = fd.get_msrs(&mut present)? == 1;
        if !known || present.as_slice()[0].data != refused.data {
            return Err(format!("KVM refuses the MSR {:#x} of the guest", refused.index).into());
        }
        entries = rest;
    }
    Ok(())
}
