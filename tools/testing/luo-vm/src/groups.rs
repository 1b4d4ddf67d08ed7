// SPDX-License-Identifier: GPL-2.0

//! The groups of `make test`.

pub mod base;
pub mod debian;
pub mod debug;
pub mod fuzz;
pub mod host;
pub mod kselftest;
pub mod kunit;
pub mod lint;
pub mod luod;
pub mod matrix;
pub mod soak;
pub mod stress;

use std::time::Instant;

use anyhow::{bail, Result};

use crate::ctx::Ctx;
use crate::report::results::Report;

type Group = fn(&Ctx, &mut Report) -> Result<()>;

/// In the order in which they run: what is quick comes first.
const GROUPS: [(&str, Group); 10] = [
    ("host", host::run),
    ("lint", lint::run),
    ("kunit", kunit::run),
    ("kselftest-base", base::run),
    ("kselftest", kselftest::run),
    ("luod", luod::run),
    ("debian", debian::run),
    ("matrix", matrix::run),
    ("matrix-7.2", matrix::run_72),
    ("debug", debug::run),
];

/// Runs all groups, or one. True if nothing failed.
pub fn run(ctx: &Ctx, only: Option<&str>) -> Result<bool> {
    if let Some(only) = only {
        if !GROUPS.iter().any(|(name, _)| *name == only) {
            let names = GROUPS.map(|(name, _)| name).join(", ");
            bail!("There is no group {only}; the groups are {names}.");
        }
    }
    ctx.need_space(16, 4)?;
    let started = Instant::now();
    let mut report = Report::default();
    for (name, group) in GROUPS {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        report.begin(name);
        if let Err(error) = group(ctx, &mut report) {
            report.fail("the group could not run", &format!("{error:#}"));
        }
        report.end();
    }
    eprintln!("tested in {} s", started.elapsed().as_secs());
    Ok(report.finish())
}
