// SPDX-License-Identifier: GPL-2.0

//! The patches of this checkout: `patches/order`, and the files that it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::files::files;

/// The directory of the patches, in the checkout.
pub const DIR: &str = "patches";

/// Patches for the maintainers of one subject.
#[derive(Debug, PartialEq)]
pub struct Topic {
    pub name: String,
    pub patches: Vec<String>,
}

/// One patch of the series.
#[derive(Debug, Default, PartialEq)]
pub struct Patch {
    /// `TOPIC/NAME`.
    pub name: String,
    /// The commit message, trailers included.
    pub message: String,
    /// Files of the overlay that belong to it; `dir/` means all files below it.
    pub files: Vec<String>,
    /// Files of the base that it removes.
    pub removes: Vec<PathBuf>,
    /// Changes of files of the base; may be empty.
    pub diff: String,
}

impl Patch {
    /// Reads the content of a patch file.
    fn parse(name: &str, text: &str) -> Result<Self> {
        let (head, diff) = match text.find("\ndiff --git ") {
            Some(at) => (&text[..at + 1], &text[at + 1..]),
            None => (text, ""),
        };
        let (message, notes) = head.split_once("\n---\n").unwrap_or((head, ""));
        let message = message
            .strip_prefix("Subject: ")
            .with_context(|| format!("patches/{name}.patch does not begin with `Subject: `."))?;
        let mut patch = Patch {
            name: name.to_owned(),
            message: message.trim().to_owned(),
            diff: diff.to_owned(),
            ..Patch::default()
        };
        for line in notes.lines().filter(|line| !line.is_empty()) {
            match line.split_once(": ") {
                Some(("Files", paths)) => patch
                    .files
                    .extend(paths.split_whitespace().map(str::to_owned)),
                Some(("Removes", path)) => patch.removes.push(path.trim().into()),
                _ => bail!("patches/{name}.patch: `{line}` is neither `Files:` nor `Removes:`."),
            }
        }
        if patch.author().is_none() {
            bail!("patches/{name}.patch has no Signed-off-by line.");
        }
        Ok(patch)
    }

    /// Name and address of the author, who signs first.
    pub fn author(&self) -> Option<(&str, &str)> {
        let lines = self.message.lines();
        let signed = lines
            .filter_map(|line| line.strip_prefix("Signed-off-by: "))
            .next()?;
        let (name, rest) = signed.split_once(" <")?;
        Some((name, rest.strip_suffix('>')?))
    }

    /// The files that the diff changes.
    pub fn touched(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.diff.lines().filter_map(|line| {
            let path = line.strip_prefix("+++ b/")?;
            Some(PathBuf::from(path.trim_end()))
        })
    }

    /// How exactly this patch names `path`: the length of the longest matching pattern.
    pub fn claims(&self, path: &Path) -> Option<usize> {
        let path = path.to_string_lossy();
        let fits = |pattern: &&String| {
            **pattern == path || (pattern.ends_with('/') && path.starts_with(pattern.as_str()))
        };
        self.files.iter().filter(fits).map(String::len).max()
    }
}

/// Reads the text of `patches/order`.
fn parse_order(text: &str) -> Result<Vec<Topic>> {
    let mut topics: Vec<Topic> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let topic = line.strip_prefix('[').and_then(|l| l.strip_suffix(']'));
        if let Some(name) = topic {
            topics.push(Topic {
                name: name.to_owned(),
                patches: Vec::new(),
            });
        } else {
            let topic = topics.last_mut();
            let topic =
                topic.with_context(|| format!("patches/order: {line} is before all topics."))?;
            topic.patches.push(format!("{}/{line}", topic.name));
        }
    }
    Ok(topics)
}

/// The topics, in the order in which they apply.
pub fn topics(ctx: &Ctx) -> Result<Vec<Topic>> {
    let text = fs::read_to_string(ctx.top.join(DIR).join("order")).context("patches/order")?;
    let topics = parse_order(&text)?;
    let listed = topics.iter().flat_map(|topic| &topic.patches);
    let listed: BTreeSet<PathBuf> = listed.map(|name| format!("{name}.patch").into()).collect();
    for path in files(&ctx.top.join(DIR), &|_| true)? {
        if path.extension().is_some_and(|e| e == "patch") && !listed.contains(&path) {
            bail!(
                "patches/{} is not in patches/order: add it to its topic.",
                path.display()
            );
        }
    }
    Ok(topics)
}

/// The patch called `name`.
pub fn patch(ctx: &Ctx, name: &str) -> Result<Patch> {
    let path = ctx.top.join(DIR).join(format!("{name}.patch"));
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "patches/order names {name}, but there is no {}.",
            ctx.shown(&path)
        )
    })?;
    Patch::parse(name, &text)
}

/// All patches, in order.
pub fn patches(ctx: &Ctx) -> Result<Vec<Patch>> {
    let topics = topics(ctx)?;
    let names = topics.iter().flat_map(|topic| &topic.patches);
    names.map(|name| patch(ctx, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Subject: rust: add x\n\nIt lacks.\n\n\
        Signed-off-by: A B <a@b>\n---\nFiles: a/b.rs c/\nRemoves: d.c\n\n\
        diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n+2\n";

    #[test]
    fn a_patch_is_a_message_notes_and_a_diff() -> Result<()> {
        let patch = Patch::parse("t/x", TEXT)?;
        assert!(patch.message.starts_with("rust: add x\n\nIt lacks."));
        assert!(patch.message.ends_with("<a@b>"));
        assert_eq!(patch.author(), Some(("A B", "a@b")));
        assert_eq!(patch.files, ["a/b.rs", "c/"]);
        assert_eq!(patch.removes, [Path::new("d.c")]);
        assert!(patch.touched().eq([PathBuf::from("x")]));
        assert_eq!(patch.claims(Path::new("c/d/e.rs")), Some(2));
        assert_eq!(patch.claims(Path::new("c")), None);
        Ok(())
    }

    #[test]
    fn what_is_wrong_with_a_patch_is_an_error() {
        for (from, to) in [
            ("Subject: ", ""),
            ("Signed-off-by: A B <a@b>", ""),
            ("Removes", "Removed"),
        ] {
            assert!(
                Patch::parse("t/x", &TEXT.replace(from, to)).is_err(),
                "{from}"
            );
        }
    }

    #[test]
    fn the_order_has_topics() -> Result<()> {
        let topics = parse_order("# c\n[kho]\na\n\n[mm]\nb\nc\n")?;
        assert_eq!(topics[0].patches, ["kho/a"]);
        assert_eq!(topics[1].patches, ["mm/b", "mm/c"]);
        assert!(parse_order("a\n").is_err());
        Ok(())
    }
}
