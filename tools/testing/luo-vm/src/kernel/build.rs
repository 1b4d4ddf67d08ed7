// SPDX-License-Identifier: GPL-2.0

//! Building kernels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::ctx::Ctx;
use crate::files::{digest, write_if_changed};
use crate::kernel::config;
use crate::kernel::findings::findings;
use crate::kernel::flavour::{Flavour, FLAVOURS};
use crate::kernel::source::{self, lock, Base, OUT_PREFIX};
use crate::kernel::tree;
use crate::once::Once;
use crate::report::step::Step;

/// A kernel that has been built.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub flavour: Flavour,
    pub version: String,
    /// The bzImage or Image; a copy that other runs do not replace.
    pub image: PathBuf,
    /// The output directory.
    pub out: PathBuf,
    /// Warnings of the compilers about files of the overlay.
    pub findings: Vec<String>,
}

impl Kernel {
    /// Its name in results.
    pub fn label(&self) -> String {
        let who = if self.flavour.is_ours() { "ours" } else { "C" };
        format!("{who} {}", self.version)
    }

    /// An existing kernel image.
    pub fn prebuilt(flavour: Flavour, image: PathBuf) -> Self {
        Self {
            flavour,
            version: "of unknown version".to_owned(),
            out: PathBuf::new(),
            findings: Vec::new(),
            image,
        }
    }
}

/// The hash of the source of the output directory.
#[derive(Serialize, Deserialize, Default)]
struct Stamp {
    digest: String,
    /// The hash of the configuration fragments.
    #[serde(default)]
    config: String,
    objects: usize,
    #[serde(default)]
    findings: Vec<String>,
}

/// Objects of the overlay, and the crate that includes overlay files. They are compiled again
/// after a build with warnings, since a compiler prints them only when it compiles.
const OBJECTS: [&str; 16] = [
    "rust/kernel.o",
    "rust/helpers/helpers.o",
    "kernel/liveupdate/luo.o",
    "kernel/liveupdate/luo_exports.o",
    "mm/luo_guest_memfd.o",
    "mm/luo_hugetlb.o",
    "mm/luo_shmem.o",
    "mm/memfd_luo.o",
    "drivers/pci/liveupdate/core.o",
    "drivers/pci/liveupdate/pci_liveupdate.o",
    "drivers/vfio/pci/liveupdate/core.o",
    "drivers/vfio/pci/liveupdate/vfio_pci_liveupdate.o",
    "virt/kvm/liveupdate/core.o",
    "virt/kvm/liveupdate/kvm_liveupdate.o",
    "samples/rust/rust_liveupdate.o",
    "samples/rust/rust_driver_edu/rust_driver_edu.o",
];

/// Runs `make` on the output directory `out`, which is inside its kernel tree: Kbuild then
/// refers to the source as `..`, and compiler caches do not depend on the path of the tree.
pub fn make(ctx: &Ctx, out: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("-C")
        .arg(out.parent().unwrap_or(out))
        .arg(format!("O={}", out.display()));
    make.args(["LLVM=1", "CC=ccache clang"])
        .args(ctx.arch().kbuild)
        .arg(format!("-j{}", ctx.jobs));
    make.env("KBUILD_BUILD_USER", "luo")
        .env("KBUILD_BUILD_HOST", "sandbox");
    make
}

/// Builds the kernel `flavour`, if it is not up to date.
pub fn kernel(ctx: &Ctx, flavour: Flavour) -> Result<Kernel> {
    static BUILT: [Once<Kernel>; FLAVOURS] = [const { Once::new() }; FLAVOURS];
    BUILT[flavour as usize].get(|| build(ctx, flavour))
}

fn build(ctx: &Ctx, flavour: Flavour) -> Result<Kernel> {
    let base = source::base(ctx, flavour.series())?;
    let _lock = base.lock()?;
    let (tree, content, kconfig) = if flavour.is_ours() {
        let prepared = tree::prepare(ctx, &base)?;
        (prepared.dir, prepared.digest, prepared.kconfig)
    } else {
        (base.pristine(), base.version.clone(), String::new())
    };
    let tools = toolchain()?;
    let arch = ctx.arch();
    let name = &arch.suffixed(flavour.name());
    let out = tree.join(format!(
        "{OUT_PREFIX}{name}-{}",
        &digest([tools.as_bytes()])[..6]
    ));
    fs::create_dir_all(&out)?;
    let start = config::Start::of(ctx, flavour)?;
    let fragments = config::fragments(ctx, flavour)?;
    let options = [start.text(), &fragments].concat();
    let config = digest([kconfig.as_bytes(), options.as_bytes(), tools.as_bytes()]);
    let want = digest([content.as_bytes(), options.as_bytes(), tools.as_bytes()]);
    let stamp_file = out.join("luo-stamp.json");
    let mut stamp: Stamp = fs::read(&stamp_file)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let image = out
        .join("arch")
        .join(arch.name)
        .join("boot")
        .join(arch.image);
    let local = flavour.is_ours() && ctx.top.join(config::LOCAL).exists();
    let with = if local { " with local.config" } else { "" };
    let title = format!("kernel {name} (Linux {}){with}", base.version);

    if stamp.digest == want && image.exists() {
        Step::start(ctx, title).done("up to date");
    } else {
        // An interrupted build must not leave a valid stamp.
        stamp.digest.clear();
        if stamp.config != config || !out.join(".config").exists() {
            stamp.config.clear();
            write_stamp(&stamp_file, &stamp)?;
            let make = || make(ctx, &out);
            config::configure(ctx, flavour, make, &out, &start, &fragments)?;
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
            // The same code; Clippy prints its warnings during the compilation.
            command.arg("CLIPPY=1");
        }
        let usual = flavour.usual_steps() - arch.fewer_steps;
        // An incremental build has fewer steps; their number is not known.
        let whole = match stamp.objects {
            0 => format!("of about {usual}"),
            steps => format!("steps; a full build has {steps}"),
        };
        let log = ctx.log(&format!("kernel-{name}"));
        let outcome = step.run_with(command.args([arch.image, "modules"]), &log, |step, line| {
            if line.starts_with("  ") {
                objects += 1;
                step.progress(&format!("{objects} {whole}"));
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
            objects: if outcome.is_ok() && is_whole(objects, usual) {
                objects
            } else {
                stamp.objects
            },
            findings: findings(&fs::read_to_string(&log)?, &ours),
        };
        if outcome.is_err() {
            stamp.digest.clear();
        }
        write_stamp(&stamp_file, &stamp)?;
        outcome?;
        step.done(&format!("{objects} steps"));
    }
    let copy = ctx
        .build
        .join("kernels")
        .join(format!("{}-{name}", arch.image));
    let content = fs::read(&image)?;
    write_if_changed(&copy, &content)?;
    let findings = stamp.findings;
    Ok(Kernel {
        flavour,
        version: base.version.clone(),
        image: copy,
        out,
        findings,
    })
}

/// Returns whether a build of `steps` steps was a full one, which has about `usual` steps. An
/// incremental build has fewer.
fn is_whole(steps: usize, usual: usize) -> bool {
    10 * steps > 9 * usual
}

fn write_stamp(file: &Path, stamp: &Stamp) -> Result<()> {
    Ok(fs::write(file, serde_json::to_vec(stamp)?)?)
}

/// The headers of the base's userspace API.
pub fn headers(ctx: &Ctx, base: &Base) -> Result<PathBuf> {
    // The lock of the trees is held during kernel builds, so that another lock is used here.
    let _lock = lock(&base.home.join("headers.lock"))?;
    let name = ctx.arch().suffixed("headers");
    let headers = base.home.join(&name);
    if !headers.is_dir() {
        let mut step = Step::start(ctx, "install the base's headers");
        let out = base.pristine().join(format!("{OUT_PREFIX}{name}"));
        fs::create_dir_all(&out)?;
        let tmp = base.home.join(format!(".{name}"));
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

/// The versions of all compilers.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_continues_does_not_count() {
        assert!(is_whole(2042, 2042));
        assert!(is_whole(1990, 2042));
        assert!(!is_whole(1200, 2042));
        assert!(!is_whole(43, 2042));
    }
}
