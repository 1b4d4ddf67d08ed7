// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory that is to be preserved.

use crate::error::Context;
use rustix::{
    fs::{seek, SeekFrom},
    io::Errno,
    mm::{mmap, mmap_anonymous, munmap, MapFlags, ProtFlags},
};
use std::{
    ffi::c_void,
    fs::{self, File},
    io,
    ops::Range,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

/// The size of the folios that [`collapse`] creates, in bytes.
const FOLIO_SIZE: &str = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";

/// The result of [`collapse`], in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collapsed {
    /// Memory that consists of large folios now.
    pub large: u64,
    /// Memory that was not moved, since it is next to a hole, a device uses it, or there was no
    /// memory for large folios.
    pub left: u64,
}

/// Moves the memory of a memfd into large folios (2 MiB on x86), which the kernel preserves and retrieves
/// hundreds of times as fast as the same memory in pages of 4 KiB.
///
/// Call this before the file is preserved, while no program waits for the update: the contents are
/// copied, and a task that accesses a part of the memory waits while that part is copied. The
/// caller must decide whether this is worth the time. A memfd whose memory consists of large folios
/// from the start (`transparent_hugepage/shmem_enabled`, `MADV_HUGEPAGE`) does not need it; such
/// folios are not copied again.
///
/// Holes stay holes. Pages that are pinned, for I/O for example, are not moved. The memory is
/// charged to the memory cgroup of the calling process, as if the process had allocated it.
///
/// # Errors
///
/// If the file cannot be mapped, or is not a memfd ([`EINVAL`](libc::EINVAL)), or if the kernel
/// does not support large folios ([`ENOENT`](libc::ENOENT), `CONFIG_TRANSPARENT_HUGEPAGE`). Memory
/// that cannot be moved is not an error.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// # let memfd = std::fs::File::open("/dev/null")?;
/// # let session = liveupdate::Device::open()?.create_session("cache")?;
/// liveupdate::collapse(&memfd)?;
/// session.preserve(&memfd, 1)?;
/// # Ok(())
/// # }
/// ```
pub fn collapse(file: &impl AsFd) -> io::Result<Collapsed> {
    let size = fs::read_to_string(FOLIO_SIZE).context(|| "find the size of large folios".into())?;
    let folio: u64 = size.trim().parse().map_err(io::Error::other)?;
    // Opens the file again, since the search changes the position.
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let file = File::open(path).context(|| "open the memfd again".into())?;
    let len = file
        .metadata()
        .context(|| "find the size of the memfd".into())?
        .len();
    let map = Map::new(&file, len, folio)?;

    let mut result = Collapsed::default();
    let mut full = false;
    let mut next = 0;
    while let Some(data) = next_data(&file, next..len)? {
        next = data.end;
        let first = data.start.next_multiple_of(folio);
        let last = data.end - data.end % folio;
        for at in (first..last).step_by(usize::try_from(folio).map_err(io::Error::other)?) {
            if full {
                break;
            }
            match map.collapse(at, folio) {
                Ok(()) => result.large += folio,
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    return Err(error).context(|| "collapse a memfd".into());
                }
                // There will not be memory for others either.
                Err(error) => full = error.raw_os_error() == Some(libc::ENOMEM),
            }
        }
        result.left += data.end - data.start;
    }
    result.left -= result.large;
    Ok(result)
}

/// The first part of `range` that has memory.
fn next_data(file: &File, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    if range.is_empty() {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(range.start)) {
        Ok(start) => start,
        // The rest of the file is a hole.
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?;
    Ok((start < range.end).then_some(start..end.min(range.end)))
}

/// A mapping of all of a file, at a multiple of the size of a large folio.
struct Map {
    /// The whole mapping, which begins with a gap before `start`.
    area: *mut c_void,
    area_len: usize,
    start: *mut c_void,
}

impl Map {
    fn new(file: &File, len: u64, folio: u64) -> io::Result<Self> {
        let size = |bytes: u64| usize::try_from(bytes).map_err(io::Error::other);
        let (len, folio) = (size(len.max(1))?, size(folio)?);
        let area_len = len + folio;
        // SAFETY: This is a new mapping without other users.
        let area = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                area_len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let start = area.wrapping_byte_add(area.addr().wrapping_neg() % folio);
        let map = Self {
            area,
            area_len,
            start,
        };
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: The part of the area that is replaced has no users.
        unsafe { mmap(start, len, ProtFlags::READ, flags, file, 0) }
            .context(|| "map the memfd".into())?;
        Ok(map)
    }

    fn collapse(&self, at: u64, len: u64) -> io::Result<()> {
        let size = |bytes: u64| usize::try_from(bytes).map_err(io::Error::other);
        let (start, len) = (self.start.wrapping_byte_add(size(at)?), size(len)?);
        // SAFETY: This advice does not change contents.
        match unsafe { libc::madvise(start, len, libc::MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: The mapping belongs to this object.
        let _ = unsafe { munmap(self.area, self.area_len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{memfd_create, MemfdFlags};
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_end_data() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(10 << 12).unwrap();
        assert_eq!(next_data(&file, 0..10 << 12).unwrap(), None);
        file.write_all_at(&[1; 2 << 12], 3 << 12).unwrap();
        file.write_all_at(&[1], 9 << 12).unwrap();
        let parts = |range| next_data(&file, range).unwrap();
        assert_eq!(parts(0..10 << 12), Some(3 << 12..5 << 12));
        assert_eq!(parts(5 << 12..10 << 12), Some(9 << 12..10 << 12));
        assert_eq!(parts(10 << 12..10 << 12), None);
        assert_eq!(parts(0..4 << 12), Some(3 << 12..4 << 12));
        assert_eq!(parts(0..3 << 12), None);
    }

    /// Without effect if the machine has no large folios.
    #[test]
    fn position_and_holes_stay() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&vec![1; 5 << 20], 0).unwrap();
        seek(&file, SeekFrom::Start(77)).unwrap();
        let Ok(found) = collapse(&file) else {
            return;
        };
        assert_eq!(found.large + found.left, 5 << 20);
        assert_eq!(seek(&file, SeekFrom::Current(0)).unwrap(), 77);
        assert_eq!(next_data(&file, 0..8 << 20).unwrap(), Some(0..5 << 20));
    }
}
