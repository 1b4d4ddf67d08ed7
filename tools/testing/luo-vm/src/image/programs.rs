// SPDX-License-Identifier: GPL-2.0

//! Programs for the virtual machine: the guest program, and the base's kselftests.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::Deserialize;

use crate::ctx::Ctx;
use crate::kernel::build;
use crate::kernel::source::{self, Series};
use crate::once::Once;
use crate::report::step::Step;

/// The base's kselftests that kexec: one before, one after it, each in its own machine.
pub const BASE_KEXEC_TESTS: [&str; 4] = [
    "luo_kexec_simple",
    "luo_multi_session",
    "luo_stress_files",
    "luo_stress_sessions",
];

/// The base's kselftest that needs no kexec.
pub const BASE_TEST: &str = "liveupdate";

/// A test of the guest program, as described by `luo-guest list`.
#[derive(Debug, Clone, Deserialize)]
pub struct GuestTest {
    pub name: String,
    pub group: String,
    /// The number of kexecs.
    #[serde(default)]
    pub kexecs: u32,
    /// Kernel parameters that it needs.
    #[serde(default)]
    pub cmdline: String,
    /// The machine that it needs, if not the usual one.
    #[serde(default)]
    pub machine: String,
    /// Its cases that show faults of the implementation in C.
    #[serde(default)]
    pub hazards: Vec<HazardCase>,
}

/// A case that shows a fault of the implementation in C.
#[derive(Debug, Clone, Deserialize)]
pub struct HazardCase {
    pub name: String,
    pub kexecs: u32,
    /// Whether the first kernel must be ours, also when C is tested.
    pub reader_only: bool,
    /// Why the fault cannot be shown on C, if it cannot.
    pub unseen: Option<String>,
    /// The items of the case.
    pub items: Vec<String>,
}

/// A fault of the implementation in C.
#[derive(Debug, Clone, Deserialize)]
pub struct HazardItem {
    pub item: String,
    pub what: String,
    /// How it is shown without cases, if it has none.
    pub otherwise: Option<String>,
}

/// Builds the guest program, linked statically.
pub fn guest(ctx: &Ctx) -> Result<PathBuf> {
    static BUILT: Once<PathBuf> = Once::new();
    BUILT.get(|| build_guest(ctx))
}

fn build_guest(ctx: &Ctx) -> Result<PathBuf> {
    let mut step = Step::start(ctx, "build luo-guest");
    let mut cargo = static_build(ctx);
    cargo.args(["-p", "luo-guest"]);
    step.run(&mut cargo, &ctx.log("guest"))?;
    step.done("");
    guest_path(ctx)
}

/// The path of the program that [`guest`] builds.
pub fn guest_path(ctx: &Ctx) -> Result<PathBuf> {
    Ok(release(ctx)?.join("luo-guest"))
}

/// The directory of programs for the virtual machine.
fn release(ctx: &Ctx) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").context("CARGO_TARGET_DIR is not set")?;
    Ok(PathBuf::from(target)
        .join(ctx.arch().triple)
        .join("release"))
}

/// The path of luoctl that [`luod`] and [`debian`] build.
pub fn luoctl(ctx: &Ctx) -> Result<PathBuf> {
    Ok(release(ctx)?.join("luoctl"))
}

/// Builds luod, luoctl and clients in Rust and in C, linked statically; returns them with their
/// names in an image.
pub fn luod(ctx: &Ctx) -> Result<Vec<(&'static str, PathBuf)>> {
    static BUILT: Once<Vec<(&'static str, PathBuf)>> = Once::new();
    BUILT.get(|| build_luod(ctx))
}

fn build_luod(ctx: &Ctx) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut step = Step::start(ctx, "build luod and luoctl");
    for what in [
        ["-p", "luod", "-p", "luoctl", "--bins"].as_slice(),
        ["-p", "liveupdate", "--example", "counter"].as_slice(),
        ["-p", "liveupdate-capi"].as_slice(),
    ] {
        let mut cargo = static_build(ctx);
        cargo.args(what);
        step.run(&mut cargo, &ctx.log("luod"))?;
    }
    let release = release(ctx)?;
    let capi = ctx.top.join("tools/liveupdate/capi");
    let client = release.join("luod-client-c");
    let mut gcc = compiler(ctx);
    gcc.args(["-static", "-s", "-std=c11", "-O2"]);
    gcc.args(["-Wall", "-Wextra", "-Werror", "-I"]);
    gcc.arg(capi.join("include")).arg("-o").arg(&client);
    gcc.arg(capi.join("examples/luod-client.c"));
    gcc.arg(release.join("libliveupdate_c.a"));
    step.run(&mut gcc, &ctx.log("luod-client-c"))?;
    step.done("");
    Ok(vec![
        ("/bin/luod", release.join("luod")),
        ("/bin/luoctl", release.join("luoctl")),
        ("/bin/counter", release.join("examples/counter")),
        ("/bin/luod-client-c", client),
    ])
}

/// Builds luod and an example of a service, linked statically; returns them with their names
/// under Debian.
pub fn debian(ctx: &Ctx) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut step = Step::start(ctx, "build luod and services");
    for what in [
        ["-p", "luod", "-p", "luoctl", "--bins"].as_slice(),
        ["-p", "liveupdate", "--examples"].as_slice(),
    ] {
        let mut cargo = static_build(ctx);
        cargo.args(what);
        step.run(&mut cargo, &ctx.log("luod"))?;
    }
    step.done("");
    let release = release(ctx)?;
    let example = |name| release.join("examples").join(name);
    Ok(vec![
        ("usr/sbin/luod", release.join("luod")),
        ("usr/bin/luoctl", release.join("luoctl")),
        ("usr/lib/luo-test/memcached", example("memcached")),
        (
            "usr/lib/luo-test/systemd-service",
            example("systemd-service"),
        ),
        ("usr/lib/luo-test/counter", example("counter")),
    ])
}

/// luo-qemu, linked statically, and its path under Debian.
pub fn qemu(ctx: &Ctx) -> Result<(&'static str, PathBuf)> {
    let mut step = Step::start(ctx, "build luo-qemu");
    let mut cargo = static_build(ctx);
    cargo.args(["-p", "luo-qemu", "--bins"]);
    step.run(&mut cargo, &ctx.log("luo-qemu"))?;
    step.done("");
    Ok(("usr/bin/luo-qemu", release(ctx)?.join("luo-qemu")))
}

/// The example of a virtual machine monitor, linked statically, and its name in an image.
pub fn vmm(ctx: &Ctx) -> Result<(&'static str, PathBuf)> {
    let mut step = Step::start(ctx, "build luo-vmm");
    let mut cargo = static_build(ctx);
    cargo.args(["-p", "luo-vmm"]);
    step.run(&mut cargo, &ctx.log("luo-vmm"))?;
    step.done("");
    Ok(("/bin/luo-vmm", release(ctx)?.join("luo-vmm")))
}

/// `cargo build` for the virtual machine.
fn static_build(ctx: &Ctx) -> Command {
    let arch = ctx.arch();
    let mut cargo = cargo(ctx);
    cargo.args(["build", "--locked", "--release", "--target", arch.triple]);
    // Only for the target: build scripts are linked dynamically, and run on this machine.
    let target = arch.triple.replace('-', "_").to_uppercase();
    let mut flags = vec!["-Ctarget-feature=+crt-static"];
    flags.extend(arch.link);
    cargo.env(format!("CARGO_TARGET_{target}_RUSTFLAGS"), flags.join(" "));
    cargo
}

/// The compiler of C programs for the virtual machine.
fn compiler(ctx: &Ctx) -> Command {
    let [program, options @ ..] = ctx.arch().cc else {
        unreachable!("an architecture without a compiler");
    };
    let mut compiler = Command::new(program);
    compiler.args(options);
    compiler
}

/// `cargo` in the workspace.
pub fn cargo(ctx: &Ctx) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(ctx.top.join("tools"));
    cargo
}

/// The tests that the guest program has.
pub fn guest_tests(ctx: &Ctx) -> Result<Vec<GuestTest>> {
    ask(ctx, "list")
}

/// The faults of the implementation in C.
pub fn hazard_items(ctx: &Ctx) -> Result<Vec<HazardItem>> {
    ask(ctx, "hazards")
}

/// Runs the guest program on this machine, and parses its JSON output.
fn ask<T: DeserializeOwned>(ctx: &Ctx, command: &str) -> Result<T> {
    let mut program = if ctx.arch().native {
        Command::new(guest(ctx)?)
    } else {
        let mut cargo = cargo(ctx);
        cargo.args(["run", "--quiet", "--locked", "-p", "luo-guest", "--"]);
        cargo
    };
    let output = program
        .arg(command)
        .output()
        .with_context(|| format!("luo-guest {command}"))?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("`luo-guest {command}` has printed unexpected output"))
}

/// The unmodified kselftests of the base, and its init for those with a kexec.
pub struct BaseTests {
    dir: PathBuf,
}

impl BaseTests {
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Compiles them from the unchanged tree, like the base's own `vmtest.sh`.
    pub fn build(ctx: &Ctx) -> Result<Self> {
        let base = source::base(ctx, Series::V7_3)?;
        let headers = build::headers(ctx, &base)?;
        let tests = base.pristine().join("tools/testing/selftests/liveupdate");
        let nolibc = base.pristine().join("tools/include/nolibc");
        let dir = ctx.build.join("base-selftests");
        fs::create_dir_all(&dir)?;
        let mut step = Step::start(ctx, "build the base's kselftests");
        let log = ctx.log("base-selftests");

        for name in BASE_KEXEC_TESTS.into_iter().chain(["init"]) {
            let mut gcc = compiler(ctx);
            gcc.args([
                "-static",
                "-O2",
                "-nostdinc",
                "-nostdlib",
                "-fno-stack-protector",
                // Clang replaces calls by calls of functions that nolibc does not have.
                "-fno-builtin",
            ]);
            gcc.arg("-I").arg(&headers).arg("-I").arg(&nolibc);
            gcc.arg("-I").arg(tests.join("lib/include"));
            gcc.arg("-o")
                .arg(dir.join(name))
                .arg(tests.join(format!("{name}.c")));
            if name != "init" {
                gcc.arg(tests.join("lib/lu_utils.c"));
            }
            step.run(&mut gcc, &log)?;
        }
        let mut gcc = compiler(ctx);
        gcc.args(["-static", "-O2", "-Wall", "-D_GNU_SOURCE=", "-I"])
            .arg(&headers);
        gcc.arg("-I").arg(tests.join("lib/include"));
        gcc.arg("-o")
            .arg(dir.join(BASE_TEST))
            .arg(tests.join("liveupdate.c"));
        gcc.arg(tests.join("lib/lu_utils.c"));
        step.run(&mut gcc, &log)?;
        step.done("");
        Ok(Self { dir })
    }
}
