// SPDX-License-Identifier: GPL-2.0

//! The whole change as a series of patches with messages.
//!
//! Each file under `patches/series/` is one patch: its commit message, and at the end what it
//! consists of, as trailers: `Files:` (paths of the overlay; `dir/` means everything below it),
//! `Hooks:` (files in `patches/`), `Removed:` (paths that `patches/removed` names). Without a
//! message it is that of the first hook.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::files::{files, write_if_changed};
use crate::kernel::source::{self, Series};
use crate::kernel::tree::{self, Change};
use crate::report::step::Step;

/// One patch of the series.
#[derive(Debug, Default, PartialEq)]
struct Part {
    message: String,
    files: Vec<String>,
    hooks: Vec<String>,
    removed: Vec<String>,
}

impl Part {
    fn parse(text: &str) -> Self {
        let mut part = Part::default();
        for line in text.lines() {
            let trailer = line.split_once(": ");
            let list = match trailer.map(|(key, _)| key) {
                Some("Files") => &mut part.files,
                Some("Hooks") => &mut part.hooks,
                Some("Removed") => &mut part.removed,
                _ => {
                    part.message += line;
                    part.message.push('\n');
                    continue;
                }
            };
            let values = trailer.map_or("", |(_, values)| values);
            list.extend(values.split_whitespace().map(str::to_owned));
        }
        part.message.truncate(part.message.trim_end().len());
        part
    }
}

/// The commit message at the head of a patch file.
fn hook_message(patch: &str) -> Option<String> {
    let head = patch
        .lines()
        .take_while(|line| *line != "---" && !line.starts_with("diff "));
    let text = head.collect::<Vec<_>>().join("\n");
    let subject = text.find("Subject: ")? + "Subject: ".len();
    Some(text[subject..].trim().to_owned())
}

fn claims(pattern: &str, path: &Path) -> bool {
    let path = path.to_string_lossy();
    pattern == path || (pattern.ends_with('/') && path.starts_with(pattern))
}

/// Writes the series to `build/patches`.
pub fn write(ctx: &Ctx) -> Result<PathBuf> {
    let base = source::base(ctx, Series::V7_3)?;
    let mut step = Step::start(ctx, "write the patch series");
    let out = ctx.build.join("patches");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out)?;
    let change = tree::change(ctx, &base.pristine())?;
    let repo = Repo::new(ctx, &base.pristine(), &change)?;
    let parts = files(&ctx.top.join("patches/series"), &|_| false)?;
    let mut left: BTreeSet<PathBuf> = tree::overlay(ctx)?.into_iter().collect();
    let mut hooks: BTreeSet<PathBuf> = tree::hooks(ctx)?.into_iter().collect();
    let mut removed = change.removed.clone();

    for name in parts {
        let part = Part::parse(&fs::read_to_string(
            ctx.top.join("patches/series").join(&name),
        )?);
        for pattern in &part.files {
            let claimed: Vec<_> = left
                .iter()
                .filter(|p| claims(pattern, p))
                .cloned()
                .collect();
            if claimed.is_empty() {
                bail!(
                    "patches/series/{} names {pattern}, which is not there.",
                    name.display()
                );
            }
            for path in claimed {
                left.remove(&path);
                write_if_changed(&repo.dir.join(&path), &fs::read(ctx.top.join(&path))?)?;
            }
        }
        for hook in &part.hooks {
            if !hooks.remove(Path::new(hook)) {
                bail!(
                    "patches/series/{} names {hook}, which is not there.",
                    name.display()
                );
            }
            tree::apply_hook(ctx, Path::new(hook), &repo.dir)?;
        }
        for path in &part.removed {
            if !removed.remove(Path::new(path)) {
                bail!(
                    "patches/series/{} removes {path}, patches/removed does not.",
                    name.display()
                );
            }
            fs::remove_file(repo.dir.join(path))?;
        }
        let message = match part.hooks.first().filter(|_| part.message.is_empty()) {
            Some(hook) => hook_message(&fs::read_to_string(ctx.top.join("patches").join(hook))?),
            None => Some(part.message).filter(|message| !message.is_empty()),
        };
        let message = message
            .with_context(|| format!("patches/series/{} has no commit message.", name.display()))?;
        repo.commit(&message)?;
    }
    if let Some(path) = left.iter().chain(&hooks).chain(&removed).next() {
        bail!("No part of patches/series claims {}.", path.display());
    }
    let mut git = repo.git();
    git.args([
        "format-patch",
        "--quiet",
        "--no-signature",
        "--no-renames",
        "--zero-commit",
    ]);
    git.arg("-o").arg(&out).arg("base");
    step.run(&mut git, &ctx.log("format-patch"))?;
    let count = fs::read_dir(&out)?.count();
    step.done(&format!("{count} patches in {}", ctx.shown(&out)));
    Ok(out)
}

/// Applies the series with `git am` to the files of the base that it changes, and compares the
/// outcome with the prepared tree.
pub fn check(ctx: &Ctx) -> Result<Option<String>> {
    let series = write(ctx)?;
    let base = source::base(ctx, Series::V7_3)?.pristine();
    let change = tree::change(ctx, &base)?;
    let repo = Repo::new(ctx, &base, &change)?;
    let mut patches: Vec<PathBuf> = fs::read_dir(&series)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    patches.sort();
    let am = repo.git().args(["am", "--quiet"]).args(&patches).output()?;
    if !am.status.success() {
        return Ok(Some(String::from_utf8_lossy(&am.stderr).into_owned()));
    }
    let differs =
        |path: &&PathBuf| fs::read(repo.dir.join(path)).ok().as_ref() != change.files.get(*path);
    if let Some(path) = change.files.keys().find(differs) {
        return Ok(Some(format!(
            "after git am, {} is not as prepared",
            path.display()
        )));
    }
    let there = change
        .removed
        .iter()
        .find(|path| repo.dir.join(path).exists());
    Ok(there.map(|path| format!("after git am, {} is still there", path.display())))
}

/// A repository with those files of the base that the change touches.
struct Repo {
    dir: PathBuf,
    author: String,
    mail: String,
    date: String,
}

impl Repo {
    fn new(ctx: &Ctx, base: &Path, change: &Change) -> Result<Self> {
        let dir = ctx.build.join("series");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        // The author and the time of the newest commit of the checkout.
        let last = |format: &str, or: &str| -> String {
            let mut git = Command::new("git");
            git.args(["-c", "safe.directory=*", "-C"]).arg(&ctx.top);
            let out = git
                .args(["log", "-1", &format!("--format={format}")])
                .output();
            let said = out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
            said.ok()
                .filter(|said| !said.is_empty())
                .unwrap_or(or.to_owned())
        };
        let repo = Repo {
            dir,
            author: last("%an", "unknown"),
            mail: last("%ae", "unknown@localhost"),
            date: last("%aI", "2026-01-01T00:00:00Z"),
        };
        repo.must(
            repo.git()
                .args(["init", "--quiet", "--initial-branch=main", "."]),
        )?;
        for path in change.files.keys().chain(&change.removed) {
            if let Ok(content) = fs::read(base.join(path)) {
                write_if_changed(&repo.dir.join(path), &content)?;
            }
        }
        repo.commit("base")?;
        repo.must(repo.git().args(["tag", "base"]))?;
        Ok(repo)
    }

    fn git(&self) -> Command {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.dir);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), &self.author);
            git.env(format!("GIT_{who}_EMAIL"), &self.mail);
            git.env(format!("GIT_{who}_DATE"), &self.date);
        }
        git
    }

    fn must(&self, git: &mut Command) -> Result<()> {
        let output = git
            .output()
            .context("`git` is missing: `make doctor` says how to get it.")?;
        if !output.status.success() {
            bail!("git: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn commit(&self, message: &str) -> Result<()> {
        self.must(self.git().args(["add", "--all", "--force", "."]))?;
        self.must(self.git().args(["commit", "--quiet", "--message", message]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_message_with_trailers() {
        let part =
            Part::parse("rust: add x\n\nBecause: it helps.\n\nFiles: a/b.rs c/\nHooks: 1.patch\n");
        assert_eq!(part.message, "rust: add x\n\nBecause: it helps.");
        assert_eq!(part.files, ["a/b.rs", "c/"]);
        assert_eq!(part.hooks, ["1.patch"]);
        let hook = "Subject: rust: y\n\nWhy.\n---\ndiff --git a/x b/x\n";
        assert_eq!(hook_message(hook).as_deref(), Some("rust: y\n\nWhy."));
        assert!(claims("c/", Path::new("c/d/e.rs")) && !claims("c", Path::new("c/d")));
    }
}
