// SPDX-License-Identifier: GPL-2.0

//! What is printed: steps, KTAP read from machines, results.

pub mod ktap;
pub mod results;
pub mod step;
