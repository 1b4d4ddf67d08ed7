// SPDX-License-Identifier: GPL-2.0

//! The pristine base tree: found or fetched, checked, unpacked once.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};
use rustix::fs::{flock, FlockOperation};

use crate::ctx::Ctx;
use crate::files::{digest, files};
use crate::report::step::Step;

/// Names of output directories in a tree, which are not part of it.
pub const OUT_PREFIX: &str = "out-";

/// A kernel series that can be a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// The base of our kernel.
    V7_3,
    /// An older one, only to update from.
    V7_2,
}

impl Series {
    pub fn number(self) -> &'static str {
        match self {
            Series::V7_3 => "7.3",
            Series::V7_2 => "7.2",
        }
    }

    fn package(self) -> String {
        format!("linux-source-{}", self.number())
    }
}

/// A pristine tree in the cache.
#[derive(Debug, Clone)]
pub struct Base {
    pub version: String,
    /// The directory of this base, with `base` and derived trees.
    pub home: PathBuf,
}

impl Base {
    /// The unchanged tree, to which only output directories are added.
    pub fn pristine(&self) -> PathBuf {
        self.home.join("base")
    }

    /// Locks the trees of this base until the result is dropped.
    pub fn lock(&self) -> Result<File> {
        lock(&self.home.join("lock"))
    }
}

/// Takes the lock `path`, and holds it until the result is dropped.
pub fn lock(path: &Path) -> Result<File> {
    let file = File::create(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

enum Origin {
    Tarball(PathBuf),
    Deb(PathBuf),
    Git(PathBuf, String),
    Dir(PathBuf),
}

/// The pristine tree of `series`, from `KERNEL_SRC` or from the Debian package.
pub fn base(ctx: &Ctx, series: Series) -> Result<Base> {
    let linux = ctx.cache.join("linux");
    fs::create_dir_all(&linux)?;
    let _lock = lock(&linux.join(".lock"))?;

    let given = ctx
        .settings
        .kernel_src
        .as_ref()
        .filter(|_| series == Series::V7_3);
    let origin = match given {
        Some(path) => given_origin(path)?,
        None => packaged_origin(ctx, series)?,
    };
    let key = origin.key()?;
    let home = linux.join(format!("{}-{key}", series.number()));
    let version = if home.join("base").is_dir() {
        version(&home.join("base"))?
    } else {
        let tmp = linux.join(format!(".new-{key}"));
        let _ = fs::remove_dir_all(&tmp);
        fs::create_dir_all(tmp.join("base"))?;
        let mut step = Step::start(ctx, format!("unpack {}", origin.name()));
        origin.unpack(&mut step, &tmp.join("base"), &ctx.log("unpack"))?;
        let version = version(&tmp.join("base"))?;
        if !version.starts_with(&format!("{}.", series.number())) {
            let _ = fs::remove_dir_all(&tmp);
            bail!(
                "{} is Linux {version}; the base must be Linux {}.x.",
                origin.name(),
                series.number()
            );
        }
        fs::rename(&tmp, &home)?;
        step.done(&format!("Linux {version}"));
        version
    };
    Ok(Base { version, home })
}

/// The version that a kernel tree's Makefile names.
pub fn version(tree: &Path) -> Result<String> {
    let makefile = fs::read_to_string(tree.join("Makefile")).with_context(|| {
        format!(
            "{} is not a Linux tree: it has no Makefile.",
            tree.display()
        )
    })?;
    let field = |name: &str| {
        makefile.lines().take(20).find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    match (field("VERSION"), field("PATCHLEVEL"), field("SUBLEVEL")) {
        (Some(major), Some(minor), Some(sub)) => Ok(format!("{major}.{minor}.{sub}")),
        _ => bail!(
            "{} is not a Linux tree: its Makefile names no version.",
            tree.display()
        ),
    }
}

fn given_origin(path: &Path) -> Result<Origin> {
    let shown = std::env::var("LUO_HOST_KERNEL_SRC").unwrap_or(path.display().to_string());
    let meta = fs::metadata(path).with_context(|| format!("KERNEL_SRC={shown} does not exist."))?;
    if meta.is_file() {
        return Ok(Origin::Tarball(path.to_owned()));
    }
    if path.join(".git").exists() {
        let head = Command::new("git")
            .args(["-c", "safe.directory=*", "-C"])
            .arg(path)
            .args(["rev-parse", "HEAD"])
            .output()?;
        if head.status.success() {
            let head = String::from_utf8_lossy(&head.stdout).trim().to_owned();
            return Ok(Origin::Git(path.to_owned(), head));
        }
    }
    version(path)?;
    Ok(Origin::Dir(path.to_owned()))
}

fn packaged_origin(ctx: &Ctx, series: Series) -> Result<Origin> {
    let package = series.package();
    let installed = PathBuf::from(format!("/usr/src/{package}.tar.xz"));
    if installed.exists() {
        return Ok(Origin::Tarball(installed));
    }
    download(ctx, &package).map(Origin::Deb)
}

/// The file of a package of the Debian archive, from the cache if it is there.
pub fn download(ctx: &Ctx, package: &str) -> Result<PathBuf> {
    let sources = ctx.cache.join("sources");
    fs::create_dir_all(&sources)?;
    let cached = || -> Result<Option<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&sources)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("{package}_")) && name.ends_with(".deb") {
                found.push(sources.join(name));
            }
        }
        found.sort();
        Ok(found.pop())
    };
    if let Some(deb) = cached()? {
        return Ok(deb);
    }
    let mut step = Step::start(ctx, format!("fetch {package} from the Debian archive"));
    let state = sources.join("apt");
    fs::create_dir_all(state.join("lists/partial"))?;
    fs::create_dir_all(state.join("archives/partial"))?;
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        for (option, value) in [
            (
                "Dir::State::lists",
                state.join("lists").display().to_string(),
            ),
            ("Dir::Cache", state.display().to_string()),
            ("Acquire::Check-Valid-Until", "false".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command.args(args).current_dir(&sources);
        command
    };
    step.run(
        &mut apt(&["update", "--error-on=any"]),
        &ctx.log("apt-update"),
    )
    .context(
        "No network: the package lists of the Debian archive cannot be fetched \
         (KERNEL_SRC=path takes a Linux 7.3 tree of your own).",
    )?;
    step.run(&mut apt(&["download", package]), &ctx.log("apt-download"))
        .with_context(|| {
            format!(
                "The archive no longer has the package {package} \
             (KERNEL_SRC=path takes a Linux 7.3 tree of your own)."
            )
        })?;
    let deb = cached()?.with_context(|| format!("apt-get left no {package} behind."))?;
    step.done(
        &deb.file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default(),
    );
    Ok(deb)
}

impl Origin {
    fn path(&self) -> &Path {
        let (Origin::Tarball(path) | Origin::Deb(path) | Origin::Git(path, _) | Origin::Dir(path)) =
            self;
        path
    }

    fn name(&self) -> String {
        self.path()
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// A value that changes if the content may have changed.
    fn key(&self) -> Result<String> {
        let text = match self {
            Origin::Git(_, head) => head.clone(),
            Origin::Tarball(path) | Origin::Deb(path) => {
                let meta = fs::metadata(path)?;
                format!("{} {} {}", self.name(), meta.len(), meta.mtime())
            }
            Origin::Dir(path) => {
                let mut text = String::new();
                for file in files(path, &|dir| !is_output(dir))? {
                    let meta = fs::symlink_metadata(path.join(&file))?;
                    text += &format!("{} {} {}\n", file.display(), meta.len(), meta.mtime());
                }
                text
            }
        };
        Ok(digest([text.as_bytes()]))
    }

    fn unpack(&self, step: &mut Step, to: &Path, log: &Path) -> Result<()> {
        match self {
            Origin::Tarball(path) => untar(step, path, to, log),
            Origin::Deb(path) => {
                let tmp = to.with_extension("deb");
                step.run(Command::new("dpkg-deb").arg("-x").arg(path).arg(&tmp), log)?;
                let src = tmp.join("usr/src");
                let tarball = fs::read_dir(&src)?
                    .filter_map(|e| Some(e.ok()?.path()))
                    .find(|p| p.to_string_lossy().contains(".tar."))
                    .with_context(|| format!("{} holds no tarball.", self.name()))?;
                untar(step, &tarball, to, log)?;
                Ok(fs::remove_dir_all(&tmp)?)
            }
            Origin::Git(path, head) => {
                let tar = to.with_extension("tar");
                let mut git = Command::new("git");
                git.args(["-c", "safe.directory=*", "-C"]).arg(path);
                git.args(["archive", "--format=tar", "--prefix=linux/", "-o"])
                    .arg(&tar)
                    .arg(head);
                step.run(&mut git, log)?;
                untar(step, &tar, to, log)?;
                Ok(fs::remove_file(&tar)?)
            }
            Origin::Dir(path) => {
                let mut rsync = Command::new("rsync");
                rsync.args(["-a", "--exclude=/out-*", "--exclude=/.git"]);
                step.run(rsync.arg(format!("{}/", path.display())).arg(to), log)
            }
        }
    }
}

fn untar(step: &mut Step, tarball: &Path, to: &Path, log: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("-xf")
        .arg(tarball)
        .args(["--no-same-owner", "--strip-components=1", "-C"])
        .arg(to);
    step.run(&mut tar, log)
}

fn is_output(dir: &Path) -> bool {
    dir.to_string_lossy().starts_with(OUT_PREFIX) || dir == Path::new(".git")
}
