// SPDX-License-Identifier: GPL-2.0

//! A network card that user space drives through VFIO, and that receives frames all the time.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::writes::{Write, BESIDE, PORT, WRITES};
use super::{judge_buses, machine};
use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs::GuestTest;
use crate::kernel::build::Kernel;
use crate::machine::card::{CardRun, FULL, VFIO};
use crate::machine::named::{self, Machine};
use crate::machine::sender::{Outcome, Refused};
use crate::machine::vm::Run;
use crate::report::results::{notice, Report};
use crate::report::step::Step;

/// The suites whose device does not keep working in the next kernel. The devices of all others do.
const STOPPED: [&str; 5] = [
    "vfio_stopped",
    "vfio_closed",
    "vfio_skipped",
    "vfio_unplugged",
    RESTARTED,
];

/// The number of frames that are sent in a second. A run in which the ring was full proves nothing,
/// and is repeated with the next rate.
const RATES: [u32; 3] = [1000, 1000, 500];

/// The rates of a suite that does not empty the ring for half a minute.
const LATE_RATES: [u32; 3] = [250, 250, 125];

/// The suite in which the device is stopped, and set up again.
const RESTARTED: &str = "vfio_restarted";

/// The suite in which frames are lost, and what it says of them.
const FULL_SUITE: &str = "vfio_full";
const LOST: [&str; 2] = [" frames of ", " were lost"];

/// The event of QEMU that the card writes a frame to memory.
const FRAMES: &str = "igb_rx_desc_buff_write";

/// The names of the device and of the bridge above it in QEMU.
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
    let initrd = initramfs::guest_with_modules(ctx, VFIO, guest, &[kernel, kernel])?;
    for test in tests {
        let run = run_suite(ctx, kernel, &initrd, test)?;
        Judge::new(&run).judge(ctx, report, test)?;
    }
    Ok(())
}

/// The kind of machine for a suite.
fn kind(test: &GuestTest) -> &'static Machine {
    match test.name.as_str() {
        "vfio_ports" => &named::PORTS,
        _ => &named::VFIO,
    }
}

/// Runs a suite until the ring was not full.
fn run_suite(ctx: &Ctx, kernel: &Kernel, initrd: &Path, test: &GuestTest) -> Result<CardRun> {
    let rates = match test.name.as_str() {
        "vfio_late" => LATE_RATES,
        _ => RATES,
    };
    let refused = match test.name.as_str() {
        FULL_SUITE | RESTARTED => Refused::Lost,
        _ => Refused::Wait,
    };
    let mut rates = rates.into_iter();
    loop {
        let rate = rates.next().unwrap_or_default();
        let vm = machine(kernel, initrd, test)
            .on(kind(test))
            .trace(&[WRITES, FRAMES]);
        let step = Step::start(ctx, format!("vm {}", vm.name));
        let run = CardRun::new(ctx, vm, (rate, refused), |_, _| ())?;
        step.done(&format!(
            "{} frames sent, {} received, {:?} while the next kernel booted",
            run.frames.sent,
            run.frames.received,
            run.booting()
        ));
        if rates.len() == 0 || !run.was_full() {
            return Ok(run);
        }
        notice(&format!(
            "vm devices-{}: {FULL} at {rate} frames a second; it is started again",
            test.name
        ));
    }
}

/// What is said of a suite.
struct Judge<'a> {
    run: &'a Run,
    /// What QEMU said of the device and the bridge above it before and after each kexec.
    buses: &'a [Value],
    /// What the sender has sent and received.
    frames: &'a Outcome,
    /// How many frames the card took while each of the next kernels booted, until its first program.
    booting: Vec<u64>,
}

impl<'a> Judge<'a> {
    fn new(run: &'a CardRun) -> Self {
        Self {
            run: &run.run,
            buses: &run.buses,
            frames: &run.frames,
            booting: run.booting(),
        }
    }

    fn judge(&self, ctx: &Ctx, report: &mut Report, test: &GuestTest) -> Result<()> {
        let Self {
            run, buses, frames, ..
        } = *self;
        run.judge(ctx, report, "", &[&test.name]);
        // A card that is set up again begins again.
        if test.name != RESTARTED {
            let complaint = frames.complaint();
            let expected = "all frames of the card, in order";
            let complaint = complaint.map(|came| run.failure(ctx, expected, &came));
            report.check(&format!("{}: the frames of the card", test.name), complaint);
        }
        if test.kexecs > 0 {
            let name = format!("{}: frames while the next kernel booted", test.name);
            report.check(&name, self.judge_booting(ctx, test));
        }
        if test.name == FULL_SUITE {
            let name = format!("{}: frames that were lost", test.name);
            report.check(&name, self.judge_lost(ctx));
        }
        if test.kexecs > 0 && !STOPPED.contains(&test.name.as_str()) {
            let name = format!("{}: writes to the configuration space", test.name);
            report.check(&name, judge_writes(ctx, run, &NAMES)?);
            let name = format!("{}: frames that the card wrote to memory", test.name);
            report.check(&name, judge_frames(ctx, run)?);
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

    /// A working device takes frames while there is no program that could drive it; one that was
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

    /// The program has counted as many lost frames as the sender, and there were some. The card itself
    /// loses a frame that it took just when the ring became full.
    fn judge_lost(&self, ctx: &Ctx) -> Option<String> {
        let lines = &self.run.console.user;
        let said = lines.iter().find_map(|line| lost(line));
        let sent = said.map(|(_, last)| self.frames.lost(last));
        let good = said.zip(sent).is_some_and(|((all, _), sent)| {
            let card = all.checked_sub(sent);
            sent > 0 && card.is_some_and(|card| card * 100 <= all)
        });
        let came = format!("(lost, of) {said:?}, the sender has lost {sent:?}");
        let expected = "some lost frames, and the same number on both sides, within a hundredth";
        (!good).then(|| self.run.failure(ctx, expected, &came))
    }
}

/// What a program says of frames that were lost: how many, and the number of the last one it received.
fn lost(line: &str) -> Option<(u64, u64)> {
    let [of, lost] = LOST;
    let (before, after) = line.strip_suffix(lost)?.split_once(of)?;
    Some((
        before.rsplit(' ').next()?.parse().ok()?,
        after.parse().ok()?,
    ))
}

/// Looks for writes to the configuration spaces between the marks that disturb the devices that QEMU
/// calls `names`; returns what is wrong.
pub fn judge_writes(ctx: &Ctx, run: &Run, names: &[&str]) -> Result<Option<String>> {
    let trace = fs::read_to_string(run.log.with_extension("trace"))?;
    let Some(lines) = between_marks(&trace) else {
        let expected = "both marks in the trace";
        return Ok(Some(run.failure(ctx, expected, "not both")));
    };
    let mut wrong = Vec::new();
    for name in names {
        let writes = lines.iter().filter_map(|line| Write::parse(line, name));
        let writes: Vec<_> = writes.collect();
        let disturbing: Vec<_> = writes.iter().filter(|write| write.disturbs(name)).collect();
        if !disturbing.is_empty() {
            wrong.push(format!("{name} was disturbed: {disturbing:?}"));
        }
        let commands: Vec<_> = writes.iter().filter(|write| write.is_command()).collect();
        let mut pairs = commands.iter().zip(commands.iter().skip(1));
        if pairs.any(|(one, next)| one.changes_more_than_interrupts(next)) {
            wrong.push(format!(
                "the command register of {name} was changed: {commands:?}"
            ));
        }
    }
    let expected = "no writes that disturb a working device";
    Ok((!wrong.is_empty()).then(|| run.failure(ctx, expected, &wrong.join("; "))))
}

/// The card must write frames to memory between the marks; returns what is wrong.
fn judge_frames(ctx: &Ctx, run: &Run) -> Result<Option<String>> {
    let trace = fs::read_to_string(run.log.with_extension("trace"))?;
    let lines = between_marks(&trace).unwrap_or_default();
    let written = lines.iter().any(|line| line.contains(FRAMES));
    let expected = "writes between the marks";
    Ok((!written).then(|| run.failure(ctx, expected, "none")))
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
    fn lost_frames_are_read() {
        let line = "# lost_frames_are_counted: 23 frames of 4711 were lost";
        assert_eq!(lost(line), Some((23, 4711)));
        assert_eq!(lost("# 4711 frames before, 23 in the ring"), None);
    }

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
