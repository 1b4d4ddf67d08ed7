// SPDX-License-Identifier: GPL-2.0

//! A clock that runs on while kernels change.

use std::{
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

/// A reading of the time-stamp counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticks(pub u64);

impl Ticks {
    pub fn now() -> Self {
        // SAFETY: All x86-64 processors have the instruction.
        Self(unsafe { core::arch::x86_64::_rdtsc() })
    }
}

/// When the program started.
static START: OnceLock<Ticks> = OnceLock::new();

/// To be called first of all.
pub fn program_starts() {
    START.get_or_init(Ticks::now);
}

/// When [`program_starts`] was called.
pub fn program_start() -> Ticks {
    *START.get_or_init(Ticks::now)
}

/// How fast the counter runs.
#[derive(Clone, Copy)]
pub struct Rate {
    per_second: f64,
    /// What the counter was when this kernel's clock was 0.
    zero: Ticks,
}

impl Rate {
    /// Measures the rate against the clock of the kernel.
    pub fn measure() -> Self {
        let (instant, before) = (Instant::now(), Ticks::now());
        sleep(Duration::from_millis(100));
        let (elapsed, after) = (instant.elapsed(), Ticks::now());
        let per_second = (after.0 - before.0) as f64 / elapsed.as_secs_f64();
        let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Ticks::now();
        let uptime = uptime.tv_sec as f64 + uptime.tv_nsec as f64 / 1e9;
        // CAST: A machine is not up for so long that this would not fit.
        let zero = Ticks(now.0.saturating_sub((uptime * per_second) as u64));
        Self { per_second, zero }
    }

    /// When this kernel's clock started.
    pub fn kernel_start(&self) -> Ticks {
        self.zero
    }

    /// Microseconds from `start` to `end`; 0 if that is negative.
    pub fn micros(&self, start: Ticks, end: Ticks) -> u64 {
        (end.0.saturating_sub(start.0) as f64 / self.per_second * 1e6) as u64
    }
}
