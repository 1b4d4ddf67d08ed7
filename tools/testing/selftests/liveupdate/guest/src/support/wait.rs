// SPDX-License-Identifier: GPL-2.0

//! Polling for conditions without an event.

use crate::support::error::{ensure, Result};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Waits until a condition is true: freed memory may stay accounted for a short time.
pub fn eventually(what: &str, test: impl FnMut() -> Result<bool>) -> Result {
    within(Duration::from_secs(20), what, test)
}

/// The same, with another limit of time.
pub fn within(limit: Duration, what: &str, mut test: impl FnMut() -> Result<bool>) -> Result {
    let end = Instant::now() + limit;
    while !test()? {
        ensure!(Instant::now() < end, "{what}, and that does not change");
        sleep(Duration::from_millis(100));
    }
    Ok(())
}
