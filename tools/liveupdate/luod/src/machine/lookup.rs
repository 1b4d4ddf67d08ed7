// SPDX-License-Identifier: GPL-2.0

//! Asking the kernel about sessions, and when to ask again.

use liveupdate::{errno, Device};
use luod_protocol::{SessionName, Stamp};
use rustix::io::Errno;
use std::io;

/// How long luod waits until it tries something again for the first time, in microseconds.
const FIRST_WAIT_US: u64 = 50_000;

/// When something is tried again: at longer and longer intervals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    /// When, in microseconds of `CLOCK_MONOTONIC`.
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

    /// It failed once more.
    pub(super) fn again(self, now: Stamp, longest: u64) -> Self {
        let wait = self.wait.saturating_mul(2).min(longest);
        Self {
            at: now.monotonic_us.saturating_add(wait),
            wait,
        }
    }
}

/// Whether an error has this number.
pub(super) fn is(error: &io::Error, expected: Errno) -> bool {
    errno(error) == Some(expected.raw_os_error())
}

/// Whether the kernel says that a session is finished. [`None`] if it does not tell.
pub(super) fn is_finished(device: &Device, name: &SessionName) -> Option<bool> {
    match device.retrieve_session(name) {
        // Nobody had it open.
        Ok(_) => Some(false),
        Err(error) if is(&error, Errno::NOENT) => Some(true),
        Err(error) if is(&error, Errno::BUSY) => Some(false),
        Err(_) => None,
    }
}
