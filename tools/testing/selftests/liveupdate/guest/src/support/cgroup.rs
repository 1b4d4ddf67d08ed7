// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups.

use crate::support::error::{At, Failure, Result};
use rustix::mount::MountFlags;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Writes a setting.
pub fn set(path: impl AsRef<Path>, value: &str) -> io::Result<()> {
    let path = path.as_ref();
    fs::write(path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

const CGROUPS: &str = "/tmp/cgroup";

/// A memory cgroup. Dropping it removes it, if nothing is charged to it.
pub struct Cgroup(PathBuf);

impl Cgroup {
    pub fn new(name: &str) -> Result<Self> {
        let root = Path::new(CGROUPS);
        if !root.join("cgroup.procs").exists() {
            fs::create_dir_all(root).at(CGROUPS)?;
            rustix::mount::mount("cgroup2", root, "cgroup2", MountFlags::empty(), None)
                .at("mount cgroup2")?;
        }
        set(root.join("cgroup.subtree_control"), "+memory")
            .map_err(|error| Failure::skip(format!("no memory cgroups: {error}")))?;
        let path = root.join(name);
        fs::create_dir_all(&path).at(path.display())?;
        Ok(Self(path))
    }

    pub fn enter(&self) -> io::Result<()> {
        set(self.0.join("cgroup.procs"), "0")
    }

    /// Sets the limit in bytes.
    pub fn limit(&self, bytes: impl std::fmt::Display) -> io::Result<()> {
        set(self.0.join("memory.max"), &bytes.to_string())
    }

    /// The number of charged bytes.
    pub fn current(&self) -> Result<u64> {
        let text = fs::read_to_string(self.0.join("memory.current")).at("memory.current")?;
        Ok(text.trim().parse()?)
    }

    /// The number of bytes of shared memory.
    pub fn shmem(&self) -> Result<u64> {
        self.stat("shmem")
    }

    /// The number of bytes of kernel memory.
    pub fn kernel(&self) -> Result<u64> {
        self.stat("kernel")
    }

    fn stat(&self, key: &str) -> Result<u64> {
        let text = fs::read_to_string(self.0.join("memory.stat")).at("memory.stat")?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        Ok(value
            .at(format_args!("memory.stat has no {key}"))?
            .parse()?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
