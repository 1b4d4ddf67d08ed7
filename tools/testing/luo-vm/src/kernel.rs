// SPDX-License-Identifier: GPL-2.0

//! Kernels: which ones there are, how they are configured, and building them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::ctx::Ctx;
use crate::digest;
use crate::source::{self, Base, Series, OUT_PREFIX};
use crate::step::Step;
use crate::tree;

/// A kernel that can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Flavour {
    /// The Rust LUO.
    Ours,
    /// The Rust LUO, with nothing that the unchanged base does not have.
    Bench,
    /// The Rust LUO with everything that checks.
    Debug,
    /// The same with KASAN and kmemleak.
    Kasan,
    /// The Rust LUO with what Debian and systemd need.
    Debian,
    /// The unchanged base, with the LUO in C.
    Peer,
    /// An older kernel, with the LUO in C.
    Peer72,
}

/// A kernel that has been built.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub flavour: Flavour,
    pub version: String,
    /// The bzImage; a copy that other runs do not replace.
    pub image: PathBuf,
    /// Where it was built.
    pub out: PathBuf,
    /// What it was built from.
    pub tree: PathBuf,
    /// What the compilers said against files of ours.
    pub findings: Vec<String>,
}

impl Kernel {
    /// What it is called in results.
    pub fn label(&self) -> String {
        let who = if self.flavour.is_ours() { "ours" } else { "C" };
        format!("{who} {}", self.version)
    }

    /// A kernel that somebody else has built.
    pub fn prebuilt(flavour: Flavour, image: PathBuf) -> Self {
        Self {
            flavour,
            version: "of unknown version".to_owned(),
            out: PathBuf::new(),
            tree: PathBuf::new(),
            findings: Vec::new(),
            image,
        }
    }
}

/// What the output directory was built from.
#[derive(Serialize, Deserialize, Default)]
struct Stamp {
    digest: String,
    /// What it was configured from.
    #[serde(default)]
    config: String,
    objects: usize,
    #[serde(default)]
    findings: Vec<String>,
}

/// Objects of ours, and the crate that ours is part of. They are compiled once more after a build
/// with findings, since a compiler says them only when it compiles.
const OBJECTS: [&str; 5] = [
    "rust/kernel.o",
    "rust/helpers/helpers.o",
    "kernel/liveupdate/luo.o",
    "mm/memfd_luo.o",
    "samples/rust/rust_liveupdate.o",
];

impl Flavour {
    pub fn name(self) -> &'static str {
        match self {
            Flavour::Ours => "ours",
            Flavour::Bench => "bench",
            Flavour::Debug => "debug",
            Flavour::Kasan => "kasan",
            Flavour::Debian => "debian",
            Flavour::Peer => "peer",
            Flavour::Peer72 => "peer72",
        }
    }

    pub fn series(self) -> Series {
        match self {
            Flavour::Peer72 => Series::V7_2,
            _ => Series::V7_3,
        }
    }

    /// Whether its LUO is the one in Rust.
    pub fn is_ours(self) -> bool {
        !matches!(self, Flavour::Peer | Flavour::Peer72)
    }

    /// Configuration fragments, later ones win.
    fn fragments(self) -> &'static [&'static str] {
        match self {
            Flavour::Ours => &["base.config", "rust.config"],
            Flavour::Bench => &["base.config", "bench.config"],
            Flavour::Debug => &["base.config", "rust.config", "debug.config"],
            Flavour::Kasan => &["base.config", "rust.config", "debug.config", "kasan.config"],
            Flavour::Debian => &["base.config", "rust.config", "debian.config"],
            Flavour::Peer | Flavour::Peer72 => &["base.config"],
        }
    }

    /// Objects of a build from nothing, roughly; for the progress line.
    fn usual_objects(self) -> usize {
        if self.is_ours() {
            1500
        } else {
            1400
        }
    }
}

/// Runs `make` on the output directory `out`, which stands in the kernel tree that it is for:
/// then Kbuild calls the source `..`, and compiler caches hit whatever the tree is called.
pub fn make(ctx: &Ctx, out: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("-C")
        .arg(out.parent().unwrap_or(out))
        .arg(format!("O={}", out.display()));
    make.args(["LLVM=1", "CC=ccache clang"])
        .arg(format!("-j{}", ctx.jobs));
    make.env("KBUILD_BUILD_USER", "luo")
        .env("KBUILD_BUILD_HOST", "sandbox");
    make
}

/// Builds the kernel `flavour`, or finds it built.
pub fn build(ctx: &Ctx, flavour: Flavour) -> Result<Kernel> {
    let base = source::base(ctx, flavour.series())?;
    let _lock = base.lock()?;
    let (tree, content, kconfig) = if flavour.is_ours() {
        let prepared = tree::prepare(ctx, &base)?;
        (prepared.dir, prepared.digest, prepared.kconfig)
    } else {
        (base.pristine(), base.version.clone(), String::new())
    };
    let tools = toolchain()?;
    let name = flavour.name();
    let out = tree.join(format!(
        "{OUT_PREFIX}{name}-{}",
        &digest([tools.as_bytes()])[..6]
    ));
    fs::create_dir_all(&out)?;
    let fragments = fragments(ctx, flavour)?;
    let config = digest([kconfig.as_bytes(), fragments.as_bytes(), tools.as_bytes()]);
    let want = digest([content.as_bytes(), fragments.as_bytes(), tools.as_bytes()]);
    let stamp_file = out.join("luo-stamp.json");
    let mut stamp: Stamp = fs::read(&stamp_file)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let image = out.join("arch/x86/boot/bzImage");
    let title = format!("kernel {name} (Linux {})", base.version);

    if stamp.digest == want && image.exists() {
        Step::start(ctx, title).done("up to date");
    } else {
        // A build that does not come to its end leaves no stamp that says otherwise.
        stamp.digest.clear();
        if stamp.config != config || !out.join(".config").exists() {
            stamp.config.clear();
            write_stamp(&stamp_file, &stamp)?;
            configure(ctx, flavour, &out, &fragments)?;
            stamp.config.clone_from(&config);
        }
        if !stamp.findings.is_empty() {
            for object in OBJECTS {
                let _ = fs::remove_file(out.join(object));
            }
        }
        stamp.findings = vec!["the last build was interrupted".to_owned()];
        write_stamp(&stamp_file, &stamp)?;
        let mut step = Step::start(ctx, title);
        let mut objects = 0;
        let mut command = make(ctx, &out);
        if flavour == Flavour::Debug {
            // The same code; Clippy speaks up while it is compiled.
            command.arg("CLIPPY=1");
        }
        let usual = stamp.objects.max(flavour.usual_objects());
        let log = ctx.log(&format!("kernel-{name}"));
        let outcome = step.run_with(command.arg("bzImage"), &log, |step, line| {
            if line.starts_with("  ") {
                objects += 1;
                step.progress(&format!("{objects} of about {usual} steps"));
            }
        });
        let ours = if flavour.is_ours() {
            tree::overlay(ctx)?
        } else {
            Vec::new()
        };
        stamp = Stamp {
            digest: want,
            config,
            objects: objects.max(stamp.objects),
            findings: findings(&fs::read_to_string(&log)?, &ours),
        };
        if outcome.is_err() {
            stamp.digest.clear();
        }
        write_stamp(&stamp_file, &stamp)?;
        outcome?;
        step.done(&format!("{objects} steps"));
    }
    let copy = ctx.build.join("kernels").join(format!("bzImage-{name}"));
    let content = fs::read(&image)?;
    tree::write_if_changed(&copy, &content)?;
    let findings = stamp.findings;
    Ok(Kernel {
        flavour,
        version: base.version.clone(),
        image: copy,
        out,
        tree,
        findings,
    })
}

fn write_stamp(file: &Path, stamp: &Stamp) -> Result<()> {
    Ok(fs::write(file, serde_json::to_vec(stamp)?)?)
}

/// The warnings in a build log that are about the files `ours`, or by objtool about our crates.
fn findings(log: &str, ours: &[PathBuf]) -> Vec<String> {
    const CRATES: [&str; 3] = ["luo", "memfd_luo", "rust_liveupdate"];
    let lines: Vec<&str> = log.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((_, what)) = line.split_once("warning: ") else {
            continue;
        };
        // rustc names the place in one of the next lines, clang in the same.
        let place = lines[at..].iter().take(4).find_map(|l| l.split_once("../"));
        let place = place.map_or("", |(_, place)| {
            place.split_whitespace().next().unwrap_or(place)
        });
        let file = Path::new(place.split(':').next().unwrap_or(place));
        if ours.iter().any(|path| path == file) {
            let place = place.trim_end_matches(':');
            found.push(format!("{place}: {what}"));
        } else if what.starts_with("objtool") && CRATES.iter().any(|name| what.contains(name)) {
            found.push(what.to_owned());
        }
    }
    found
}

/// The headers of the base's userspace API.
pub fn headers(ctx: &Ctx, base: &Base) -> Result<PathBuf> {
    let _lock = base.lock()?;
    let headers = base.home.join("headers");
    if !headers.is_dir() {
        let mut step = Step::start(ctx, "install the base's headers");
        let out = base.pristine().join(format!("{OUT_PREFIX}headers"));
        fs::create_dir_all(&out)?;
        let tmp = base.home.join(".headers");
        let mut command = make(ctx, &out);
        command
            .arg(format!("INSTALL_HDR_PATH={}", tmp.display()))
            .arg("headers_install");
        step.run(&mut command, &ctx.log("headers"))?;
        fs::rename(&tmp, &headers)?;
        step.done("");
    }
    Ok(headers.join("include"))
}

/// The versions of everything that compiles.
fn toolchain() -> Result<String> {
    let mut all = String::new();
    for tool in ["rustc", "bindgen", "clang", "ld.lld"] {
        let output = Command::new(tool)
            .arg("--version")
            .output()
            .with_context(|| format!("`{tool}` is missing: `make doctor` says how to get it."))?;
        all += &String::from_utf8_lossy(&output.stdout);
    }
    Ok(all)
}

fn fragments(ctx: &Ctx, flavour: Flavour) -> Result<String> {
    let dir = ctx.top.join("tools/testing/luo-vm/configs");
    let mut all = String::new();
    for name in flavour.fragments() {
        all += &fs::read_to_string(dir.join(name)).with_context(|| ctx.shown(&dir.join(name)))?;
    }
    Ok(all)
}

/// Configures `out`: tinyconfig and the fragments on top of it.
fn configure(ctx: &Ctx, flavour: Flavour, out: &Path, fragments: &str) -> Result<()> {
    let mut step = Step::start(ctx, format!("configure {}", flavour.name()));
    let config = out.join(".config");
    let before = fs::read(&config).ok();
    let log = ctx.log(&format!("configure-{}", flavour.name()));
    step.run(make(ctx, out).arg("tinyconfig"), &log)?;
    let mut text = fs::read_to_string(&config)?;
    text += fragments;
    fs::write(&config, text)?;
    step.run(make(ctx, out).arg("olddefconfig"), &log)?;

    let got = fs::read_to_string(&config)?;
    let missing = missing(fragments, &got);
    if !missing.is_empty() {
        bail!(
            "The kernel {} cannot be configured: Kconfig did not accept {}.",
            flavour.name(),
            missing.join(", ")
        );
    }
    if before.is_some_and(|before| before == got.as_bytes()) {
        step.done("unchanged");
    } else {
        step.done("");
    }
    Ok(())
}

/// The options of `fragments` that `config` does not have as requested; the last request counts.
fn missing<'a>(fragments: &'a str, config: &str) -> Vec<&'a str> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for line in fragments.lines() {
        if let Some((name, value)) = line
            .split_once('=')
            .filter(|(n, _)| n.starts_with("CONFIG_"))
        {
            wanted.retain(|(other, _)| *other != name);
            wanted.push((name, value));
        }
    }
    let has = |name: &str, value: &str| match value {
        "n" => !config
            .lines()
            .any(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with('='))),
        _ => config
            .lines()
            .any(|l| l.split_once('=') == Some((name, value))),
    };
    wanted
        .into_iter()
        .filter(|(name, value)| !has(name, value))
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_in_our_files_are_kept() {
        let log = "warning: unsafe block\n   --> ../mm/memfd_luo.rs:8:2\n    |\n\
                   warning: other\n   --> ../mm/other.rs:1:1\n\
                   ../lib/tests/x.c:3:1: warning: unused x\n\
                   vmlinux.o: warning: objtool: _RNvCs_3luo4init+0x1: bad\n\
                   vmlinux.o: warning: objtool: start_kernel+0x1: bad\n";
        let ours = ["mm/memfd_luo.rs", "lib/tests/x.c"].map(PathBuf::from);
        assert_eq!(
            findings(log, &ours),
            [
                "mm/memfd_luo.rs:8:2: unsafe block",
                "lib/tests/x.c:3:1: unused x",
                "objtool: _RNvCs_3luo4init+0x1: bad",
            ]
        );
    }

    #[test]
    fn missing_options_are_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=8\n";
        assert!(missing("CONFIG_A=y\nCONFIG_B=n\nCONFIG_N=8\n", config).is_empty());
        assert_eq!(
            missing("CONFIG_A=n\nCONFIG_B=y\n", config),
            ["CONFIG_A", "CONFIG_B"]
        );
        assert!(missing("CONFIG_B=y\nCONFIG_B=n\n", config).is_empty());
    }
}
