// SPDX-License-Identifier: GPL-2.0

//! The tests.

mod common;
mod memfd;

use crate::registry::Suite;

/// All suites.
pub fn all() -> Vec<Suite> {
    vec![memfd::suite()]
}
