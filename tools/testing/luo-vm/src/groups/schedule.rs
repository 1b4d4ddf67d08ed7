// SPDX-License-Identifier: GPL-2.0

//! Runs groups of tests in parallel with the builds of kernels.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::arch::Arch;
use crate::ctx::Ctx;
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::machine::fault::KnownFault;
use crate::report::results::{notice, Report};

/// The number of groups that run at a time, in addition to the build of a kernel.
/// Machines need memory.
const LANES: usize = 2;

/// A group of tests.
pub struct Group {
    pub name: &'static str,
    /// The kernels that it needs.
    kernels: &'static [Flavour],
    /// Whether it runs after the others, with nothing beside it.
    alone: bool,
    /// Whether it runs on all architectures, and not on x86 only.
    everywhere: bool,
    run: fn(&Ctx, &mut Report) -> Result<()>,
}

impl Group {
    /// A group called `name`, which runs when `kernels` have been built.
    pub const fn new(
        name: &'static str,
        kernels: &'static [Flavour],
        run: fn(&Ctx, &mut Report) -> Result<()>,
    ) -> Self {
        Self {
            name,
            kernels,
            alone: false,
            everywhere: false,
            run,
        }
    }

    /// The same, to be run after all other groups, with nothing beside it: for machines that
    /// emulate machines, which are too slow on a busy host.
    pub const fn alone(self) -> Self {
        Self {
            alone: true,
            ..self
        }
    }

    /// The same, to be run on all architectures.
    pub const fn everywhere(self) -> Self {
        Self {
            everywhere: true,
            ..self
        }
    }

    /// Returns whether it runs on the architecture `arch`.
    pub fn is_of(&self, arch: Arch) -> bool {
        self.everywhere || arch == Arch::X86
    }

    fn report(&self, ctx: &Ctx) -> Report {
        report_of(self.name, |report| (self.run)(ctx, report))
    }
}

/// Runs the group `name` by `run`. If QEMU has ended because of a known fault of its own, the
/// results say nothing about the kernel, and the whole group is run again, once.
fn report_of(name: &'static str, run: impl Fn(&mut Report) -> Result<()>) -> Report {
    let mut report = Report::new(name);
    let mut result = run(&mut report);
    if let Some(fault) = result.as_ref().err().and_then(KnownFault::in_error) {
        notice(&format!("{name}: {fault}; the group is run again"));
        report = Report::new(name);
        result = run(&mut report);
    }
    if let Err(error) = result {
        report.fail("the group could not run", &format!("{error:#}"));
    }
    report.end();
    report
}

/// The built kernels, and the remaining groups.
struct State {
    built: HashSet<Flavour>,
    /// Numbers of groups.
    waiting: Vec<usize>,
    /// The number of running groups.
    running: usize,
}

impl State {
    /// Takes the first group whose kernels are all built, and that may run now.
    fn take(&mut self, groups: &[&Group]) -> Option<usize> {
        let last = self.waiting.iter().all(|number| groups[*number].alone);
        if last && self.running > 0 {
            return None;
        }
        let ready = |number: &usize| {
            let group = groups[*number];
            let mut kernels = group.kernels.iter();
            group.alone == last && kernels.all(|kernel| self.built.contains(kernel))
        };
        let at = self.waiting.iter().position(ready)?;
        self.running += 1;
        Some(self.waiting.remove(at))
    }
}

/// The kernels of `groups`, in the order of their first use.
fn kernels(groups: &[&Group]) -> Vec<Flavour> {
    let mut all: Vec<Flavour> = Vec::new();
    for kernel in groups.iter().flat_map(|group| group.kernels) {
        if !all.contains(kernel) {
            all.push(*kernel);
        }
    }
    all
}

/// Ignores the poisoning of a lock: its data is still valid.
fn hold<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `groups`. `done` is called with the number of each, its report, and its duration.
pub fn run(ctx: &Ctx, groups: &[&Group], done: impl FnMut(usize, Report, Duration) + Send) {
    let state = Mutex::new(State {
        built: HashSet::new(),
        waiting: (0..groups.len()).collect(),
        running: 0,
    });
    let news = Condvar::new();
    let done = Mutex::new(done);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for kernel in kernels(groups) {
                // The groups that need the kernel report the reason.
                let _ = build::kernel(ctx, kernel);
                hold(&state).built.insert(kernel);
                news.notify_all();
            }
        });
        for _ in 0..LANES.min(ctx.jobs) {
            scope.spawn(|| loop {
                let mut now = hold(&state);
                let number = loop {
                    if now.waiting.is_empty() {
                        return;
                    }
                    match now.take(groups) {
                        Some(number) => break number,
                        None => now = news.wait(now).unwrap_or_else(PoisonError::into_inner),
                    }
                };
                drop(now);
                let started = Instant::now();
                let report = groups[number].report(ctx);
                let mut done = hold(&done);
                (*done)(number, report, started.elapsed());
                drop(done);
                hold(&state).running -= 1;
                news.notify_all();
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use anyhow::{anyhow, Error};

    use super::*;

    fn nothing(_: &Ctx, _: &mut Report) -> Result<()> {
        Ok(())
    }

    const FIRST: Group = Group::new("first", &[Flavour::Ours, Flavour::Peer], nothing);
    const SECOND: Group = Group::new("second", &[Flavour::Peer], nothing);
    const THIRD: Group = Group::new("third", &[], nothing);

    #[test]
    fn a_group_waits_for_its_kernels() {
        let groups = [&FIRST, &SECOND, &THIRD];
        let mut state = State {
            built: HashSet::new(),
            waiting: vec![0, 1, 2],
            running: 0,
        };
        assert_eq!(state.take(&groups), Some(2));
        assert_eq!(state.take(&groups), None);
        state.built.insert(Flavour::Peer);
        assert_eq!(state.take(&groups), Some(1));
        state.built.insert(Flavour::Ours);
        assert_eq!(state.take(&groups), Some(0));
        assert_eq!(state.take(&groups), None);
    }

    #[test]
    fn a_group_is_run_again_after_a_known_fault_of_qemu() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = |fault: fn() -> anyhow::Error| {
            RUNS.store(0, Relaxed);
            let report = report_of("group", |report| {
                report.pass("a test");
                match RUNS.fetch_add(1, Relaxed) {
                    0 => Err(fault()),
                    _ => Ok(()),
                }
            });
            (report.passed(), report.failed(), RUNS.load(Relaxed))
        };
        let known = || {
            let said = "x: iotlb_to_section: Assertion `y' failed.";
            Error::from(KnownFault::of(said).unwrap()).context("vm x")
        };
        assert_eq!(run(known), (1, 0, 2));
        assert_eq!(run(|| anyhow!("QEMU failed: another fault")), (1, 1, 1));
    }

    #[test]
    fn groups_are_for_an_architecture() {
        const BOTH: Group = Group::new("both", &[], nothing).everywhere();
        assert!(FIRST.is_of(Arch::X86) && !FIRST.is_of(Arch::Arm64));
        assert!(BOTH.is_of(Arch::X86) && BOTH.is_of(Arch::Arm64));
    }

    #[test]
    fn a_group_runs_alone() {
        const ALONE: Group = Group::new("alone", &[], nothing).alone();
        let groups = [&ALONE, &THIRD, &ALONE];
        let mut state = State {
            built: HashSet::new(),
            waiting: vec![0, 1, 2],
            running: 0,
        };
        assert_eq!(state.take(&groups), Some(1));
        assert_eq!(state.take(&groups), None);
        state.running = 0;
        assert_eq!(state.take(&groups), Some(0));
        assert_eq!(state.take(&groups), None);
        state.running = 0;
        assert_eq!(state.take(&groups), Some(2));
    }

    #[test]
    fn a_kernel_is_built_once() {
        let groups = [&FIRST, &SECOND, &THIRD];
        assert_eq!(kernels(&groups), [Flavour::Ours, Flavour::Peer]);
    }
}
