// SPDX-License-Identifier: GPL-2.0

//! A disk with Debian, systemd and the tested programs.
//!
//! `sandbox.sh` has created the userland, an archive of files. The tested programs are appended
//! to it, and the archive is converted to a disk. `tools/testing/selftests/liveupdate/debian`
//! contains the test driver.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, ensure, Context, Result};

use crate::ctx::Ctx;
use crate::image::programs;
use crate::kernel::build::Kernel;
use crate::kernel::source::lock;
use crate::report::step::Step;

/// The number of updates under systemd.
pub const UPDATES: u32 = 4;

/// The libraries of the userland, and their loader.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";

/// The suffix of the names of disks.
pub const DISK: &str = "ext4";

/// The size of the disk, which is a sparse file.
const DISK_SIZE: u64 = 2 << 30;

/// Directories of the checkout that are copied to the disk, and their destinations.
const TREES: [(&str, &str); 7] = [
    ("tools/testing/selftests/liveupdate/debian", ""),
    ("tools/liveupdate/luod/units", "usr/lib/systemd/system"),
    ("tools/liveupdate/luod/hooks", "usr/lib/luod/hooks"),
    ("tools/liveupdate/qemu/units", "usr/lib/systemd/system"),
    ("tools/liveupdate/qemu/tmpfiles.d", "usr/lib/tmpfiles.d"),
    (
        "tools/liveupdate/python/liveupdate",
        "usr/lib/python3/dist-packages/liveupdate",
    ),
    ("tools/liveupdate/python/examples", "usr/lib/luo-test"),
];

/// The directory of the modules of kernels.
pub const MODULES: &str = "usr/lib/modules";

/// The directories for the test programs, the hooks of luod, the configuration of luo-qemu, the
/// clients in Python, and modules.
const OURS: [&str; 6] = [
    "usr/lib/luo-test",
    "usr/lib/luod",
    "usr/lib/luod/hooks",
    "etc/luo-qemu",
    "usr/lib/python3/dist-packages/liveupdate",
    MODULES,
];

/// Copies the files below `from` to `to`.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let entries = fs::read_dir(from).with_context(|| from.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Adds the names of all files below `dir` to `all`, relative to `top`. Includes only directories
/// that the userland does not have.
fn names(top: &Path, dir: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_ours = OURS.iter().any(|ours| path.ends_with(ours))
            || path.starts_with(top.join(MODULES))
            || path.extension().is_some_and(|end| end == "d");
        if !path.is_dir() || is_ours {
            all.push(Path::new(".").join(path.strip_prefix(top)?));
        }
        if path.is_dir() {
            names(top, &path, all)?;
        }
    }
    Ok(())
}

/// Extracts mke2fs and programs for guests from the userland, since the sandbox does not have them.
fn tools(ctx: &Ctx, debian: &Path, archive: &Path) -> Result<PathBuf> {
    let tools = debian.join("tools");
    if !tools.is_dir() {
        let tmp = debian.join(".tools");
        fs::create_dir_all(&tmp)?;
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(archive).arg("-C").arg(&tmp);
        tar.args(["--no-same-owner", "--wildcards"]);
        tar.args([
            "./usr/sbin/mke2fs",
            "./usr/sbin/qemu-ga",
            "./usr/sbin/chronyd",
        ]);
        tar.arg(format!("./{LIBRARIES}/*.so*"));
        let mut step = Step::start(ctx, "unpack programs of Debian");
        step.run(&mut tar, &ctx.log("debian-tools"))?;
        fs::rename(&tmp, &tools)?;
        step.done("");
    }
    Ok(tools)
}

/// A command that starts the loader of the userland with its libraries.
fn run_with_loader(tools: &Path) -> Command {
    let libraries = tools.join(LIBRARIES);
    let mut loader = Command::new(libraries.join(LOADER));
    loader.arg("--library-path").arg(&libraries);
    loader
}

/// A program of `/usr/sbin` for the initramfs of a guest: it is started by its loader, with the libraries
/// in `/lib`. Returns the names in the image, and the files.
pub fn program(ctx: &Ctx, name: &str) -> Result<Vec<(String, PathBuf)>> {
    let tools = tools(ctx, &home()?, &archive(ctx)?)?;
    let program = tools.join("usr/sbin").join(name);
    let mut list = run_with_loader(&tools);
    let list = list.arg("--list").arg(&program).output()?;
    ensure!(
        list.status.success(),
        "the libraries of {name} are not known"
    );
    let library = |line: &str| {
        let path = line.split_once(" => ")?.1.split(' ').next()?;
        let path = Path::new(path);
        let name = path.file_name()?.to_str()?;
        Some((format!("/lib/{name}"), path.to_owned()))
    };
    let list = String::from_utf8(list.stdout)?;
    let mut files: Vec<_> = list.lines().filter_map(library).collect();
    files.retain(|(name, _)| !name.ends_with(LOADER));
    files.push((format!("/lib/{LOADER}"), tools.join(LIBRARIES).join(LOADER)));
    files.push((format!("/bin/{name}"), program));
    Ok(files)
}

/// The directory with the userland and its kernel, which `sandbox.sh` has created.
pub fn home() -> Result<PathBuf> {
    let debian = std::env::var_os("LUO_DEBIAN").map(PathBuf::from);
    debian.context("LUO_DEBIAN is not set: start luo-vm through `make`")
}

/// The userland, an archive of files.
pub fn archive(ctx: &Ctx) -> Result<PathBuf> {
    // `sandbox.sh` may still be creating it.
    drop(lock(&ctx.cache.join(".debian.lock"))?);
    let archive = home()?.join("root.tar");
    if !archive.exists() {
        bail!(
            "There is no userland for this test: {} could not be created.",
            ctx.shown(&archive)
        );
    }
    Ok(archive)
}

/// Creates the disk: the userland, the test files and programs, and the kernel that is started by
/// kexec.
pub fn disk(ctx: &Ctx, kernel: &Kernel) -> Result<PathBuf> {
    disk_with(ctx, "debian", kernel, &[])
}

/// Creates the disk `name` with further files: their names there, and their sources.
pub fn disk_with(
    ctx: &Ctx,
    name: &str,
    kernel: &Kernel,
    further: &[(&str, &Path)],
) -> Result<PathBuf> {
    let archive = archive(ctx)?;
    let programs = programs::debian(ctx)?;
    let tools = tools(ctx, &home()?, &archive)?;

    let mut step = Step::start(ctx, "make the disk");
    let work = ctx.build.join(name);
    let stage = work.join("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    for (from, to) in TREES {
        copy(&ctx.top.join(from), &stage.join(to))?;
    }
    let programs = programs
        .iter()
        .map(|(name, path)| (*name, path.as_path()))
        .chain([("boot/next", kernel.image.as_path())])
        .chain(further.iter().copied());
    for (name, path) in programs {
        let target = stage.join(name);
        fs::create_dir_all(target.parent().context("a path with no parent")?)?;
        fs::copy(path, target).with_context(|| path.display().to_string())?;
    }
    let mut list = Vec::new();
    names(&stage, &stage, &mut list)?;
    list.sort();
    let mut file = File::create(work.join("list"))?;
    for name in &list {
        writeln!(file, "{}", name.display())?;
    }

    let all = work.join("all.tar");
    fs::copy(&archive, &all)?;
    let mut tar = Command::new("tar");
    tar.args(["--append", "--no-recursion", "--format=posix"]);
    tar.args(["--owner=0", "--group=0", "--numeric-owner", "-f"]);
    tar.arg(&all)
        .arg("-C")
        .arg(&stage)
        .arg("-T")
        .arg(work.join("list"));
    step.run(&mut tar, &ctx.log(&format!("{name}-tar")))?;

    let disk = work.join(format!("disk.{DISK}"));
    let _ = fs::remove_file(&disk);
    File::create(&disk)?.set_len(DISK_SIZE)?;
    let mut mke2fs = run_with_loader(&tools);
    mke2fs.arg(tools.join("usr/sbin/mke2fs"));
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"]);
    mke2fs.arg(&all).arg(&disk);
    step.run(&mut mke2fs, &ctx.log(&format!("{name}-disk")))?;
    fs::remove_file(&all)?;
    step.done("");
    Ok(disk)
}

/// The kernel parameters with which systemd starts `target`.
pub fn params(target: &str) -> String {
    format!(
        "root=/dev/vda rw systemd.unit={target} systemd.show_status=no \
         systemd.log_target=kmsg systemd.minimum_uptime_sec=0 systemd.mask=memcached.service \
         systemd.mask=chrony.service \
         systemd.mask=getty.target systemd.mask=e2scrub_reap.service"
    )
}
