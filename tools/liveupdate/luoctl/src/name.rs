// SPDX-License-Identifier: GPL-2.0

//! The names of kernels and boot entries on the command line of `luoctl load`.

use std::str::FromStr;

/// The maximum length of a version, in bytes: that of a file name, without the prefix.
const VERSION_MAX: usize = 200;

/// The maximum length of a file name.
const NAME_MAX: usize = 255;

/// The version of an installed kernel, a part of file names: `7.3.4-cloud-amd64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(String);

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let version = text.strip_prefix("vmlinuz-").unwrap_or(text);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
        if version.is_empty() || version.len() > VERSION_MAX || !version.chars().all(allowed) {
            return Err(
                "a version consists of letters, digits and . _ + ~ - as in the names of \
                        /boot/vmlinuz-*"
                    .to_owned(),
            );
        }
        Ok(Self(version.to_owned()))
    }
}

impl Version {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a boot entry, as `bootctl list` shows it: that of its file, with or without the
/// suffix, and without a boot counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryId(String);

impl FromStr for EntryId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_graphic() && c != '/';
        let name = !text.is_empty() && !text.starts_with('.') && text.len() <= NAME_MAX;
        if !name || !text.chars().all(allowed) {
            return Err("the ID of an entry is the name of its file: see bootctl list".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl EntryId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(
            "vmlinuz-7.3.4-amd64".parse::<Version>().unwrap().0,
            "7.3.4-amd64"
        );
        for bad in ["", "a/b", "../x", "7 3", "7\n", &"7".repeat(201), "$x", "ü"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids() {
        for good in ["debian-7.3.4", "debian-7.3.4.conf", "0a+b~c"] {
            assert!(good.parse::<EntryId>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "a b", "a\n", &"x".repeat(256)] {
            assert!(bad.parse::<EntryId>().is_err(), "{bad:?}");
        }
    }
}
