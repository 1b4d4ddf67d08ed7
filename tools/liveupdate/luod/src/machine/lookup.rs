// SPDX-License-Identifier: GPL-2.0

//! Questions to the kernel about sessions, and the times of retries.

use liveupdate::{errno, Device};
use luod_protocol::{SessionName, Stamp};
use rustix::io::Errno;
use std::io;

/// The time until the first retry, in microseconds.
const FIRST_WAIT_US: u64 = 50_000;

/// The time of the next retry. The intervals increase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    /// The time, in microseconds of `CLOCK_MONOTONIC`.
    pub(super) at: u64,
    wait: u64,
}

impl Backoff {
    pub(super) fn start(now: Stamp) -> Self {
        Self {
            at: now.monotonic_us.saturating_add(FIRST_WAIT_US),
            wait: FIRST_WAIT_US,
        }
    }

    /// Records another failure.
    pub(super) fn again(self, now: Stamp, longest: u64) -> Self {
        let wait = self.wait.saturating_mul(2).min(longest);
        Self {
            at: now.monotonic_us.saturating_add(wait),
            wait,
        }
    }
}

/// Returns whether an error has this number.
pub(super) fn is(error: &io::Error, expected: Errno) -> bool {
    errno(error) == Some(expected.raw_os_error())
}

/// Returns whether a session is finished. [`None`] if the kernel does not report it.
pub(super) fn is_finished(device: &Device, name: &SessionName) -> Option<bool> {
    match device.retrieve_session(name) {
        // It was not open.
        Ok(_) => Some(false),
        Err(error) if is(&error, Errno::NOENT) => Some(true),
        Err(error) if is(&error, Errno::BUSY) => Some(false),
        Err(_) => None,
    }
}
