// SPDX-License-Identifier: GPL-2.0

//! The root file system as an initramfs image.

use crate::support::{
    error::{At, Result},
    kexec::cpio::{Archive, Member},
};
use rustix::fs::{major, minor, MemfdFlags};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

struct Packer<W> {
    archive: Archive<W>,
    root_device: u64,
}

impl<W: Write> Packer<W> {
    fn add(&mut self, path: &Path) -> Result {
        let meta = fs::symlink_metadata(path).at(path.display())?;
        let name = path.strip_prefix("/").unwrap_or(path);
        let mut member = Member {
            name: name.as_os_str().as_bytes(),
            mode: meta.mode(),
            device: (major(meta.rdev()), minor(meta.rdev())),
            len: 0,
        };
        let kind = meta.file_type();
        let result = if kind.is_file() {
            member.len = meta.len();
            File::open(path).and_then(|file| self.archive.add(&member, file))
        } else if kind.is_symlink() {
            fs::read_link(path).and_then(|target| {
                let target = target.as_os_str().as_bytes();
                member.len = target.len() as u64;
                self.archive.add(&member, target)
            })
        } else {
            if !member.name.is_empty() {
                self.archive.add(&member, io::empty()).at(path.display())?;
            }
            // Mounted file systems do not belong to the image.
            if kind.is_dir() && meta.dev() == self.root_device {
                self.add_contents(path)?;
            }
            Ok(())
        };
        result.at(path.display())
    }

    fn add_contents(&mut self, dir: &Path) -> Result {
        for entry in fs::read_dir(dir).at(dir.display())? {
            self.add(&entry.at(dir.display())?.path())?;
        }
        Ok(())
    }
}

/// Packs the root file system, without mounted file systems.
pub fn pack_root() -> Result<File> {
    let root_device = fs::metadata("/").at("stat the root directory")?.dev();
    let memfd = rustix::fs::memfd_create("initramfs", MemfdFlags::CLOEXEC)
        .at("create a memfd for the initramfs")?;
    let mut packer = Packer {
        archive: Archive::new(BufWriter::with_capacity(1 << 20, File::from(memfd))),
        root_device,
    };
    packer.add(Path::new("/")).at("pack the root file system")?;
    let buffered = packer.archive.finish().at("pack the root file system")?;
    let file = buffered.into_inner();
    file.map_err(io::IntoInnerError::into_error)
        .at("pack the root file system")
}
