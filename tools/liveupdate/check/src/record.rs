// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The record of the loaded image.
//!
//! The kernel does not report the contents of the loaded image. `luoctl load` therefore writes a
//! record for `luoctl kexec` and luod, which compare it with the formats in use.

use crate::{check_formats, cmdline, Finding, Image, Needs, Verdict};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, Metadata, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The maximum size of a record, in bytes.
const LENGTH_MAX: u64 = 1 << 20;

/// The file of the loaded image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Source {
    /// Its path.
    pub path: PathBuf,
    /// The device of its file system.
    pub dev: u64,
    /// Its inode number.
    pub ino: u64,
    /// Its length in bytes.
    pub size: u64,
    /// The time of its last change: seconds and nanoseconds since 1970.
    pub changed: (i64, i64),
}

impl Source {
    /// Describes the file at `path` with this `metadata`.
    pub fn new(path: &Path, metadata: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The record of an image, from the time when it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// The identifier of the boot in which it was loaded. It is not loaded in other boots.
    pub boot_id: String,
    /// The number of images that could be loaded after this one: see [`crate::System::loads_left`].
    /// [`None`] if the kernel does not count them.
    #[serde(default)]
    pub loads_left: Option<u32>,
    /// The file.
    pub source: Source,
    /// Its properties; [`None`] if it could not be examined.
    pub image: Option<Image>,
    /// Its command line.
    pub cmdline: String,
    /// The findings when it was loaded.
    pub findings: Vec<Finding>,
}

impl Record {
    /// The record of a file that is loaded in the boot `boot_id` with this command line, and that has not
    /// been examined.
    pub fn new(boot_id: String, source: Source, cmdline: String) -> Self {
        Self {
            boot_id,
            loads_left: None,
            source,
            image: None,
            cmdline,
            findings: Vec::new(),
        }
    }

    /// Reads a record; [`None`] if there is none.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::PermissionDenied`] if another user than root and the current one could have
    /// written it, [`io::ErrorKind::InvalidData`] if it is malformed.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        // Other users must not be able to mislead operators.
        let ours = fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid());
        if !metadata.is_file()
            || ![0, ours].contains(&metadata.uid())
            || metadata.mode() & 0o022 != 0
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "other users could have written it",
            ));
        }
        let mut text = Vec::new();
        file.take(LENGTH_MAX).read_to_end(&mut text)?;
        serde_json::from_slice(&text).map(Some).map_err(Into::into)
    }

    /// Writes the record atomically, readable by all users.
    ///
    /// # Errors
    ///
    /// If the directory or the file cannot be created.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
            fs::create_dir_all(dir)?;
            // Clients of luod must be able to access this directory, independent of the umask.
            fs::set_permissions(dir, Permissions::from_mode(0o755))?;
        }
        let new = path.with_extension("new");
        remove(&new)?;
        let mut file = File::create_new(&new)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&new, path)
    }

    /// Checks again whether the image supports the formats that would be handed over now.
    pub fn check(&self, needs: &Needs) -> Vec<Finding> {
        let Some(image) = &self.image else {
            return vec![Finding::new(
                "formats",
                Verdict::Unknown,
                "the image could not be examined when it was loaded",
            )];
        };
        let mut findings = check_formats(image, needs);
        findings.extend(cmdline::check(&self.cmdline, Some(image)));
        findings
    }
}

/// Removes a record, if there is one.
///
/// # Errors
///
/// If the file cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
