// SPDX-License-Identifier: GPL-2.0

//! Debian packages of a kernel, like Debian's `linux-image-*`: the image, the modules, and scripts
//! that call the programs in `/etc/kernel` and `/usr/share/kernel`, which make the initrd and the
//! boot entry. `linux-headers-*` has the files that are needed to build modules in C.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::ctx::Ctx;
use crate::files::hex;
use crate::kernel::build::{self, make, Kernel};
use crate::kernel::flavour::Flavour;
use crate::kernel::source::{self, OUT_PREFIX};
use crate::kernel::tree;
use crate::report::step::Step;

/// A package of a kernel.
#[derive(Debug, Clone)]
pub struct Package {
    /// The release of the kernel, which is its name in `/boot` and `/lib/modules`.
    pub release: String,
    /// The file.
    pub file: PathBuf,
    /// The file of the package with the headers.
    pub headers: PathBuf,
}

/// The version of the packages.
const VERSION: &str = "1";

/// The maintainer scripts.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// What the descriptions of the packages say about the configuration.
fn about(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Cloud => {
            "Its configuration is that of Debian's linux-image-cloud-amd64, with few modules."
        }
        Flavour::CloudFull => "Its configuration is that of Debian's linux-image-cloud-amd64.",
        _ => "This kernel has the small configuration of tests in virtual machines.",
    }
}

/// Builds the packages of the kernel `flavour` with two releases, of which either can be updated to
/// the other one.
pub fn both(ctx: &Ctx, flavour: Flavour) -> Result<[Package; 2]> {
    let kernel = build::kernel(ctx, flavour)?;
    Ok([build(ctx, &kernel, 1)?, build(ctx, &kernel, 2)?])
}

/// Builds a package of `kernel`, whose release contains `-NUMBER-luo`. Packages with different
/// numbers can be installed side by side.
///
/// The image and the modules contain the release. They are therefore linked once more, in a copy of
/// the output directory.
pub fn build(ctx: &Ctx, kernel: &Kernel, number: u32) -> Result<Package> {
    let suffix = match kernel.flavour.debian() {
        None => format!("-{number}-luo"),
        Some(_) => format!("-{number}-luo-{}", kernel.flavour.name()),
    };
    let release = format!("{}{suffix}", kernel.version);
    let dir = ctx.build.join("kernel-packages");
    fs::create_dir_all(&dir)?;
    let [file, headers] = ["image", "headers"]
        .map(|name| dir.join(format!("linux-{name}-{release}_{VERSION}_amd64.deb")));
    // The inputs of the package: the kernel, and this file.
    let inputs = format!(
        "{} {}",
        hex(&fs::read(&kernel.image)?),
        hex(include_bytes!("package.rs"))
    );
    let stamp = file.with_extension("inputs");
    let title = format!("package linux-image-{release}");
    let package = Package {
        release,
        file,
        headers,
    };
    if package.file.exists()
        && package.headers.exists()
        && fs::read_to_string(&stamp).is_ok_and(|old| old == inputs)
    {
        Step::start(ctx, title).done("up to date");
        return Ok(package);
    }
    let _ = fs::remove_file(&stamp);

    let base = source::base(ctx, kernel.flavour.series())?;
    let _lock = base.lock()?;
    let tree = tree::prepare(ctx, &base)?.dir;
    let mut step = Step::start(ctx, title);
    let out = tree.join(format!("{OUT_PREFIX}package-{}", kernel.flavour.name()));
    let log = ctx.log("kernel-package");
    let mut copy = Command::new("rsync");
    copy.args(["-a", "--delete", "--exclude=/luo-stamp.json"])
        .arg(format!("{}/", kernel.out.display()))
        .arg(format!("{}/", out.display()));
    step.run(&mut copy, &log)?;
    // Otherwise, make would run all commands that contain the path of the directory again, and then
    // nearly all others.
    let script = format!("s,{},{},g", kernel.out.display(), out.display());
    let mut rename = Command::new("find");
    rename
        .arg(&out)
        .args(["-name", ".*.cmd", "-exec", "sed", "-i"]);
    rename.args([&script, "{}", "+"]);
    step.run(&mut rename, &log)?;
    let mut objects = 0;
    let mut command = make(ctx, &out);
    command.arg(format!("LOCALVERSION={suffix}"));
    command.args([ctx.arch().image, "modules"]);
    step.run_with(&mut command, &log, |step, line| {
        if line.starts_with("  ") {
            objects += 1;
            step.progress(&format!("{objects} steps"));
        }
    })?;
    let stage = dir.join("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    fs::create_dir_all(stage.join("DEBIAN"))?;
    let mut install = make(ctx, &out);
    install
        .arg(format!("LOCALVERSION={suffix}"))
        .arg(format!("INSTALL_MOD_PATH={}", stage.display()))
        .args(["INSTALL_MOD_STRIP=1", "modules_install"]);
    step.run(&mut install, &log)?;
    files(ctx, &package.release, about(kernel.flavour), &out, &stage)?;
    pack(&mut step, &stage, &package.file, &log)?;
    stage_headers(ctx, &mut step, &package.release, &suffix, &out, &stage)?;
    pack(&mut step, &stage, &package.headers, &log)?;
    fs::write(stamp, inputs)?;
    step.done("");
    Ok(package)
}

/// Makes a package of `stage`, which is removed.
fn pack(step: &mut Step, stage: &Path, file: &Path, log: &Path) -> Result<()> {
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "-Zzstd", "-z1", "-b"])
        .arg(stage)
        .arg(file);
    step.run(&mut pack, log)?;
    fs::remove_dir_all(stage)?;
    Ok(())
}

/// Makes the package with the headers in `stage`, by the script of the kernel that selects them.
fn stage_headers(
    ctx: &Ctx,
    step: &mut Step,
    release: &str,
    suffix: &str,
    out: &Path,
    stage: &Path,
) -> Result<()> {
    let to = stage
        .join("usr/src")
        .join(format!("linux-headers-{release}"));
    // If CC is not the compiler of the host programs, the script builds these once more.
    let script = format!(
        "CC=clang HOSTCC=clang $(srctree)/scripts/package/install-extmod-build {}",
        to.display()
    );
    let mut install = make(ctx, out);
    install
        .arg(format!("LOCALVERSION={suffix}"))
        .arg(format!("KBUILD_RUN_COMMAND={script}"))
        .arg("run-command");
    step.run(&mut install, &ctx.log("kernel-headers"))?;
    let modules = stage.join("lib/modules").join(release);
    fs::create_dir_all(&modules)?;
    symlink(
        format!("/usr/src/linux-headers-{release}"),
        modules.join("build"),
    )?;
    fs::create_dir_all(stage.join("DEBIAN"))?;
    fs::write(
        stage.join("DEBIAN/control"),
        format!(
            "Package: linux-headers-{release}\nVersion: {VERSION}\nArchitecture: amd64\n\
             Maintainer: luo-vm <luo@localhost>\nSection: kernel\nPriority: optional\n\
             Recommends: clang, lld, make\n\
             Description: headers for modules of Linux {release}\n \
             Modules in C can be built with: make -C /lib/modules/{release}/build LLVM=1 M=DIR\n"
        ),
    )?;
    Ok(())
}

/// Builds the module in the directory `source`, in the directory `dir`, with no other files of the
/// kernel than the package of the headers.
pub fn module(ctx: &Ctx, package: &Package, source: &Path, dir: &Path) -> Result<()> {
    let mut step = Step::start(
        ctx,
        format!("build a module with linux-headers-{}", package.release),
    );
    let log = ctx.log("kernel-module");
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&package.headers).arg(dir);
    step.run(&mut unpack, &log)?;
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(source).arg(dir.join("module"));
    step.run(&mut copy, &log)?;
    let tree = dir
        .join("usr/src")
        .join(format!("linux-headers-{}", package.release));
    let mut build = Command::new("make");
    build.arg("-C").arg(tree).arg("LLVM=1");
    build.arg(format!("M={}", dir.join("module").display()));
    step.run(&mut build, &log)?;
    step.done("");
    Ok(())
}

/// Adds the files of a package, except modules, to `stage`.
fn files(ctx: &Ctx, release: &str, about: &str, out: &Path, stage: &Path) -> Result<()> {
    let boot = stage.join("boot");
    fs::create_dir_all(&boot)?;
    let _ = fs::remove_file(stage.join("lib/modules").join(release).join("build"));
    let arch = ctx.arch();
    let image = out
        .join("arch")
        .join(arch.name)
        .join("boot")
        .join(arch.image);
    for (from, name) in [
        (image, "vmlinuz"),
        (out.join("System.map"), "System.map"),
        (out.join(".config"), "config"),
    ] {
        let to = boot.join(format!("{name}-{release}"));
        fs::copy(&from, to).with_context(|| from.display().to_string())?;
    }
    let control = format!(
        "Package: linux-image-{release}\nVersion: {VERSION}\nArchitecture: amd64\n\
         Maintainer: luo-vm <luo@localhost>\nSection: kernel\nPriority: optional\n\
         Depends: kmod\nRecommends: initramfs-tools | linux-initramfs-tool\n\
         Description: Linux kernel with the Live Update Orchestrator\n {about}\n"
    );
    let debian = stage.join("DEBIAN");
    fs::write(debian.join("control"), control)?;
    for script in SCRIPTS {
        let path = debian.join(script);
        fs::write(&path, maintainer_script(script, release))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// A maintainer script, which runs the programs of other packages that are interested in kernels.
fn maintainer_script(script: &str, release: &str) -> String {
    format!(
        r#"#!/bin/sh
set -e
export DEB_MAINT_PARAMS="$*" INITRD=Yes
set --
for dir in /etc/kernel/{script}.d /usr/share/kernel/{script}.d; do
	[ ! -d "$dir" ] || set -- "$@" "$dir"
done
[ $# = 0 ] || run-parts --arg="{release}" --arg="/boot/vmlinuz-{release}" "$@"
"#
    )
}
