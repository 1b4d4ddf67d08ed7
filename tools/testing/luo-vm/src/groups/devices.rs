// SPDX-License-Identifier: GPL-2.0

//! The group `devices`: PCI devices that keep working through a live update, on a machine with
//! QEMU's `edu` below two bridges, and on those with its `igb` and `nvme`, which user space drives.

mod nvme;
mod vfio;
mod writes;

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use self::writes::{Write, BESIDE, BRIDGE, PORT, WRITES};
use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs::{self, GuestTest};
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::machine::card::VFIO;
use crate::machine::named;
use crate::machine::pci::{self, Buses, LEFT, STOPPED};
use crate::machine::vm::{Run, Vm};
use crate::report::results::Report;
use crate::report::step::Step;

/// The group of those guest tests that need a device.
pub const DEVICES: &str = "devices";

/// The group of those guest tests that need a disk of their own.
pub const NVME: &str = "nvme";

/// The expected state of the device and the bridges above it in a suite.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The shutdown stops the device.
    Stopped,
    /// All are left as they are.
    Left,
    /// The same, but the device is silenced when its session is finished.
    SilencedAtEnd,
    /// These are silenced when they are discovered, and the others are left as they are.
    Silenced(&'static [&'static str]),
}

impl Fate {
    /// The fate in the suite called `name`.
    fn of(name: &str) -> Self {
        match name {
            "edu_stopped" | "edu_closed" => Self::Stopped,
            "edu_forgotten" => Self::SilencedAtEnd,
            "edu_version" | "edu_missing" | "edu_twice" | "edu_off" | "edu_routing" => {
                Self::Silenced(&NAMES)
            }
            "edu_bus_zero" => Self::Silenced(&["edu", BRIDGE]),
            "edu_bus_range" | "edu_other" => Self::Silenced(&["edu"]),
            _ => Self::Left,
        }
    }

    /// The message of the driver when it is shut down.
    fn log(self) -> &'static str {
        match self {
            Self::Stopped => STOPPED,
            _ => LEFT,
        }
    }
}

/// The number of shutdowns in this suite during which the device copies.
fn copies(test: &GuestTest) -> u32 {
    match test.name.as_str() {
        // The second kernel does not use it.
        "edu_carried" => 1,
        _ => test.kexecs,
    }
}

/// The number of attempts of a run in which the copy was complete before the shutdown, or QEMU was
/// not asked in time. The clock of the machine counts instructions, so that more would not help.
const ATTEMPTS: u32 = 3;

/// The names of the device and of the bridges above it in QEMU.
const NAMES: [&str; 3] = ["edu", BRIDGE, PORT];

/// Runs the group.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    let guest = programs::guest(ctx)?;
    let mut tests = programs::guest_tests(ctx)?;
    tests.retain(|test| [DEVICES, VFIO, NVME].contains(&test.group.as_str()));
    let known = tests.iter().map(|test| test.name.as_str());
    ctx.settings.check_suites(DEVICES, known)?;
    tests.retain(|test| ctx.settings.wants(&test.name));
    let (edu, others): (Vec<_>, Vec<_>) = tests.into_iter().partition(|t| t.group == DEVICES);
    let (vfio, nvme): (Vec<_>, Vec<_>) = others.into_iter().partition(|t| t.group == VFIO);
    run_edu(ctx, report, &kernel, &guest, &edu)?;
    vfio::run(ctx, report, &kernel, &guest, &vfio)?;
    nvme::run(ctx, report, &kernel, &guest, &nvme)
}

/// Runs the suites with QEMU's `edu`.
fn run_edu(
    ctx: &Ctx,
    report: &mut Report,
    kernel: &Kernel,
    guest: &Path,
    tests: &[GuestTest],
) -> Result<()> {
    let initrd = initramfs::guest(ctx, "devices", guest, &[kernel, kernel], None)?;
    for test in tests {
        let vm = machine(kernel, &initrd, test).on(&named::DEVICES);
        let fate = Fate::of(&test.name);
        let wanted = fate.log();
        let copies = copies(test);
        let mut attempt = Attempt::new(ctx, &vm, &test.name)?;
        for _ in 1..ATTEMPTS {
            let failed = attempt.run.guest_complaint().is_some();
            if failed || attempt.missing(wanted, copies, test.kexecs).is_none() {
                break;
            }
            attempt = Attempt::new(ctx, &vm, &test.name)?;
        }
        let Attempt { run, buses } = &attempt;
        let name = format!("{}: the device copied when it was shut down", test.name);
        let missing = attempt.missing(wanted, copies, test.kexecs);
        report.check(&name, missing.map(|came| run.failure(ctx, wanted, &came)));
        run.judge(ctx, report, "", &[&test.name]);

        let name = format!("{}: writes to the configuration space", test.name);
        report.check(&name, judge_writes(ctx, run, fate, test)?);
        if matches!(fate, Fate::Left | Fate::SilencedAtEnd) {
            let name = format!("{}: QEMU sees the same buses, BARs and windows", test.name);
            report.check(&name, judge_buses(ctx, run, buses, NAMES.len()));
        }
    }
    Ok(())
}

/// A machine for a suite, with a trace of the writes to configuration spaces.
fn machine<'a>(kernel: &'a Kernel, initrd: &'a Path, test: &GuestTest) -> Vm<'a> {
    Vm::new(format!("devices-{}", test.name), kernel, initrd)
        .params(test.cmdline.clone())
        .init(format!("selftest {}", test.name))
        .kexecs(test.kexecs)
        .trace(&[WRITES])
}

/// A run, which proves nothing if the copy was complete before the device was shut down.
struct Attempt {
    run: Run,
    /// The answers of QEMU about the device and the bridges above it before and after each kexec.
    buses: Vec<Value>,
}

impl Attempt {
    fn new(ctx: &Ctx, vm: &Vm<'_>, name: &str) -> Result<Self> {
        let step = Step::start(ctx, format!("vm devices-{name}"));
        let mut buses = Buses::new(vm.monitor(ctx), pci::EDU);
        let run = vm.run_with(ctx, |line| buses.hear(line))?;
        step.done("");
        Ok(Self {
            run,
            buses: buses.answers,
        })
    }

    /// The reason why this run proves nothing, if there is one. `wanted` must be in the log
    /// `copies` times.
    fn missing(&self, wanted: &str, copies: u32, kexecs: u32) -> Option<String> {
        let log = self.run.console.kernel.iter();
        let copied = log.filter(|line| line.contains(wanted)).count() as u32;
        if copied < copies {
            return Some("a copy that was complete before, each time".to_owned());
        }
        (self.buses.len() as u32 != 2 * kexecs)
            .then(|| "no answer of QEMU to query-pci, each time".to_owned())
    }
}

/// Compares the answers of QEMU about the device and the bridges above it, which are `count`,
/// before and after; returns the difference.
fn judge_buses(ctx: &Ctx, run: &Run, buses: &[Value], count: usize) -> Option<String> {
    let first = buses.first()?;
    let bridges = first.as_array().map_or(0, Vec::len);
    let came = match buses.iter().find(|later| *later != first) {
        Some(later) => format!("{first} before, {later} after"),
        None if bridges != count => format!("{first}"),
        None => return None,
    };
    let expected = "the device below its bridges, each time the same";
    Some(run.failure(ctx, expected, &came))
}

/// Compares the writes to the configuration space of the device and the bridges above it with the
/// expected ones; returns the differences.
fn judge_writes(ctx: &Ctx, run: &Run, fate: Fate, test: &GuestTest) -> Result<Option<String>> {
    let trace = fs::read_to_string(run.log.with_extension("trace"))?;
    let mut wrong = Vec::new();
    for name in NAMES {
        let writes: Vec<Write> = trace
            .lines()
            .filter_map(|line| Write::parse(line, name))
            .collect();
        let Some(set_up) = writes.iter().position(Write::sets_master) else {
            wrong.push(format!("the first kernel did not set up {name}"));
            continue;
        };
        let disturbing = writes.iter().skip(set_up + 1);
        let disturbing: Vec<_> = disturbing.filter(|write| write.disturbs(name)).collect();
        let first = disturbing.first();
        match fate {
            Fate::Stopped if name != "edu" => {}
            Fate::Stopped if disturbing.iter().any(|write| write.clears_master()) => {}
            Fate::Stopped => wrong.push(format!("the bus master bit of {name} was not cleared")),
            Fate::Silenced(names) if names.contains(&name) => {
                if !first.is_some_and(|write| write.silences()) {
                    wrong.push(format!("{name} was not silenced at first: {disturbing:?}"));
                }
            }
            Fate::SilencedAtEnd if name == "edu" => {
                if disturbing.len() != 1 || !first.is_some_and(|write| write.silences()) {
                    wrong.push(format!("{name} was not only silenced: {disturbing:?}"));
                }
            }
            Fate::Left | Fate::SilencedAtEnd | Fate::Silenced(_) => {
                if !disturbing.is_empty() {
                    wrong.push(format!("{name} was disturbed: {disturbing:?}"));
                }
            }
        }
    }
    // The firmware and each kernel read the size of the BAR of the other device, as usual.
    let beside = trace.lines().filter_map(|line| Write::parse(line, BESIDE));
    let asked = |write: &Write| write.offset == Write::BAR && write.value == u32::MAX;
    let asked = beside.filter(asked).count() as u32;
    if asked != test.kexecs + 2 {
        wrong.push(format!("{BESIDE} was asked {asked} times for its size"));
    }
    if wrong.is_empty() {
        return Ok(None);
    }
    Ok(Some(run.failure(
        ctx,
        "writes that suit a device that was left working, or stopped",
        &wrong.join("; "),
    )))
}
