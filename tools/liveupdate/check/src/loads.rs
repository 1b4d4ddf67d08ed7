// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The number of images that may still be loaded.
//!
//! The kernel does not report which image is loaded, but it can count the loads: if
//! `/proc/sys/kernel/kexec_load_limit_reboot` is a number, every attempt to load or unload an
//! image decrements it, and it cannot be increased. As long as it has the same value as after a
//! load, the image of that load is the loaded one. Crash kernels have another counter.

use crate::System;
use std::{fs, io, io::Write, path::PathBuf};

/// The largest limit that the kernel accepts, which is sufficient for decades.
const MANY: u32 = i32::MAX as u32;

impl System {
    fn limit(&self) -> PathBuf {
        self.procfs.join("sys/kernel/kexec_load_limit_reboot")
    }

    /// The number of images that may still be loaded; [`None`] if the kernel does not count
    /// them.
    pub fn loads_left(&self) -> Option<u32> {
        let text = fs::read_to_string(self.limit()).ok()?;
        // -1 is "no limit".
        text.trim().parse().ok()
    }

    /// Makes the kernel count; returns the number of images that may still be loaded.
    ///
    /// # Errors
    ///
    /// If the kernel cannot count (before Linux 6.3), or writing is not permitted.
    pub fn count_loads(&self) -> io::Result<u32> {
        if let Some(left) = self.loads_left() {
            return Ok(left);
        }
        // The file must not be created if the kernel does not have it.
        let file = fs::OpenOptions::new().write(true).open(self.limit());
        let written = file.and_then(|mut file| file.write_all(format!("{MANY}\n").as_bytes()));
        match (self.loads_left(), written) {
            // The write fails if another program has set the limit first.
            (Some(left), _) => Ok(left),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
