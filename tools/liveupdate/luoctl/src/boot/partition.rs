// SPDX-License-Identifier: GPL-2.0

//! Boot entries on the partitions of boot loaders.

use crate::{
    cli::{Exit, Failure},
    name::EntryId,
};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Where the EFI system partition and the extended boot loader partition are mounted.
const MOUNTS: [&str; 3] = ["boot", "efi", "boot/efi"];

/// Where entries are on a partition, and the suffixes of their names.
const PLACES: [(&str, &str); 2] = [("loader/entries", ".conf"), ("EFI/Linux", UKI)];

/// The suffix of unified kernel images.
const UKI: &str = ".efi";

/// The number of names in an error.
const LISTED_MAX: usize = 8;

/// A boot entry.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its file.
    pub path: PathBuf,
    /// The root directory of its partition.
    pub root: PathBuf,
    /// Its ID: the name of its file without a boot counter.
    id: String,
}

impl Found {
    /// Whether it is a unified kernel image.
    pub fn is_uki(&self) -> bool {
        self.id.ends_with(UKI)
    }

    fn has(&self, id: &EntryId) -> bool {
        let id = id.as_str();
        PLACES
            .iter()
            .any(|(_, suffix)| self.id == id || self.id.strip_suffix(suffix) == Some(id))
    }
}

/// Removes the boot counter from a name without its suffix: `+LEFT` or `+LEFT-DONE`.
fn without_counter(name: &str) -> &str {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let Some((base, counter)) = name.rsplit_once('+') else {
        return name;
    };
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    if number(left) && number(done) {
        base
    } else {
        name
    }
}

/// All entries below `root`. What cannot be read has no entries.
fn all(root: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    // The same directory can be at several places.
    let mut seen = Vec::new();
    for mount in MOUNTS {
        let partition = root.join(mount);
        for (place, suffix) in PLACES {
            let dir = partition.join(place);
            let Ok(metadata) = fs::metadata(&dir) else {
                continue;
            };
            let identity = (metadata.dev(), metadata.ino());
            if seen.contains(&identity) {
                continue;
            }
            seen.push(identity);
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let name = name.to_str().and_then(|name| name.strip_suffix(suffix));
                let Some(name) = name else { continue };
                found.push(Found {
                    path: entry.path(),
                    root: partition.clone(),
                    id: format!("{}{suffix}", without_counter(name)),
                });
            }
        }
    }
    found
}

/// Some names for an error, in order.
pub fn listed(mut names: Vec<String>) -> String {
    names.sort();
    names.dedup();
    if names.is_empty() {
        return "none".to_owned();
    }
    let more = names.len() > LISTED_MAX;
    names.truncate(LISTED_MAX);
    format!("{}{}", names.join(", "), if more { ", ..." } else { "" })
}

/// Finds an entry below `root`.
pub fn find(root: &Path, id: &EntryId) -> Result<Found, Failure> {
    let all = all(root);
    let found: Vec<&Found> = all.iter().filter(|found| found.has(id)).collect();
    let why = match found[..] {
        [found] => return Ok(found.clone()),
        [] => {
            let ids = all.into_iter().map(|found| found.id).collect();
            format!(
                "there is no boot entry {} in /boot, /efi and /boot/efi; there are: {}",
                id.as_str(),
                listed(ids)
            )
        }
        [first, second, ..] => format!(
            "{} and {} are both the boot entry {}: use the suffix, or remove one of them",
            first.path.display(),
            second.path.display(),
            id.as_str()
        ),
    };
    Err(Failure::new(Exit::Failed, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_counters() {
        for (name, id) in [
            ("a-7.3", "a-7.3"),
            ("a+3", "a"),
            ("a+0-12", "a"),
            ("a+b+3-0", "a+b"),
            ("7.3.4+deb14", "7.3.4+deb14"),
            ("a+", "a+"),
            ("a+1-", "a+1-"),
            ("a+1-2-3", "a+1-2-3"),
        ] {
            assert_eq!(without_counter(name), id);
        }
    }
}
