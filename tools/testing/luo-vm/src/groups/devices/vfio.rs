// SPDX-License-Identifier: GPL-2.0

//! A network card that user space drives through VFIO, and that receives frames all the time.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::writes::{Write, BESIDE, PORT};
use super::{is_kexec, is_next_program, judge_buses, machine};
use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs::GuestTest;
use crate::kernel::build::Kernel;
use crate::machine::gap::BOOTS;
use crate::machine::named;
use crate::machine::pci;
use crate::machine::sender::{Outcome, Sender};
use crate::machine::vm::Run;
use crate::report::results::{notice, Report};
use crate::report::step::Step;

/// The group of those guest tests that need the network card.
pub const VFIO: &str = "vfio";

/// The suites whose device the old kernel stops; that of all others goes on.
const STOPPED: [&str; 2] = ["vfio_stopped", "vfio_closed"];

/// How many frames are sent in a second. A run in which the ring was full shows nothing, and is
/// repeated with the next rate.
const RATES: [u32; 3] = [1000, 1000, 500];

/// What a guest test says if the ring was full.
const FULL: &str = "the ring was full";

/// What QEMU calls the device and the bridge above it.
const NAMES: [&str; 2] = ["igb", PORT];

/// The marks in the trace between which nothing disturbs these.
const BEFORE: u32 = 0xb1;
const AFTER: u32 = 0xb2;

/// The register that the marks are written to.
const MARKED: u32 = 0x3c;

/// Runs the suites.
pub fn run(
    ctx: &Ctx,
    report: &mut Report,
    kernel: &Kernel,
    guest: &Path,
    tests: &[GuestTest],
) -> Result<()> {
    if tests.is_empty() {
        return Ok(());
    }
    let modules = initramfs::modules(kernel)?;
    let modules: Vec<_> = modules
        .iter()
        .map(|(name, path)| (name.as_str(), path.as_path()))
        .collect();
    let initrd = initramfs::guest_with(ctx, VFIO, guest, &[kernel, kernel], &modules)?;
    for test in tests {
        let attempt = Attempt::repeated(ctx, kernel, &initrd, test)?;
        attempt.judge(ctx, report, test)?;
    }
    Ok(())
}

/// A run.
struct Attempt {
    run: Run,
    /// What QEMU said of the device and the bridge above it before and after each kexec.
    buses: Vec<Value>,
    /// What the sender has sent and received.
    frames: Outcome,
    /// How many frames the card took while each of the next kernels booted, until its first program.
    booting: Vec<u64>,
}

impl Attempt {
    /// Runs a suite until the ring was not full.
    fn repeated(ctx: &Ctx, kernel: &Kernel, initrd: &Path, test: &GuestTest) -> Result<Self> {
        let [rates @ .., last] = RATES;
        for rate in rates {
            let attempt = Self::new(ctx, kernel, initrd, test, rate)?;
            let lines = &attempt.run.console.user;
            if !lines.iter().any(|line| line.contains(FULL)) {
                return Ok(attempt);
            }
            notice(&format!(
                "vm devices-{}: {FULL} at {rate} frames a second; it is started again",
                test.name
            ));
        }
        Self::new(ctx, kernel, initrd, test, last)
    }

    fn new(ctx: &Ctx, kernel: &Kernel, initrd: &Path, test: &GuestTest, rate: u32) -> Result<Self> {
        let name = format!("devices-{}", test.name);
        let sender = Sender::start(&ctx.log(&name), rate)?;
        let vm = machine(kernel, initrd, test)
            .on(&named::VFIO)
            .devices(sender.devices());
        let step = Step::start(ctx, format!("vm {name}"));
        let monitor = vm.monitor(ctx);
        let counter = sender.counter();
        let mut buses = Vec::new();
        let mut booting = Vec::new();
        let (mut jumped, mut since) = (false, None);
        let run = vm.run_with(ctx, |line| {
            let (kexec, program) = (is_kexec(line), is_next_program(line));
            if kexec || program {
                // The machine may have ended before it is asked.
                buses.extend(pci::ask(&monitor, pci::IGB));
            }
            jumped |= kexec;
            if line.contains(BOOTS) {
                since = jumped.then(|| counter.get());
            } else if program {
                booting.extend(since.take().map(|since| counter.get() - since));
            }
        });
        let frames = sender.end();
        step.done(&format!(
            "{} frames sent, {} received, {booting:?} while the next kernel booted",
            frames.sent, frames.received
        ));
        Ok(Self {
            run: run?,
            buses,
            frames,
            booting,
        })
    }

    fn judge(&self, ctx: &Ctx, report: &mut Report, test: &GuestTest) -> Result<()> {
        let Self {
            run, buses, frames, ..
        } = self;
        run.judge(ctx, report, "", &[&test.name]);
        let complaint = frames.complaint();
        let expected = "all frames of the card, in order";
        let complaint = complaint.map(|came| run.failure(ctx, expected, &came));
        report.check(&format!("{}: the frames of the card", test.name), complaint);
        if test.kexecs > 0 {
            let name = format!("{}: frames while the next kernel booted", test.name);
            report.check(&name, self.judge_booting(ctx, test));
        }
        if test.kexecs > 0 && !STOPPED.contains(&test.name.as_str()) {
            let name = format!("{}: writes to the configuration space", test.name);
            report.check(&name, judge_writes(ctx, run)?);
            let name = format!("{}: QEMU sees the same bus, BARs and windows", test.name);
            let missing = buses.is_empty().then(|| {
                let expected = "answers of QEMU to query-pci";
                run.failure(ctx, expected, "none")
            });
            let wrong = missing.or_else(|| judge_buses(ctx, run, buses, NAMES.len()));
            report.check(&name, wrong);
        }
        Ok(())
    }

    /// A device that goes on takes frames while there is no program that could drive it; one that was
    /// stopped takes none.
    fn judge_booting(&self, ctx: &Ctx, test: &GuestTest) -> Option<String> {
        let stopped = STOPPED.contains(&test.name.as_str());
        let good = |frames: &u64| (*frames == 0) == stopped;
        let complete = self.booting.len() == test.kexecs as usize;
        if complete && self.booting.iter().all(good) {
            return None;
        }
        let what = if stopped { "none" } else { "some" };
        let expected = format!("{what} for each of the {} kernels", test.kexecs);
        Some(
            self.run
                .failure(ctx, &expected, &format!("{:?}", self.booting)),
        )
    }
}

/// Looks for writes to the configuration spaces between the marks that disturb the device or the
/// bridge above it; returns what is wrong.
fn judge_writes(ctx: &Ctx, run: &Run) -> Result<Option<String>> {
    let trace = fs::read_to_string(run.log.with_extension("trace"))?;
    let Some(lines) = between_marks(&trace) else {
        let expected = "both marks in the trace";
        return Ok(Some(run.failure(ctx, expected, "not both")));
    };
    let mut wrong = Vec::new();
    for name in NAMES {
        let writes = lines.iter().filter_map(|line| Write::parse(line, name));
        let disturbing: Vec<_> = writes.filter(|write| write.disturbs(name)).collect();
        if !disturbing.is_empty() {
            wrong.push(format!("{name} was disturbed: {disturbing:?}"));
        }
    }
    let expected = "no writes that disturb a device which goes on working";
    Ok((!wrong.is_empty()).then(|| run.failure(ctx, expected, &wrong.join("; "))))
}

/// The lines of a trace between the marks of each live update.
fn between_marks(trace: &str) -> Option<Vec<&str>> {
    let mark = |line: &str| {
        let write = Write::parse(line, BESIDE)?;
        (write.offset == MARKED).then_some(write.value)
    };
    let mut lines = Vec::new();
    let mut open = false;
    let mut updates = 0;
    for line in trace.lines() {
        match mark(line) {
            Some(BEFORE) => open = true,
            Some(AFTER) if open => {
                open = false;
                updates += 1;
            }
            _ if open => lines.push(line),
            _ => {}
        }
    }
    (updates > 0 && !open).then_some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_between_marks_are_found() {
        let mark = |value| format!("pci_cfg_write pci-testdev 00:02.0 @0x3c <- {value:#x}\n");
        let igb = "pci_cfg_write igb 01:00.0 @0x4 <- 0x103\n";
        let trace = format!("{igb}{}{igb}{}{igb}", mark(BEFORE), mark(AFTER));
        assert_eq!(between_marks(&trace).unwrap(), [igb.trim()]);
        let again = format!("{trace}{trace}");
        assert_eq!(between_marks(&again).unwrap(), [igb.trim(); 2]);
        assert_eq!(between_marks(&format!("{trace}{}", mark(BEFORE))), None);
        assert_eq!(between_marks(igb), None);
    }
}
