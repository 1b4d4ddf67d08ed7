// SPDX-License-Identifier: GPL-2.0

//! What `luoctl load` loads: the kernel, the initrd and the command line.
//!
//! They are named by the arguments, by the version of an installed kernel ([`installed`]), or by a
//! boot entry: a file of the Boot Loader Specification ([`entry`]) or a unified kernel image
//! ([`uki`]).

mod entry;
mod installed;
mod partition;
mod uki;

use crate::{
    cli::{Cli, Exit, Failure, LoadOptions},
    events,
    image::{self, failed},
    name::EntryId,
};
use luo_check::cmdline;
use rustix::fs::{memfd_create, MemfdFlags};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// What is loaded.
#[derive(Debug)]
pub struct Boot {
    /// The file that the operator or the boot entry names.
    pub path: PathBuf,
    /// That file.
    pub file: File,
    /// The kernel, if `file` only contains it.
    pub extracted: Option<File>,
    /// The initial RAM file system.
    pub initrd: Option<File>,
    /// The command line.
    pub cmdline: String,
}

impl Boot {
    /// A kernel, with initrds that the kernel unpacks one after another.
    fn new(path: PathBuf, initrds: &[PathBuf], cmdline: String) -> Result<Self, Failure> {
        Ok(Self {
            file: image::open(&path)?,
            path,
            extracted: None,
            initrd: join(initrds)?,
            cmdline,
        })
    }

    /// A unified kernel image.
    fn unified(path: PathBuf) -> Result<Self, Failure> {
        let file = image::open(&path)?;
        let parts = uki::extract(&file).map_err(|why| failed(&path, why))?;
        Ok(Self {
            path,
            file,
            extracted: Some(parts.kernel),
            initrd: parts.initrd,
            cmdline: parts.cmdline,
        })
    }

    /// Finds what the options name.
    ///
    /// A command line of a boot loader's configuration need not have the parameters with which the
    /// next kernel reads the log and the events of this one. A command line that the operator gives is
    /// not changed.
    pub fn find(cli: &Cli, options: &LoadOptions) -> Result<Self, Failure> {
        let mut boot = Self::find_files(cli, options)?;
        if options.cmdline.is_none() {
            if let Ok(running) = cli.system().cmdline() {
                boot.cmdline = cmdline::with_log(&boot.cmdline, &running);
                boot.cmdline = events::marked(&cli.root, &boot.cmdline);
            }
        }
        Ok(boot)
    }

    fn find_files(cli: &Cli, options: &LoadOptions) -> Result<Self, Failure> {
        let wanted = options.cmdline.as_deref();
        if let Some(version) = &options.kernel {
            let kernel = installed::find(&cli.root, version)?;
            let cmdline = match wanted {
                None if options.grub_cmdline => installed::grub_cmdline(&cli.root, version)?,
                // What the boot loader has added is true of the running kernel only.
                None if !options.reuse_cmdline => {
                    cmdline::without(&cli.cmdline(None)?, &["BOOT_IMAGE", "initrd"])
                }
                wanted => cli.cmdline(wanted)?,
            };
            return Self::new(kernel.image, &[kernel.initrd], cmdline);
        }
        if let Some(id) = &options.entry {
            let mut boot = Self::of_entry(cli, id)?;
            if options.reuse_cmdline || wanted.is_some() {
                boot.cmdline = cli.cmdline(wanted)?;
            }
            return Ok(boot);
        }
        let Some(path) = options.image.clone() else {
            let why = "neither an image, nor --kernel, nor --entry is given";
            return Err(Failure::new(Exit::Usage, why));
        };
        let cmdline = cli.cmdline(wanted)?;
        let initrds: Vec<PathBuf> = options.initrd.iter().cloned().collect();
        Self::new(path, &initrds, cmdline)
    }

    fn of_entry(cli: &Cli, id: &EntryId) -> Result<Self, Failure> {
        let found = partition::find(&cli.root, id)?;
        if found.is_uki() {
            return Self::unified(found.path);
        }
        let bad = |why: entry::Bad| failed(&found.path, why);
        let text = entry::read(image::open(&found.path)?).map_err(bad)?;
        let entry = entry::Entry::parse(&text).map_err(bad)?;
        let on_disk = |path: &entry::Inner| path.below(&found.root);
        match &entry.what {
            entry::What::Unified(path) if entry.options.is_empty() => Self::unified(on_disk(path)),
            // systemd-boot does not use the options of such an entry either.
            entry::What::Unified(_) => Err(bad(entry::Bad::Unsupported("options of a uki"))),
            entry::What::Linux { kernel, initrds } => {
                let initrds: Vec<_> = initrds.iter().map(on_disk).collect();
                Self::new(on_disk(kernel), &initrds, entry.options)
            }
        }
    }

    /// The kernel.
    pub fn kernel(&self) -> &File {
        self.extracted.as_ref().unwrap_or(&self.file)
    }

    /// The size of the initrd, in bytes.
    pub fn initrd_len(&self) -> u64 {
        let metadata = self.initrd.as_ref().and_then(|file| file.metadata().ok());
        metadata.map_or(0, |metadata| metadata.len())
    }
}

/// The initrds as one file; [`None`] if there are none.
fn join(paths: &[PathBuf]) -> Result<Option<File>, Failure> {
    match paths {
        [] => return Ok(None),
        [path] => return image::open(path).map(Some),
        _ => {}
    }
    let mut joined = Memory::new().map_err(|error| failed(&paths[0], error))?;
    for path in paths {
        let file = image::open(path)?;
        joined.append(file).map_err(|error| failed(path, error))?;
    }
    let joined = joined.done().map_err(|error| failed(&paths[0], error))?;
    Ok(Some(joined))
}

/// A file in memory, while it is written.
struct Memory(File);

impl Memory {
    /// Between archives, an initrd may contain null bytes; each begins at a multiple of this.
    const ALIGNMENT: u64 = 4;

    fn new() -> io::Result<Self> {
        Ok(Self(
            memfd_create("luoctl-load", MemfdFlags::CLOEXEC)?.into(),
        ))
    }

    /// Appends all that `from` contains.
    fn append(&mut self, mut from: impl Read) -> io::Result<()> {
        let length = self.0.metadata()?.len();
        let padding = length.next_multiple_of(Self::ALIGNMENT) - length;
        io::copy(&mut io::repeat(0).take(padding), &mut self.0)?;
        io::copy(&mut from, &mut self.0)?;
        self.0.flush()
    }

    /// The file, which can only be read: the kernel does not load a file that is open for writing.
    fn done(self) -> io::Result<File> {
        File::open(Path::new("/proc/self/fd").join(self.0.as_raw_fd().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_aligned() {
        let mut memory = Memory::new().unwrap();
        for part in ["12345", "6789", "", "a"] {
            memory.append(part.as_bytes()).unwrap();
        }
        let mut file = memory.done().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "12345\0\0\x006789a");
        assert!(file.write_all(b"x").is_err());
    }
}
