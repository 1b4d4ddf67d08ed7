// SPDX-License-Identifier: GPL-2.0

//! What is known of the image that was loaded, until it is started.
//!
//! The kernel does not tell what is in an image that is loaded. `luoctl load` hence writes down
//! what it found, for `luoctl kexec` and luod, which compare it with what is in use by then.

use crate::{check_formats, cmdline, Finding, Image, Needs, Verdict};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, Metadata, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// No record is longer, in bytes.
const LENGTH_MAX: u64 = 1 << 20;

/// What the loaded image was read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Where it was.
    pub path: PathBuf,
    /// The device of its file system.
    pub dev: u64,
    /// Its number there.
    pub ino: u64,
    /// Its length in bytes.
    pub size: u64,
    /// When it was changed last: seconds and nanoseconds since 1970.
    pub changed: (i64, i64),
}

impl Source {
    /// Describes the file at `path`, of which `metadata` is.
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

/// What was found out about an image when it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Tells the boot that it was loaded in: an image is not loaded any more after that.
    pub boot_id: String,
    /// How many images could still be loaded when this one was: see [`crate::System::loads_left`].
    /// [`None`] if the kernel does not count them.
    #[serde(default)]
    pub loads_left: Option<u32>,
    /// The file.
    pub source: Source,
    /// What is in it; [`None`] if that could not be found out.
    pub image: Option<Image>,
    /// The command line that it gets.
    pub cmdline: String,
    /// What was found when it was loaded.
    pub findings: Vec<Finding>,
}

impl Record {
    /// Reads a record; [`None`] if there is none.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::PermissionDenied`] if somebody else than root and us could have written it,
    /// [`io::ErrorKind::InvalidData`] if it is none.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        // What operators are told must not come from others.
        let ours = fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid());
        if !metadata.is_file()
            || ![0, ours].contains(&metadata.uid())
            || metadata.mode() & 0o022 != 0
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "others could have written it",
            ));
        }
        let mut text = Vec::new();
        file.take(LENGTH_MAX).read_to_end(&mut text)?;
        serde_json::from_slice(&text).map(Some).map_err(Into::into)
    }

    /// Writes the record, such that others can read it, and never see a part of it only.
    ///
    /// # Errors
    ///
    /// If the directory or the file cannot be made.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
            fs::create_dir_all(dir)?;
            // Clients of luod come by here, whatever the umask of the operator is.
            fs::set_permissions(dir, Permissions::from_mode(0o755))?;
        }
        let new = path.with_extension("new");
        remove(&new)?;
        let mut file = File::create_new(&new)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&new, path)
    }

    /// Checks once more whether the image understands what would be handed over by now.
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
/// If that is not possible.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
