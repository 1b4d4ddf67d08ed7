// SPDX-License-Identifier: GPL-2.0

//! Files and hashes of their content.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The hexadecimal SHA-256 of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// A short hash of the content of `parts`.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let whole: String = parts.into_iter().map(hex).collect();
    hex(whole.as_bytes())[..16].to_owned()
}

/// All files under `root`, relative to it. `enter` selects the directories to enter.
pub fn files(root: &Path, enter: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            if !entry.file_type()?.is_dir() {
                found.push(path);
            } else if enter(&path) {
                open.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Replaces `path` unless it already has this `content`; never writes to a shared file.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    fs::create_dir_all(path.parent().context("a path with no parent")?)?;
    let mode = fs::metadata(path).map_or(0o644, |m| m.permissions().mode());
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".luo-new");
    fs::write(&tmp, content)?;
    fs::set_permissions(&tmp, fs::Permissions::from_mode(mode))?;
    fs::rename(&tmp, path)?;
    Ok(true)
}
