// SPDX-License-Identifier: GPL-2.0

//! Cgroups of memory and of huge pages.

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

/// A cgroup. Dropping it removes it, if nothing is charged to it.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A cgroup that accounts memory.
    pub fn new(name: &str) -> Result<Self> {
        Self::with("memory", name)
    }

    /// A cgroup that accounts huge pages.
    pub fn of_huge_pages(name: &str) -> Result<Self> {
        Self::with("hugetlb", name)
    }

    fn with(controller: &str, name: &str) -> Result<Self> {
        let root = Path::new(CGROUPS);
        if !root.join("cgroup.procs").exists() {
            fs::create_dir_all(root).at(CGROUPS)?;
            rustix::mount::mount("cgroup2", root, "cgroup2", MountFlags::empty(), None)
                .at("mount cgroup2")?;
        }
        set(
            root.join("cgroup.subtree_control"),
            &format!("+{controller}"),
        )
        .map_err(|error| Failure::skip(format!("no {controller} cgroups: {error}")))?;
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
        self.number("memory.current")
    }

    /// Sets the limits in bytes for used and reserved huge pages of a `size`, such as `2MB`.
    pub fn limit_huge_pages(&self, size: &str, used: &str, reserved: &str) -> io::Result<()> {
        set(self.0.join(format!("hugetlb.{size}.max")), used)?;
        set(self.0.join(format!("hugetlb.{size}.rsvd.max")), reserved)
    }

    /// The number of charged bytes of used and reserved huge pages of a `size`, such as `2MB`.
    pub fn huge_pages(&self, size: &str) -> Result<[u64; 2]> {
        Ok([
            self.number(&format!("hugetlb.{size}.current"))?,
            self.number(&format!("hugetlb.{size}.rsvd.current"))?,
        ])
    }

    fn number(&self, name: &str) -> Result<u64> {
        let text = fs::read_to_string(self.0.join(name)).at(name)?;
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
