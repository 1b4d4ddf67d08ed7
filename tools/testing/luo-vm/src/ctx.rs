// SPDX-License-Identifier: GPL-2.0

//! Where things are, and what the user asked for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use clap::Args;

/// Settings; each can be a variable on `make`'s command line.
#[derive(Args, Debug, Clone)]
pub struct Settings {
    /// Processors of the virtual machine
    #[arg(long, env = "SMP", default_value_t = 2, global = true)]
    pub smp: u32,
    /// Memory of the virtual machine, as QEMU writes it
    #[arg(long, env = "MEM", default_value = "2G", global = true)]
    pub mem: String,
    /// Size of the memfd that `run` carries over, in MiB
    #[arg(long, env = "MEMFD_MB", default_value_t = 64, global = true)]
    pub memfd_mb: u64,
    /// A Linux 7.3 tree to build on: a directory, a git repository or a tarball
    #[arg(long, env = "KERNEL_SRC", global = true)]
    pub kernel_src: Option<PathBuf>,
    /// Only these suites of our kselftests, separated by commas
    #[arg(long, env = "SUITES", value_delimiter = ',', global = true)]
    pub suites: Vec<String>,
    /// Show all output (1), not just a line a step
    #[arg(long = "verbose", env = "V", default_value = "0", global = true)]
    pub v: String,
}

/// What every part of the program needs to know.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// The checkout.
    pub top: PathBuf,
    /// Kernel trees and everything else that outlives a checkout.
    pub cache: PathBuf,
    /// Outputs of this checkout.
    pub build: PathBuf,
    pub settings: Settings,
    /// Whether a virtual machine gets all of its memory before it starts, not when it needs it.
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

    /// A path as it is called outside the sandbox.
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

    /// Refuses to start what the disk cannot hold. `cold` is what it takes, in GB, with nothing
    /// cached; `warm` what it takes when the kernels have been built before.
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
