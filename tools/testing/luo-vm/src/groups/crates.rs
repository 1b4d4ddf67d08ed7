// SPDX-License-Identifier: GPL-2.0

//! The group `crates`: licences, sources and versions of the crates that the programs consist of, and
//! the packages and interfaces of our own crates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::ctx::Ctx;
use crate::groups::fuzz;
use crate::groups::lint::quiet;
use crate::report::results::Report;
use crate::report::step::Step;

/// The last version of cargo-deny that rustc 1.85 can build.
const CARGO_DENY: &str = "0.18.3";

/// A version of cargo-semver-checks that reads what the rustdoc of rustc 1.85 writes.
const CARGO_SEMVER_CHECKS: &str = "0.40.0";

/// The commit with which the interfaces of our crates are compared. If a crate changes in an
/// incompatible way, its version must be raised. With the next release, this becomes its commit.
const BASELINE: &str = "b1dbf17";

/// The configuration of cargo-deny.
const CONFIG: &str = "tools/deny.toml";

/// Our crates that can be published, and whether each can be built without the others.
const PUBLISHED: [(&str, bool); 5] = [
    ("liveupdate-uapi", true),
    ("luo-check", true),
    ("luod-protocol", false),
    ("liveupdate", false),
    ("liveupdate-capi", false),
];

/// What a package has besides code.
const FILES: [&str; 4] = ["Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// Builds a program from its source on crates.io, with the dependencies that its authors have tested,
/// unless another checkout has done that before. Returns the program.
fn tool(ctx: &Ctx, name: &str, version: &str) -> Result<PathBuf> {
    let root = ctx.cache.join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if program.exists() {
        return Ok(program);
    }
    let title = format!("build {name} {version} (once, up to ten minutes)");
    let mut step = Step::start(ctx, title);
    let target = root.join("target");
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", "--locked", "--version", version, "--root"])
        .arg(&root)
        .arg(name)
        .env("CARGO_TARGET_DIR", &target);
    step.run(&mut cargo, &ctx.log(&format!("{name}-build")))?;
    // The program is complete, and a gigabyte of objects is not needed any more.
    fs::remove_dir_all(target)?;
    step.done("");
    Ok(program)
}

fn deny(ctx: &Ctx, program: &Path, workspace: &str) -> Result<Option<String>> {
    let mut deny = Command::new(program);
    deny.arg("--manifest-path")
        .arg(ctx.top.join(workspace).join("Cargo.toml"))
        .args(["--locked", "check", "--config"])
        .arg(ctx.top.join(CONFIG))
        .args(["bans", "licenses", "sources"]);
    quiet(ctx, "cargo-deny", &mut deny)
}

/// Checks that what `cargo publish` would upload is complete. A crate can only be built if it needs no
/// other one that is not published yet.
fn package(ctx: &Ctx, name: &str, alone: bool) -> Result<Option<String>> {
    let cargo = || {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(ctx.top.join("tools"));
        cargo.args(["package", "--locked", "--allow-dirty", "-p", name]);
        cargo
    };
    let list = cargo().arg("--list").output().context("cargo package")?;
    let text = String::from_utf8_lossy(&list.stdout);
    let missing = FILES
        .iter()
        .find(|file| text.lines().all(|line| line != **file));
    if let Some(file) = missing {
        let said = String::from_utf8_lossy(&list.stderr);
        return Ok(Some(format!("the package has no {file}: {said}")));
    }
    if !alone {
        return Ok(None);
    }
    quiet(ctx, &format!("cargo-package-{name}"), &mut cargo())
}

/// Unpacks the workspace at [`BASELINE`]. Returns its directory, or none if this is not a clone with
/// that commit.
fn baseline(ctx: &Ctx) -> Result<Option<PathBuf>> {
    let dir = ctx.build.join(format!("baseline-{BASELINE}"));
    if dir.exists() {
        return Ok(Some(dir));
    }
    let tar = dir.with_extension("tar");
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "-C"]).arg(&ctx.top);
    git.args(["archive", "--format=tar", "-o"]).arg(&tar);
    git.args([BASELINE, "tools", "include/uapi"]);
    let output = git.output().context("git archive")?;
    if !output.status.success() {
        return Ok(None);
    }
    let unpacked = dir.with_extension("new");
    fs::create_dir_all(&unpacked)?;
    let mut step = Step::start(ctx, format!("unpack the commit {BASELINE}"));
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(&tar).arg("-C").arg(&unpacked);
    step.run(&mut unpack, &ctx.log("baseline"))?;
    fs::remove_file(tar)?;
    fs::rename(unpacked, &dir)?;
    step.done("");
    Ok(Some(dir))
}

/// Checks that the interface of a crate is compatible with that at [`BASELINE`], or that its version
/// says that it is not.
fn compatible(ctx: &Ctx, program: &Path, baseline: &Path, name: &str) -> Result<Option<String>> {
    let mut check = Command::new(program);
    check.current_dir(ctx.top.join("tools"));
    check.args(["semver-checks", "-p", name, "--all-features"]);
    check.arg("--baseline-root").arg(baseline.join("tools"));
    quiet(ctx, &format!("cargo-semver-checks-{name}"), &mut check)
}

/// Checks that the documentation of the crates, as docs.rs would build it, has no warnings.
fn documentation(ctx: &Ctx) -> Result<Option<String>> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(ctx.top.join("tools"))
        .args(["doc", "--locked", "--no-deps", "--all-features"])
        .args(PUBLISHED.iter().flat_map(|(name, _)| ["-p", name]))
        .env("RUSTDOCFLAGS", "-Dwarnings");
    quiet(ctx, "cargo-doc", &mut cargo)
}

/// Runs the group.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    for (name, alone) in PUBLISHED {
        let what = format!("the crate {name} can be packaged");
        report.attempt(&what, package(ctx, name, alone));
    }
    report.attempt("the crates are documented", documentation(ctx));
    let program = tool(ctx, "cargo-deny", CARGO_DENY)?;
    for (workspace, what) in [("tools", "the programs"), (fuzz::CRATE, "the fuzz targets")] {
        let what = format!("licences, sources and versions of the crates of {what}");
        report.attempt(&what, deny(ctx, &program, workspace));
    }
    let what = |name| format!("the interface of {name} is compatible");
    let Some(baseline) = baseline(ctx)? else {
        let why = format!("there is no commit {BASELINE} in this checkout");
        report.not_run(&what("the crates"), &why);
        return Ok(());
    };
    let program = tool(ctx, "cargo-semver-checks", CARGO_SEMVER_CHECKS)?;
    for (name, _) in PUBLISHED {
        report.attempt(&what(name), compatible(ctx, &program, &baseline, name));
    }
    Ok(())
}
