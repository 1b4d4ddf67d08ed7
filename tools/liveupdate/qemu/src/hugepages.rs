// SPDX-License-Identifier: GPL-2.0

//! Huge pages of the host that are set aside for memory of guests.

use crate::memory::Backend;
use clap::ValueEnum;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// The size of huge pages that a live update can hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum HugePages {
    /// 2 MiB.
    #[value(name = "2M")]
    #[serde(rename = "2M")]
    TwoMib,
    /// 1 GiB.
    #[value(name = "1G")]
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

    /// What a file with these pages is created with.
    pub fn flags(self) -> MemfdFlags {
        let size = match self {
            Self::TwoMib => MemfdFlags::HUGE_2MB,
            Self::OneGib => MemfdFlags::HUGE_1GB,
        };
        MemfdFlags::HUGETLB | size
    }

    /// Where the kernel shows the pages of this size, below `sysfs`.
    fn directory(self, sysfs: &Path) -> PathBuf {
        sysfs.join(format!(
            "kernel/mm/hugepages/hugepages-{}kB",
            self.size() >> 10
        ))
    }

    /// The number of pages that are free and not reserved, by the files below `sysfs`.
    fn available(self, sysfs: &Path) -> io::Result<u64> {
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

/// Checks that there are huge pages for all of the memory of a guest. QEMU would say no more than
/// that it cannot allocate memory. `sysfs` is where sysfs is mounted.
///
/// # Errors
///
/// If there are not enough.
pub fn check_available(memory: &[Backend], sysfs: &Path) -> io::Result<()> {
    for pages in HugePages::ALL {
        let wanted = memory.iter().filter(|b| b.pages == Some(pages));
        let needed = wanted.map(|backend| backend.size / pages.size()).sum();
        if needed == 0 {
            continue;
        }
        let available = pages.available(sysfs)?;
        if available < needed {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!(
                    "the guest needs {needed} huge pages of {pages}, and {available} are available: \
                     set more aside in {}/nr_hugepages, or by hugepagesz={pages} hugepages=N on the \
                     command line of the kernel",
                    pages.directory(sysfs).display()
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(size: u64, pages: Option<HugePages>) -> Backend {
        Backend {
            id: "m".into(),
            size,
            pages,
        }
    }

    #[test]
    fn missing_pages_are_counted() {
        let sysfs = tempfile::tempdir().unwrap();
        let two = sysfs.path().join("kernel/mm/hugepages/hugepages-2048kB");
        fs::create_dir_all(&two).unwrap();
        fs::write(two.join("free_hugepages"), "10\n").unwrap();
        fs::write(two.join("resv_hugepages"), "3\n").unwrap();
        let check = |memory: &[Backend]| check_available(memory, sysfs.path());
        let two = Some(HugePages::TwoMib);
        check(&[memory(6 << 20, two), memory(8 << 20, two)]).unwrap();
        let error = check(&[memory(8 << 20, two), memory(8 << 20, two)]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("needs 8 huge pages of 2M, and 7 are"),
            "{text}"
        );
        check(&[memory(1 << 40, None)]).unwrap();
        let error = check(&[memory(1 << 30, Some(HugePages::OneGib))]).unwrap_err();
        assert_eq!(error.to_string(), "this machine has no huge pages of 1G");
    }
}
