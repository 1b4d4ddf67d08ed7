// SPDX-License-Identifier: GPL-2.0

//! The groups of tests.

mod all;
pub mod base;
mod cloud;
pub mod configs;
mod crates;
pub mod debian;
pub mod debug;
pub mod devices;
mod docs;
pub mod fuzz;
mod guest;
pub mod host;
mod hosts;
pub mod kselftest;
pub mod kunit;
pub mod lint;
pub mod luod;
pub mod machines;
pub mod matrix;
pub mod packages;
mod schedule;
pub mod soak;
pub mod stress;
pub mod words;

use std::time::Instant;

use anyhow::{bail, Result};

use crate::ctx::Ctx;
use crate::groups::schedule::Group;
use crate::kernel::flavour::Flavour::{Cloud, Debug, Kasan, Ours, Peer, Peer72};
use crate::report::results::{summary, Report};

/// The groups of `make test`. The kernels are built in the order of their first use here, and a
/// group starts when its kernels are built.
const GROUPS: [Group; 11] = [
    Group::new("host", &[], host::run),
    Group::new("matrix", &[Ours, Peer], matrix::run).everywhere(),
    Group::new("kselftest-base", &[Ours], base::run).everywhere(),
    Group::new("kselftest", &[Ours], kselftest::run).everywhere(),
    Group::new("devices", &[Ours], devices::run),
    Group::new("machines", &[Ours], machines::some),
    Group::new("luod", &[Ours, Peer], luod::run),
    Group::new("debian", &[Ours], debian::run),
    Group::new("guest", &[Ours], guest::run).alone(),
    Group::new("kunit", &[Ours], kunit::run).everywhere(),
    Group::new("lint", &[Ours], lint::run),
];

/// The groups of `make test-all` only; `make test` runs them on request.
const LONG_GROUPS: [Group; 15] = [
    Group::new("hosts", &[], hosts::run),
    Group::new("packages", &[], packages::run),
    Group::new("crates", &[], crates::run),
    Group::new("debug", &[Debug], debug::run),
    Group::new("kunit-debug", &[Debug], kunit::run_debug),
    Group::new("lint-debug", &[Debug], lint::run_debug),
    Group::new("docs", &[Ours], docs::run),
    Group::new("machines-all", &[Ours], machines::others),
    Group::new("matrix-7.2", &[Peer72, Ours], matrix::run_72),
    Group::new("configs", &[], configs::run),
    Group::new("soak", &[Ours], soak::long),
    Group::new("debian-long", &[Cloud], debian::run_long),
    Group::new("guest-long", &[Ours], guest::run_long).alone(),
    Group::new("cloud", &[Cloud], cloud::run),
    Group::new("kasan", &[Kasan], debug::run_kasan),
];

/// Runs all groups of the architecture, including the long ones, or those in the list `only`, and writes
/// the page of results. Returns true if nothing failed.
pub fn run_all(ctx: &Ctx, only: Option<&str>) -> Result<bool> {
    let all = || GROUPS.iter().chain(&LONG_GROUPS);
    let only: Vec<&str> = only
        .map(|only| only.split(',').collect())
        .unwrap_or_default();
    for name in &only {
        if all().all(|group| group.name != *name) {
            let names: Vec<&str> = all().map(|group| group.name).collect();
            bail!(
                "There is no group {name}; the groups are {}.",
                names.join(", ")
            );
        }
    }
    ctx.need_space(24, 8)?;
    let groups: Vec<&Group> = all()
        .filter(|group| group.is_of(ctx.settings.arch))
        .collect();
    all::run(ctx, &groups, |group| {
        only.is_empty() || only.contains(&group.name)
    })
}

/// Runs the groups of `make test`, or one. Returns true if nothing failed.
pub fn run(ctx: &Ctx, only: Option<&str>) -> Result<bool> {
    let here = |group: &&Group| group.is_of(ctx.settings.arch);
    let mut groups: Vec<&Group> = GROUPS.iter().filter(here).collect();
    if let Some(only) = only {
        groups.extend(LONG_GROUPS.iter().filter(here));
        let names: Vec<&str> = groups.iter().map(|group| group.name).collect();
        groups.retain(|group| group.name == only);
        if groups.is_empty() {
            let names = names.join(", ");
            bail!("There is no group {only}; the groups are {names}.");
        }
    }
    ctx.need_space(16, 4)?;
    let started = Instant::now();
    let mut reports: Vec<(usize, Report)> = Vec::new();
    schedule::run(ctx, &groups, |number, report, _| {
        reports.push((number, report));
    });
    reports.sort_by_key(|(number, _)| *number);
    let reports: Vec<Report> = reports.into_iter().map(|(_, report)| report).collect();
    eprintln!("tested in {} s", started.elapsed().as_secs());
    Ok(summary(&reports))
}
