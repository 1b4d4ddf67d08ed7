// SPDX-License-Identifier: GPL-2.0

//! Creating and checking memfds.

use crate::support::{
    error::{ensure_eq, At, Result},
    pattern::Pattern,
};
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use std::{
    fs::{self, File},
    os::fd::OwnedFd,
};

/// An empty memfd that can be sealed.
pub fn new() -> Result<File> {
    create(MemfdFlags::ALLOW_SEALING | MemfdFlags::EXEC)
}

/// An empty memfd.
pub fn create(flags: MemfdFlags) -> Result<File> {
    rustix::fs::memfd_create("luo-guest", flags | MemfdFlags::CLOEXEC)
        .map(File::from)
        .at("memfd_create")
}

/// A memfd that contains `pattern`.
pub fn with(pattern: Pattern) -> Result<File> {
    let file = new()?;
    pattern.write(&file, 0)?;
    Ok(file)
}

/// Sets whether new memory of memfds is in transparent huge pages, if the kernel has them.
pub fn set_huge(always: bool) -> Result {
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    fs::write(FILE, if always { "always" } else { "never" }).at(FILE)
}

pub fn seals(file: &File) -> Result<SealFlags> {
    rustix::fs::fcntl_get_seals(file).at("F_GET_SEALS")
}

pub fn seal(file: &File, seals: SealFlags) -> Result {
    rustix::fs::fcntl_add_seals(file, seals).at(format_args!("F_ADD_SEALS {seals:?}"))
}

pub fn position(file: &File) -> Result<u64> {
    rustix::fs::seek(file, SeekFrom::Current(0)).at("lseek")
}

pub fn seek(file: &File, position: u64) -> Result {
    rustix::fs::seek(file, SeekFrom::Start(position)).at(format_args!("lseek to {position}"))?;
    Ok(())
}

pub fn len(file: &File) -> Result<u64> {
    Ok(file.metadata().at("fstat")?.len())
}

/// Fails unless `fd` is a file that contains exactly `pattern`.
pub fn check(fd: OwnedFd, pattern: Pattern) -> Result<File> {
    let file = File::from(fd);
    ensure_eq!(len(&file)?, pattern.len, "the size");
    pattern.check(&file, 0)?;
    Ok(file)
}
