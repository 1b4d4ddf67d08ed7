// SPDX-License-Identifier: GPL-2.0

//! The kernel log.

use crate::support::error::{At, Result};
use std::{fs::File, io::Read};

/// The kernel log so far.
pub fn kernel_log() -> Result<String> {
    use std::os::unix::fs::OpenOptionsExt;

    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .at("open /dev/kmsg")?;
    let mut log = String::new();
    let mut record = vec![0; 8192];
    // At the end, there is no further record.
    while let Ok(len) = file.read(&mut record) {
        log.push_str(&String::from_utf8_lossy(
            record.get(..len).unwrap_or_default(),
        ));
    }
    Ok(log)
}
