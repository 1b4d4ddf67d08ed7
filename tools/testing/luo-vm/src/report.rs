// SPDX-License-Identifier: GPL-2.0

//! Output: steps, KTAP of machines, results.

pub mod ktap;
pub mod results;
pub mod step;
