// SPDX-License-Identifier: GPL-2.0

//! Paths and settings.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use clap::Args;

use crate::arch::{Arch, Description};

/// Settings; each can be a variable on `make`'s command line.
#[derive(Args, Debug, Clone)]
pub struct Settings {
    /// Processors of the virtual machine
    #[arg(long, env = "SMP", default_value_t = 2, global = true)]
    pub smp: u32,
    /// Memory of the virtual machine, as QEMU writes it
    #[arg(long, env = "MEM", default_value = "2G", global = true)]
    pub mem: String,
    /// Size of the memfd of `run`, in MiB
    #[arg(long, env = "MEMFD_MB", default_value_t = 64, global = true)]
    pub memfd_mb: u64,
    /// A Linux 7.3 tree to build on: a directory, a git repository or a tarball
    #[arg(long, env = "KERNEL_SRC", global = true)]
    pub kernel_src: Option<PathBuf>,
    /// Only these suites of the kselftests of the overlay, separated by commas
    #[arg(long, env = "SUITES", value_delimiter = ',', global = true)]
    pub suites: Vec<String>,
    /// The architecture of kernels and machines
    #[arg(long, env = "LUO_ARCH", default_value = "x86", global = true)]
    pub arch: Arch,
    /// Show all output (1) instead of one line per step
    #[arg(long = "verbose", env = "V", default_value = "0", global = true)]
    pub v: String,
}

impl Settings {
    /// Returns whether a suite is to be run, because it is named or because no suite is named.
    pub fn wants(&self, suite: &str) -> bool {
        self.suites.is_empty() || self.suites.iter().any(|wanted| wanted == suite)
    }

    /// Fails if a suite is named that is not one of `known`, which are the suites of `group`.
    pub fn check_suites<'a>(
        &self,
        group: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let known: Vec<&str> = known.into_iter().collect();
        let is_unknown = |wanted: &&String| !known.contains(&wanted.as_str());
        if let Some(unknown) = self.suites.iter().find(is_unknown) {
            bail!(
                "There is no suite {unknown} in the group {group}. There are: {}",
                known.join(", ")
            );
        }
        Ok(())
    }
}

/// The context of all parts of the program.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// The checkout.
    pub top: PathBuf,
    /// Kernel trees and other files that several checkouts share.
    pub cache: PathBuf,
    /// Outputs of this checkout.
    pub build: PathBuf,
    pub settings: Settings,
    /// Whether the memory of a virtual machine is allocated before it starts.
    pub prefault: bool,
    pub verbose: bool,
    pub jobs: usize,
    host_top: PathBuf,
    host_cache: PathBuf,
}

impl Ctx {
    pub fn new(mut settings: Settings) -> Result<Self> {
        let dir = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .with_context(|| format!("{name} is not set: start luo-vm through `make`"))
        };
        let top = dir("LUO_TOP")?;
        let build = top.join("build");
        fs::create_dir_all(build.join("logs"))?;
        // `make KERNEL_SRC=` means none.
        settings.kernel_src = settings.kernel_src.filter(|p| !p.as_os_str().is_empty());
        Ok(Self {
            cache: dir("LUO_CACHE")?,
            verbose: settings.v == "1",
            jobs: std::thread::available_parallelism().map_or(1, |n| n.get()),
            host_top: dir("LUO_HOST_TOP")?,
            host_cache: dir("LUO_HOST_CACHE")?,
            build,
            top,
            settings,
            prefault: false,
        })
    }

    /// The architecture of kernels and machines.
    pub fn arch(&self) -> &'static Description {
        self.settings.arch.describe()
    }

    /// Converts a path to its name outside the sandbox.
    pub fn shown(&self, path: &Path) -> String {
        let host = if let Ok(rest) = path.strip_prefix(&self.top) {
            self.host_top.join(rest)
        } else if let Ok(rest) = path.strip_prefix(&self.cache) {
            self.host_cache.join(rest)
        } else {
            path.to_owned()
        };
        host.display().to_string()
    }

    /// The log file of the step called `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.build.join("logs").join(format!("{name}.log"))
    }

    /// Fails if there is not enough disk space. `cold` is the required space in GB without a
    /// cache, `warm` with built kernels.
    pub fn need_space(&self, cold: u64, warm: u64) -> Result<()> {
        let linux = self.cache.join("linux");
        let built = fs::read_dir(&linux).is_ok_and(|mut entries| entries.next().is_some());
        let need = if built { warm } else { cold };
        for dir in [&self.cache, &self.build] {
            let stat = rustix::fs::statvfs(dir)?;
            let free = stat.f_bavail * stat.f_frsize / (1 << 30);
            if free < need {
                bail!(
                    "No disk space: this needs {need} GB in {}, and {free} GB are free.",
                    self.shown(dir)
                );
            }
        }
        Ok(())
    }
}
