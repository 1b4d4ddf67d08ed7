// SPDX-License-Identifier: GPL-2.0

//! Huge pages of the host.

use crate::size;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The size of huge pages that a live update can hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// 2 MiB.
    #[serde(rename = "2M")]
    TwoMib,
    /// 1 GiB.
    #[serde(rename = "1G")]
    OneGib,
}

impl HugePages {
    /// All sizes.
    pub const ALL: [Self; 2] = [Self::TwoMib, Self::OneGib];

    /// The pages of this size in bytes, if there are any.
    pub fn of_size(bytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|pages| pages.size() == bytes)
    }

    /// The size of a page in bytes.
    pub fn size(self) -> u64 {
        match self {
            Self::TwoMib => 2 << 20,
            Self::OneGib => 1 << 30,
        }
    }

    /// The flags with which a file with these pages is created.
    pub fn flags(self) -> MemfdFlags {
        let size = match self {
            Self::TwoMib => MemfdFlags::HUGE_2MB,
            Self::OneGib => MemfdFlags::HUGE_1GB,
        };
        MemfdFlags::HUGETLB | size
    }

    /// The directory of the pages of this size, below `sysfs`.
    pub fn directory(self, sysfs: &Path) -> PathBuf {
        sysfs.join(format!(
            "kernel/mm/hugepages/hugepages-{}kB",
            self.size() >> 10
        ))
    }

    /// The number of pages that are free and not reserved, by the files below `sysfs`.
    ///
    /// # Errors
    ///
    /// If the machine has no pages of this size, or the files cannot be read.
    pub fn available(self, sysfs: &Path) -> io::Result<u64> {
        let directory = self.directory(sysfs);
        let read = |name: &str| -> io::Result<u64> {
            let path = directory.join(name);
            let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("this machine has no huge pages of {self}"),
                ),
                kind => io::Error::new(kind, format!("{}: {error}", path.display())),
            })?;
            text.trim().parse().map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: {error}", path.display()),
                )
            })
        };
        Ok(read("free_hugepages")?.saturating_sub(read("resv_hugepages")?))
    }
}

impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoMib => "2M",
            Self::OneGib => "1G",
        })
    }
}

impl FromStr for HugePages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pages = size::parse(text, 1).and_then(Self::of_size);
        pages.ok_or_else(|| {
            format!(
                "huge pages of {text} are not preserved in a live update: use those of 2M or 1G"
            )
        })
    }
}

/// Where the kernel shows whether it makes huge pages of shared memory by itself, below sysfs.
const TRANSPARENT: &str = "kernel/mm/transparent_hugepage/shmem_enabled";

/// Whether the kernel makes huge pages of the usual memory of guests, for which QEMU asks. If it does
/// not, an update takes longer. [`None`] if that is not known. `sysfs` is where sysfs is mounted.
pub fn is_transparent(sysfs: &Path) -> Option<bool> {
    let text = fs::read_to_string(sysfs.join(TRANSPARENT)).ok()?;
    let (_, rest) = text.split_once('[')?;
    let (chosen, _) = rest.split_once(']')?;
    Some(!matches!(chosen, "never" | "deny"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparent_pages_are_a_choice() {
        let sysfs = tempfile::tempdir().unwrap();
        assert_eq!(is_transparent(sysfs.path()), None);
        let file = sysfs.path().join(TRANSPARENT);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for (text, expected) in [
            (
                "always within_size advise [never] deny force\n",
                Some(false),
            ),
            ("always within_size [advise] never deny force\n", Some(true)),
            (
                "always within_size advise never [deny] force\n",
                Some(false),
            ),
            ("?", None),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(is_transparent(sysfs.path()), expected, "{text}");
        }
    }

    #[test]
    fn pages_that_are_not_preserved_are_refused() {
        assert_eq!("2M".parse(), Ok(HugePages::TwoMib));
        assert_eq!("1G".parse(), Ok(HugePages::OneGib));
        for pages in HugePages::ALL {
            assert_eq!(pages.to_string().parse(), Ok(pages));
            let directory = format!("kernel/mm/hugepages/hugepages-{}kB", pages.size() >> 10);
            assert_eq!(pages.directory(Path::new("")), Path::new(&directory));
        }
        for other in ["4M", "16M", "x"] {
            let error = other.parse::<HugePages>().unwrap_err();
            assert!(
                error.contains(other) && error.contains("use those of 2M or 1G"),
                "{error}"
            );
        }
    }
}
