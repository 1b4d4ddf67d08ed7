// SPDX-License-Identifier: GPL-2.0

//! How many images may still be loaded.
//!
//! The kernel does not tell which image is loaded, but it can be made to count: once
//! `/proc/sys/kernel/kexec_load_limit_reboot` is a number, every attempt to load or to unload an
//! image takes one away from it, and nobody can put it back. As long as it is what it was after an
//! image was loaded, that image is the loaded one. Crash kernels are counted elsewhere.

use crate::System;
use std::{fs, io, io::Write, path::PathBuf};

/// The largest limit that the kernel takes, which is enough for decades.
const MANY: u32 = i32::MAX as u32;

impl System {
    fn limit(&self) -> PathBuf {
        self.procfs.join("sys/kernel/kexec_load_limit_reboot")
    }

    /// How many images may still be loaded; [`None`] if the kernel does not count, or does not
    /// tell.
    pub fn loads_left(&self) -> Option<u32> {
        let text = fs::read_to_string(self.limit()).ok()?;
        // -1 is "no limit".
        text.trim().parse().ok()
    }

    /// Makes the kernel count; returns how many images may still be loaded.
    ///
    /// # Errors
    ///
    /// If the kernel cannot count (before Linux 6.3), or this program must not write there.
    pub fn count_loads(&self) -> io::Result<u32> {
        if let Some(left) = self.loads_left() {
            return Ok(left);
        }
        // It must not be created where a kernel has none.
        let file = fs::OpenOptions::new().write(true).open(self.limit());
        let written = file.and_then(|mut file| file.write_all(format!("{MANY}\n").as_bytes()));
        match (self.loads_left(), written) {
            // Another program may have been first, upon which ours is refused.
            (Some(left), _) => Ok(left),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
