// SPDX-License-Identifier: GPL-2.0

//! A clock that continues during a kexec.

use std::{
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

/// A reading of the processor's counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticks(pub u64);

impl Ticks {
    pub fn now() -> Self {
        Self(liveupdate::raw::time_stamp_counter().unwrap_or_default())
    }
}

/// The start of the program.
static START: OnceLock<Ticks> = OnceLock::new();

/// Must be called first.
pub fn program_starts() {
    START.get_or_init(Ticks::now);
}

/// The time at which [`program_starts`] was called.
pub fn program_start() -> Ticks {
    *START.get_or_init(Ticks::now)
}

/// The frequency of the counter.
#[derive(Clone, Copy)]
pub struct Rate {
    per_second: f64,
    /// The value of the counter when this kernel's clock was 0.
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
        // CAST: The uptime of a machine fits.
        let zero = Ticks(now.0.saturating_sub((uptime * per_second) as u64));
        Self { per_second, zero }
    }

    /// The start of this kernel's clock.
    pub fn kernel_start(&self) -> Ticks {
        self.zero
    }

    /// Microseconds from `start` to `end`; 0 if that is negative.
    pub fn micros(&self, start: Ticks, end: Ticks) -> u64 {
        (end.0.saturating_sub(start.0) as f64 / self.per_second * 1e6) as u64
    }
}
