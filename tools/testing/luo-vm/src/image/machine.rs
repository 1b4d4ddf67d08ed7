// SPDX-License-Identifier: GPL-2.0

//! The packages of a machine that is made of packages only, and its disk, which `sandbox.sh` makes
//! from them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::kernel::flavour::Flavour;
use crate::kernel::package::{self, Package};
use crate::kernel::source::lock;
use crate::report::step::Step;

/// The package with the service and the tests, in the checkout.
const TESTS: &str = "tools/testing/selftests/liveupdate/machine";

/// A module for the next kernel.
const MODULE: &str = "tools/testing/selftests/liveupdate/machine-module";

/// What the driver of the tests shares with those of the group `debian`.
const SHARED: &str = "tools/testing/selftests/liveupdate/debian/usr/lib/luo-test/results.py";

/// The packages of this repository on the machine.
const PACKAGES: [&str; 3] = ["luoctl", "luod", "python3-liveupdate"];

/// Of these, the packages that are upgraded there, which need one another in the same version.
const UPGRADED: [&str; 2] = ["luoctl", "luod"];

/// Makes a package with a higher version, and other configurations, from another one.
const NEWER: &str = r#"set -e
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    dpkg-deb -R "$1" "$tmp/tree"
    if [ -e "$tmp/tree/DEBIAN/conffiles" ]; then
        while read -r file; do
            echo '# newer' >>"$tmp/tree/$file"
        done <"$tmp/tree/DEBIAN/conffiles"
    fi
    sed -i -E 's/^(Version: .*)/\1+newer/; s/\(= ([^)]*)\)/(= \1+newer)/' "$tmp/tree/DEBIAN/control"
    dpkg-deb --root-owner-group -Znone -b "$tmp/tree" "$2""#;

fn dir(ctx: &Ctx) -> PathBuf {
    ctx.build.join("machine")
}

/// The file of a package in `dir`.
pub fn find(dir: &Path, package: &str) -> Result<PathBuf> {
    let prefix = format!("{package}_");
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && name.ends_with(".deb") {
            return Ok(entry.path());
        }
    }
    bail!("There is no package {package} in {}.", dir.display());
}

/// The command that makes the package `to` from the package `from`. It has a higher version, and other
/// configurations.
pub fn newer(from: &Path, to: &Path) -> Command {
    let mut repack = Command::new("sh");
    repack.args(["-c", NEWER, "sh"]).arg(from).arg(to);
    repack
}

/// The directory with the packages of the programs.
pub fn built(ctx: &Ctx) -> Result<PathBuf> {
    let deb = ctx.build.join("deb");
    // `sandbox.sh` may still be building them.
    drop(lock(&deb.join(".lock"))?);
    if !deb.join("inputs").exists() {
        let log = ctx.shown(&ctx.log("deb"));
        bail!("The packages could not be built: see {log}.");
    }
    Ok(deb)
}

/// Collects the packages: those of the programs, of a kernel, and of the tests, which contains that
/// of the next kernel. Both are kernels of `flavour`.
pub fn packages(ctx: &Ctx, flavour: Flavour) -> Result<()> {
    let [first, next] = package::both(ctx, flavour)?;
    let packages = dir(ctx).join("packages");
    if packages.exists() {
        fs::remove_dir_all(&packages)?;
    }
    fs::create_dir_all(&packages)?;
    let deb = built(ctx)?;
    for package in PACKAGES {
        fs::copy(
            find(&deb, package)?,
            packages.join(format!("{package}.deb")),
        )?;
    }
    fs::copy(&first.file, packages.join("linux-image.deb"))?;
    tests(ctx, &first, &next, &packages.join("luo-machine.deb"))
}

/// Makes the package of the tests. It has a directory for each kernel, whose name is the release.
fn tests(ctx: &Ctx, first: &Package, next: &Package, file: &Path) -> Result<()> {
    let stage = dir(ctx).join("tests");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    let kernels = stage.join("usr/share/luo-machine");
    let log = ctx.log("machine");
    let mut step = Step::start(ctx, "package the tests");
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(ctx.top.join(TESTS)).arg(&stage);
    step.run(&mut copy, &log)?;
    let shared = stage.join("usr/lib/luo-machine/results.py");
    fs::copy(ctx.top.join(SHARED), shared).context(SHARED)?;
    fs::create_dir_all(kernels.join(&first.release))?;
    let kernel = kernels.join(&next.release);
    fs::create_dir_all(&kernel)?;
    fs::copy(
        &next.file,
        kernel.join(format!("linux-image-{}.deb", next.release)),
    )?;
    let module = dir(ctx).join("module");
    package::module(ctx, next, &ctx.top.join(MODULE), &module)?;
    fs::copy(
        module.join("module/luo_machine.ko"),
        kernel.join("luo_machine.ko"),
    )?;
    fs::remove_dir_all(&module)?;
    let upgrade = kernels.join("newer");
    fs::create_dir_all(&upgrade)?;
    for package in UPGRADED {
        let mut newer = newer(
            &find(&built(ctx)?, package)?,
            &upgrade.join(format!("{package}.deb")),
        );
        step.run(&mut newer, &log)?;
    }
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "-Znone", "-b"]);
    pack.arg(&stage).arg(file);
    step.run(&mut pack, &log)?;
    fs::remove_dir_all(&stage)?;
    step.done("");
    Ok(())
}

/// The disk.
pub fn disk(ctx: &Ctx) -> Result<PathBuf> {
    let disk = dir(ctx).join("disk.raw");
    if !disk.exists() {
        bail!(
            "There is no {}: `make demo-deb` makes it.",
            ctx.shown(&disk)
        );
    }
    Ok(disk)
}
