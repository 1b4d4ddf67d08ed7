// SPDX-License-Identifier: GPL-2.0

//! The results of the cases of a suite, from all of its kernels.

use crate::support::{error::Result, state};

/// The directory for results and other data for the next kernel.
pub const STATE: &str = "luod";
const RESULTS: &str = "results";

/// Saves the result of a case; if it has failed, the reason is saved before the result.
pub fn case(name: &str, run: impl FnOnce() -> Result) -> Result {
    let result = run();
    let mut results = state::get(STATE, RESULTS).unwrap_or_default();
    match &result {
        Ok(()) => {
            println!("# {name}: good");
            results += &format!("ok {name}\n");
        }
        Err(failure) => {
            let reason = failure.to_string().lines().collect::<Vec<_>>().join("; ");
            println!("{name}: {reason}");
            results += &format!("# {reason}\nnot ok {name}\n");
        }
    }
    state::put(STATE, RESULTS, &results)
}

/// Prints the results of all cases. The reason of a failure is printed before the result.
pub fn conclude(suite: &str) -> Result<u8> {
    let results = state::get(STATE, RESULTS)?;
    let is_reason = |line: &&str| line.starts_with('#');
    let cases = results.lines().filter(|line| !is_reason(line)).count();
    println!("KTAP version 1\n1..{cases}");
    let mut number = 0;
    let mut failed = false;
    for line in results.lines() {
        if is_reason(&line) {
            println!("{line}");
            continue;
        }
        number += 1;
        failed |= line.starts_with("not");
        let (verdict, name) = line.rsplit_once(' ').unwrap_or_default();
        println!("{verdict} {number} {suite}.{name}");
    }
    Ok(u8::from(failed))
}
