// SPDX-License-Identifier: GPL-2.0

//! The calibration of timers is handed over to the next kernel.

use super::damage::fate::damage;
use crate::support::{
    error::{ensure, ensure_eq, At, Failure, Result},
    kernel_log::kernel_log,
    memfd,
    pattern::Pattern,
    registry::{Case, Suite},
    sessions::{create, retrieve},
};
use crate::tests::hazards::not_in_c;
use std::fs;

/// `struct kho_timers`.
struct Timers {
    lapic_timer_period: u64,
    tsc_khz: u64,
    loops_per_jiffy: u64,
}

impl Timers {
    /// The data that will be handed over (`out`), or was handed over (`in`).
    fn read(direction: &str) -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Failure::skip("only x86 measures its timers"));
        }
        let path = format!("/sys/kernel/debug/kho/{direction}/sub_fdts/x86-timers");
        let bytes = fs::read(&path).at(&path)?;
        let number = |at: usize| {
            let bytes: Option<&[u8; 4]> = bytes.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map(|bytes| u64::from(u32::from_le_bytes(*bytes)))
        };
        ensure_eq!(bytes.len(), 24, "the size of {path}");
        ensure_eq!(number(0), Some(1), "the version of {path}");
        Ok(Self {
            lapic_timer_period: number(8).at("lapic_timer_period")?,
            tsc_khz: number(12).at("tsc_khz")?,
            // The upper half is 0, since processors are slower.
            loops_per_jiffy: number(16).at("loops_per_jiffy")?,
        })
    }
}

/// The handover from the second to the third kernel, since that of the first one is
/// [wrong](wrong_period).
fn not_calibrated_again() -> Case {
    let Case {
        name, mut parts, ..
    } = Case::two(
        "not_calibrated_again",
        |stage| {
            let found = Timers::read("out")?;
            ensure!(found.loops_per_jiffy != 0, "the delay loop is not known");
            ensure!(found.tsc_khz != 0, "the TSC is not known");
            stage.put("lapic", found.lapic_timer_period)?;
            stage.put("loops", found.loops_per_jiffy)
        },
        |stage| {
            let log = kernel_log()?;
            ensure!(log.contains("preset value"), "the delay loop was measured");
            ensure!(
                !log.contains("reference calibration") && !log.contains("calibration matches"),
                "the TSC was calibrated again"
            );
            ensure!(Timers::read("in")?.tsc_khz != 0, "no TSC was handed over");
            for direction in ["in", "out"] {
                let found = Timers::read(direction)?;
                let (lapic, loops) = (stage.get("lapic")?, stage.get("loops")?);
                ensure_eq!(found.lapic_timer_period, lapic, "the APIC's timer");
                ensure_eq!(found.loops_per_jiffy, loops, "the delay loop");
            }
            Ok(())
        },
    );
    parts.insert(0, Box::new(|_| Ok(())));
    Case::with_parts(name, parts)
}

/// The address of the handed over data in the first kernel, from the node `x86-timers` of the tree.
fn address() -> Result<u64> {
    const TREE: &str = "/sys/kernel/debug/kho/out/fdt";
    const NODE: &[u8] = b"\0\0\0\x01x86-timers\0\0";
    const PROPERTY: u32 = 3;

    let tree = fs::read(TREE).at(TREE)?;
    let start = tree.windows(NODE.len()).position(|bytes| bytes == NODE);
    let rest = start.and_then(|start| tree.get(start + NODE.len()..));
    let words: Vec<u32> = rest
        .at("there is no node x86-timers")?
        .chunks_exact(4)
        .map(|word| u32::from_be_bytes(word.try_into().unwrap_or_default()))
        .collect();
    // Properties of 8 bytes: token, length, name, and the value, which is little-endian. One of them
    // is the size, the other one is the address.
    let number = |word: u32| u64::from(word.swap_bytes());
    words
        .windows(5)
        .filter(|words| words[0] == PROPERTY && words[1] == 8)
        .map(|words| number(words[3]) | (number(words[4]) << 32))
        .find(|address| *address >= 4096)
        .at("the node has no address")
}

/// A wrong but possible period of the local APIC's timer is not used.
fn wrong_period() -> Case {
    Case::with_parts(
        "wrong_period",
        vec![
            Box::new(|stage| {
                let right = Timers::read("out")?.lapic_timer_period;
                if right == 0 {
                    return Err(Failure::skip("the local APIC's timer has no period"));
                }
                let wrong = right + right / 2;
                stage.put("right", right)?;
                stage.put("wrong", wrong)?;
                let place = format!("memory {:#x} u32 = {wrong}", address()? + 8);
                damage("", &[&place])?;
                // Data is only damaged if there are sessions.
                let session = create("timers-wrong")?;
                let file = memfd::with(Pattern::new(1, 100))?;
                session.preserve(&file, 1)?;
                stage.hold((session, file));
                Ok(())
            }),
            Box::new(|stage| {
                let (right, wrong) = (stage.get("right")?, stage.get("wrong")?);
                let given = Timers::read("in")?.lapic_timer_period;
                ensure_eq!(given, wrong, "the period that was handed over");
                let used = Timers::read("out")?.lapic_timer_period;
                stage.note(format_args!("right: {right}, wrong: {wrong}, used: {used}"));
                ensure!(used != wrong, "the wrong period is used");
                // It was measured again; the machine may be busy.
                ensure!(
                    used.abs_diff(right) < right / 4,
                    "{used} is used instead of {right}"
                );
                retrieve("timers-wrong")?.finish()?;
                Ok(())
            }),
        ],
    )
    .hazard_unseen("5.15", not_in_c::NO_TIMERS)
}

pub fn suite() -> Suite {
    Suite::new("timers", vec![not_calibrated_again(), wrong_period()])
}
