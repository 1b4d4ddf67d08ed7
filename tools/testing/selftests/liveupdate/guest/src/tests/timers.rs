// SPDX-License-Identifier: GPL-2.0

//! What this kernel found out about timers, the next one need not find out again.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    kernel_log::kernel_log,
    registry::{Case, Suite},
};
use std::fs;

/// `struct kho_timers`.
struct Timers {
    lapic_timer_period: u64,
    tsc_khz: u64,
    loops_per_jiffy: u64,
}

impl Timers {
    /// What is handed over (`out`), or was (`in`).
    fn read(direction: &str) -> Result<Self> {
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
            // The upper half is 0: processors are not that fast.
            loops_per_jiffy: number(16).at("loops_per_jiffy")?,
        })
    }
}

fn not_calibrated_again() -> Case {
    Case::two(
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
    )
}

pub fn suite() -> Suite {
    Suite::new("timers", vec![not_calibrated_again()])
}
