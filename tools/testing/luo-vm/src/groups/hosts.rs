// SPDX-License-Identifier: GPL-2.0

//! The group `hosts`: the packages on a fresh Debian without a running systemd, as where images of
//! hosts are made.
//!
//! `sandbox.sh` builds the packages, and `tools/testing/selftests/liveupdate/hosts` tests them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::{disk, machine};
use crate::report::ktap;
use crate::report::results::Report;
use crate::report::step::Step;

/// The packages, in any order.
const PACKAGES: [&str; 6] = [
    "libliveupdate-dev",
    "libliveupdate1",
    "luo-qemu",
    "luoctl",
    "luod",
    "python3-liveupdate",
];

/// The directories of the checkout with the tests.
const TREES: [&str; 2] = [
    "tools/testing/selftests/liveupdate/hosts/usr/lib/luo-test",
    "tools/testing/selftests/liveupdate/debian/usr/lib/luo-test",
];

/// Unpacks the system $1 and the files of $2 to a temporary directory, and runs the tests there.
/// Files there belong to the user who runs this, who is root in a namespace.
const RUN: &str = r#"set -e
    tmp=$(mktemp -d)
    trap 'rm -rf --one-file-system "$tmp"' EXIT
    tar -xf "$1" -C "$tmp" --no-same-owner --exclude='./dev/*'
    mkdir -p "$tmp/usr/lib/luo-test"
    cp "$2"/* "$tmp/usr/lib/luo-test"
    unshare --user --map-root-user --mount --net sh -ec '
        busybox mount -o rbind /dev "$1/dev"
        busybox mount -o rbind /proc "$1/proc"
        busybox mount -t tmpfs tmpfs "$1/run"
        exec chroot "$1" /usr/bin/python3 /usr/lib/luo-test/chroot.py' sh "$tmp""#;

/// Installs, upgrades, removes and purges the packages.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let stage = ctx.build.join("hosts");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    fs::create_dir_all(&stage)?;
    for (name, path) in packages(ctx)? {
        fs::copy(path, stage.join(name))?;
    }
    for tree in TREES {
        for entry in fs::read_dir(ctx.top.join(tree))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), stage.join(entry.file_name()))?;
            }
        }
    }
    let archive = disk::archive(ctx)?;
    let mut step = Step::start(ctx, "install, upgrade and purge the packages");
    let mut lines = Vec::new();
    let mut sh = Command::new("sh");
    sh.args(["-c", RUN, "sh"]).arg(archive).arg(&stage);
    let log = ctx.log("hosts");
    step.run_with(&mut sh, &log, |_, line| lines.push(line.to_owned()))?;
    step.done("");
    let results = ktap::parse(lines.iter().map(String::as_str));
    for result in &results.results {
        report.result("", result);
    }
    if results.results.is_empty() || !results.problems.is_empty() {
        let log = ctx.shown(&log);
        report.fail("the results are complete", &format!("see {log}"));
    }
    Ok(())
}

/// The packages in two versions, with their names in the system.
fn packages(ctx: &Ctx) -> Result<Vec<(String, PathBuf)>> {
    let deb = machine::built(ctx)?;
    let newer = ctx.build.join("deb-newer");
    fs::create_dir_all(&newer)?;
    let mut step = Step::start(ctx, "make newer packages");
    let mut files = Vec::new();
    for package in PACKAGES {
        let path = machine::find(&deb, package)?;
        let to = newer.join(format!("newer-{package}.deb"));
        step.run(&mut machine::newer(&path, &to), &ctx.log("hosts-newer"))?;
        files.push((format!("{package}.deb"), path));
        files.push((format!("newer-{package}.deb"), to));
    }
    step.done("");
    Ok(files)
}
