// SPDX-License-Identifier: GPL-2.0

//! Data for the next stage: small text files in the root file system.

use crate::support::error::{At, Result};
use std::{fs, path::PathBuf};

const ROOT: &str = "/state";

fn path(owner: &str, key: &str) -> PathBuf {
    [ROOT, owner, key].iter().collect()
}

/// Saves `value` for this and the next kernels.
pub fn put(owner: &str, key: &str, value: &str) -> Result {
    let path = path(owner, key);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).at(format_args!("create {}", dir.display()))?;
    }
    fs::write(&path, value).at(format_args!("write {}", path.display()))
}

/// Returns a saved value.
pub fn get(owner: &str, key: &str) -> Result<String> {
    let path = path(owner, key);
    fs::read_to_string(&path).at(format_args!("read {}", path.display()))
}
