// SPDX-License-Identifier: GPL-2.0

//! Paths of a guest that have moved while its host was updated.

use crate::spec::Spec;
use std::{path::PathBuf, str::FromStr};

/// A path that has moved, with everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    old: String,
    new: String,
}

impl FromStr for Moved {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let tidy = |path: &str| path.trim_end_matches('/').to_owned();
        let (old, new) = text.split_once('=').unwrap_or_default();
        let moved = Self {
            old: tidy(old),
            new: tidy(new),
        };
        if !moved.old.starts_with('/') || !moved.new.starts_with('/') {
            return Err(format!(
                "{text:?} does not name two absolute paths: write it like /srv/old=/srv/new"
            ));
        }
        Ok(moved)
    }
}

/// Whether a character can be part of a file name in an argument of QEMU.
fn is_name(c: char) -> bool {
    c.is_alphanumeric() || "-_.+~%@".contains(c)
}

impl Moved {
    /// Replaces the path in `text`, wherever it is a whole path or the beginning of one. [`None`] if
    /// it is not there.
    fn apply(&self, text: &str) -> Option<String> {
        let mut changed = String::new();
        let mut rest = text;
        let mut found = false;
        while let Some(at) = rest.find(&self.old) {
            let (before, after) = (&rest[..at], &rest[at + self.old.len()..]);
            changed.push_str(before);
            // Neither a part of another path, nor the beginning of another name.
            let starts = !changed.ends_with(|c| is_name(c) || c == '/');
            let ends = !after.starts_with(is_name);
            found |= starts && ends;
            changed.push_str(match starts && ends {
                true => &self.new,
                false => &self.old,
            });
            rest = after;
        }
        changed.push_str(rest);
        found.then_some(changed)
    }

    /// Whether `spec` has the new path.
    fn is_done(&self, spec: &Spec) -> bool {
        let new = Self {
            old: self.new.clone(),
            new: self.new.clone(),
        };
        let arguments = spec.arguments.iter();
        let found = arguments.filter_map(|text| new.apply(text)).next();
        found.is_some() || spec.program.starts_with(&self.new)
    }

    fn apply_to_path(&self, path: &mut PathBuf) -> bool {
        let Ok(rest) = path.strip_prefix(&self.old) else {
            return false;
        };
        let new = PathBuf::from(&self.new);
        *path = match rest.as_os_str().is_empty() {
            true => new,
            false => new.join(rest),
        };
        true
    }
}

/// Replaces paths in the arguments of a guest, in its working directory and in the path of its
/// QEMU. A guest may have the new path already, from an earlier update.
///
/// # Errors
///
/// If a guest has neither the old nor the new path.
pub fn replace(spec: &mut Spec, moved: &[Moved]) -> Result<(), String> {
    for one in moved {
        let mut found = one.apply_to_path(&mut spec.directory);
        found |= one.apply_to_path(&mut spec.program);
        for argument in &mut spec.arguments {
            if let Some(changed) = one.apply(argument) {
                *argument = changed;
                found = true;
            }
        }
        if !found && !one.is_done(spec) {
            return Err(format!(
                "the guest {} has no path {}: its arguments are {}",
                spec.name,
                one.old,
                spec.arguments.join(" ")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_paths_are_replaced() {
        let moved: Moved = "/srv/a/=/mnt/b".parse().unwrap();
        for (before, after) in [
            (
                "file=/srv/a/x.raw,format=raw",
                "file=/mnt/b/x.raw,format=raw",
            ),
            ("/srv/a", "/mnt/b"),
            ("unix:/srv/a,server=on", "unix:/mnt/b,server=on"),
            (r#"{"filename":"/srv/a/x"}"#, r#"{"filename":"/mnt/b/x"}"#),
            ("a=/srv/a,b=/srv/a/c", "a=/mnt/b,b=/mnt/b/c"),
        ] {
            assert_eq!(moved.apply(before).as_deref(), Some(after));
        }
        for other in ["/srv/ab", "/x/srv/a", "/srv/a.raw", "x/srv/a", "q35"] {
            assert_eq!(moved.apply(other), None, "{other}");
        }
    }

    #[test]
    fn all_paths_of_a_guest_are_replaced() {
        let arguments = vec!["-drive".to_owned(), "file=/a/b".to_owned()];
        let mut spec = Spec::new("g", "/a/qemu".into(), arguments, Vec::new()).unwrap();
        spec.directory = "/a".into();
        let moved = |text: &str| [text.parse::<Moved>().unwrap()];
        replace(&mut spec, &moved("/a=/c")).unwrap();
        assert_eq!(spec.arguments, ["-drive", "file=/c/b"]);
        assert_eq!(spec.program, PathBuf::from("/c/qemu"));
        assert_eq!(spec.directory, PathBuf::from("/c"));
        replace(&mut spec, &moved("/a=/c")).unwrap();
        assert_eq!(spec.arguments, ["-drive", "file=/c/b"]);
        let error = replace(&mut spec, &moved("/a=/d")).unwrap_err();
        assert!(error.contains("has no path /a: "), "{error}");
    }

    #[test]
    fn only_absolute_paths_can_be_replaced() {
        for bad in ["/a", "a=/b", "/a=b", "", "/=/a"] {
            bad.parse::<Moved>().unwrap_err();
        }
    }
}
