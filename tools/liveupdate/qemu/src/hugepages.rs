// SPDX-License-Identifier: GPL-2.0

//! Huge pages of the host that are set aside for memory of guests.

use crate::{memory::Backend, size};
use rustix::{
    fs::{fallocate, FallocateFlags, MemfdFlags},
    io::retry_on_intr,
};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

/// The time between two reports of the number of allocated pages.
const SHOWN: Duration = Duration::from_secs(2);
/// The minimum that is allocated in a second, in bytes.
const SPEED: u64 = 128 << 20;

/// The size of huge pages that a live update can hand over. The kernel does not preserve pages of
/// 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// 2 MiB.
    #[serde(rename = "2M")]
    TwoMib,
}

impl HugePages {
    /// All sizes.
    pub const ALL: [Self; 1] = [Self::TwoMib];

    /// The pages of this size in bytes, if there are any.
    pub fn of_size(bytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|pages| pages.size() == bytes)
    }

    /// The size of a page in bytes.
    pub fn size(self) -> u64 {
        match self {
            Self::TwoMib => 2 << 20,
        }
    }

    /// The flags with which a file with these pages is created.
    pub fn flags(self) -> MemfdFlags {
        let size = match self {
            Self::TwoMib => MemfdFlags::HUGE_2MB,
        };
        MemfdFlags::HUGETLB | size
    }

    /// The directory of the pages of this size, below `sysfs`.
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
        })
    }
}

impl FromStr for HugePages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pages = size::parse(text, 1).and_then(Self::of_size);
        pages.ok_or_else(|| {
            format!("huge pages of {text} are not preserved in a live update: use those of 2M")
        })
    }
}

/// Checks that there are huge pages for all of the memory of a guest. The message of QEMU would
/// only be that it cannot allocate memory. `sysfs` is where sysfs is mounted.
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

/// Fills the holes in memory of a guest that is made of huge pages. A guest makes them when it gives
/// memory back, by a balloon.
///
/// # Errors
///
/// If there are not enough huge pages.
pub fn fill(file: &File, backend: &Backend) -> io::Result<()> {
    let Some(pages) = backend.pages else {
        return Ok(());
    };
    retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, backend.size)).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(
            error.kind(),
            format!(
                "not all of the memory {} can be allocated: set more huge pages of {pages} aside in {}/nr_hugepages ({error})",
                backend.id,
                pages.directory(Path::new("/sys")).display()
            ),
        )
    })
}

/// The allocation of the huge pages of a guest by its QEMU.
#[derive(Debug)]
pub struct Filling<'a> {
    name: &'a str,
    /// The files of huge pages.
    files: Vec<(&'a File, &'a Backend, HugePages)>,
    shown: Instant,
}

impl<'a> Filling<'a> {
    /// The allocation of `memory`, in `files`, of the guest `name`.
    pub fn new(name: &'a str, memory: &'a [Backend], files: &'a [File]) -> Self {
        let files = files.iter().zip(memory);
        Self {
            name,
            files: files
                .filter_map(|(file, backend)| Some((file, backend, backend.pages?)))
                .collect(),
            shown: Instant::now(),
        }
    }

    /// How long it may take.
    pub fn limit(&self) -> Duration {
        let bytes: u64 = self.files.iter().map(|(_, backend, _)| backend.size).sum();
        Duration::from_secs(bytes.div_ceil(SPEED))
    }

    /// The allocated part of the first file that is not complete.
    fn incomplete(&self) -> Option<(u64, &'a Backend, HugePages)> {
        self.files.iter().find_map(|(file, backend, pages)| {
            let allocated = file.metadata().ok()?.blocks() * 512;
            (allocated < backend.size).then_some((allocated, *backend, *pages))
        })
    }

    /// Reports the progress periodically.
    pub fn show(&mut self) {
        if self.shown.elapsed() < SHOWN {
            return;
        }
        self.shown = Instant::now();
        if let Some((allocated, backend, pages)) = self.incomplete() {
            println!(
                "{}: {} of {} huge pages of {pages} are allocated for the memory {}",
                self.name,
                allocated / pages.size(),
                backend.size / pages.size(),
                backend.id
            );
        }
    }

    /// Why QEMU has ended before all pages were allocated, if that is the reason.
    pub fn reason(&self) -> Option<String> {
        let (allocated, backend, pages) = self.incomplete()?;
        Some(format!(
            "QEMU has ended after {} of {} huge pages of {pages} were allocated for the memory {}: \
             see its message, and whether other programs have taken huge pages",
            allocated / pages.size(),
            backend.size / pages.size(),
            backend.id
        ))
    }
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
        fs::remove_dir_all(sysfs.path().join("kernel")).unwrap();
        let error = check(&[memory(8 << 20, two)]).unwrap_err();
        assert_eq!(error.to_string(), "this machine has no huge pages of 2M");
    }

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
    fn holes_are_filled() {
        // As in a file of huge pages: the file system counts what is allocated.
        let file: File = rustix::fs::memfd_create("m", MemfdFlags::CLOEXEC)
            .unwrap()
            .into();
        file.set_len(8 << 20).unwrap();
        let usual = [memory(8 << 20, None)];
        let huge = [memory(8 << 20, Some(HugePages::TwoMib))];
        let files = [file];
        assert_eq!(Filling::new("g", &usual, &files).reason(), None);
        fill(&files[0], &usual[0]).unwrap();
        let filling = Filling::new("g", &huge, &files);
        assert_eq!(filling.limit(), Duration::from_secs(1));
        let reason = filling.reason().unwrap();
        assert!(reason.contains("0 of 4 huge pages of 2M"), "{reason}");
        fill(&files[0], &huge[0]).unwrap();
        assert_eq!(filling.reason(), None);
        let path = tempfile::NamedTempFile::new().unwrap();
        let error = fill(&File::open(path.path()).unwrap(), &huge[0]).unwrap_err();
        assert!(
            error.to_string().contains("hugepages-2048kB/nr_hugepages"),
            "{error}"
        );
    }

    #[test]
    fn pages_that_are_not_preserved_are_refused() {
        assert_eq!("2M".parse(), Ok(HugePages::TwoMib));
        for other in ["1G", "16M", "x"] {
            let error = other.parse::<HugePages>().unwrap_err();
            assert!(
                error.contains(other) && error.contains("use those of 2M"),
                "{error}"
            );
        }
    }
}
