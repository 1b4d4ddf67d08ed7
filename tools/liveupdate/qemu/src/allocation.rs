// SPDX-License-Identifier: GPL-2.0

//! Allocation of guest memory that consists of huge pages, which are set aside on the host.

use crate::{hugepages::HugePages, memory::Backend};
use rustix::{
    fs::{fallocate, FallocateFlags},
    io::retry_on_intr,
};
use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

/// The time between two reports of the number of allocated pages.
const SHOWN: Duration = Duration::from_secs(2);
/// The minimum that is allocated in a second, in bytes.
const SPEED: u64 = 128 << 20;

/// Checks that there are huge pages for all of the memory of a guest. QEMU would only report that
/// it cannot allocate memory. `sysfs` is where sysfs is mounted.
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

/// Fills the holes in guest memory that consists of huge pages. A guest makes holes when it returns
/// memory through a balloon.
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

    /// Returns why QEMU has ended, if it has ended before all pages were allocated.
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
    use rustix::fs::MemfdFlags;
    use std::fs;

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
}
