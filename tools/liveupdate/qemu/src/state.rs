// SPDX-License-Identifier: GPL-2.0

//! The file with the saved state of a guest, and the mark that the guest has run from it.

use std::{fs::File, io, os::unix::fs::FileExt};

/// The first bytes of a state that QEMU has saved.
const SAVED: [u8; 4] = *b"QEVM";
/// The first bytes if the guest may have run from the state. QEMU does not load such a file.
const USED: [u8; 4] = *b"USED";

/// Whether the guest may have run from the state in `file`. Its memory does not match that state any
/// more.
///
/// # Errors
///
/// If the file cannot be read.
pub fn is_used(file: &File) -> io::Result<bool> {
    let mut found = [0; 4];
    file.read_exact_at(&mut found, 0)?;
    Ok(found == USED)
}

/// Marks the state in `file`: the guest is about to run from it, and must never be started from it
/// again.
///
/// # Errors
///
/// If the file cannot be written.
pub fn mark_used(file: &File) -> io::Result<()> {
    file.write_all_at(&USED, 0)
}

/// Removes the mark of [`mark_used`], since the guest has not run.
///
/// # Errors
///
/// If the file cannot be written.
pub fn mark_unused(file: &File) -> io::Result<()> {
    file.write_all_at(&SAVED, 0)
}
