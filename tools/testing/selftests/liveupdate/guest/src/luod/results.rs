// SPDX-License-Identifier: GPL-2.0

//! The results of the cases of a suite, from all of its kernels.

use crate::support::{error::Result, state};

/// The directory for results and other data for the next kernel.
pub const STATE: &str = "luod";
const RESULTS: &str = "results";

/// Saves the result of a case.
pub fn case(name: &str, run: impl FnOnce() -> Result) -> Result {
    let result = run();
    let mut results = state::get(STATE, RESULTS).unwrap_or_default();
    match &result {
        Ok(()) => {
            println!("# {name}: good");
            results += &format!("ok {name}\n");
        }
        Err(failure) => {
            println!("# {name}: {failure}");
            results += &format!("not ok {name}\n");
        }
    }
    state::put(STATE, RESULTS, &results)
}

/// Prints the results of all cases.
pub fn conclude(suite: &str) -> Result<u8> {
    let results = state::get(STATE, RESULTS)?;
    let lines: Vec<&str> = results.lines().collect();
    println!("KTAP version 1\n1..{}", lines.len());
    for (number, line) in lines.iter().enumerate() {
        let (verdict, name) = line.rsplit_once(' ').unwrap_or_default();
        println!("{verdict} {} {suite}.{name}", number + 1);
    }
    Ok(u8::from(results.contains("not ok")))
}
