// SPDX-License-Identifier: GPL-2.0

//! The whole change as series of patches with messages, one series for each topic.
//!
//! `patches/order` names them; it also describes the contents of a patch.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::files::{files, write_if_changed};
use crate::kernel::patches::{self, Patch, Topic};
use crate::kernel::source::{self, Series};
use crate::kernel::tree::{self, Change};
use crate::report::step::Step;

/// The patch of each file of the overlay.
fn owners(patches: &[Patch], overlay: &[PathBuf]) -> Result<BTreeMap<String, Vec<PathBuf>>> {
    let mut owners: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in overlay {
        let claims = patches
            .iter()
            .filter_map(|patch| Some((patch.claims(path)?, patch)));
        let best = claims.max_by_key(|(exactness, _)| *exactness);
        let (_, patch) = best.with_context(|| {
            format!(
                "No patch has {}: add it to the `Files:` of one.",
                path.display()
            )
        })?;
        owners
            .entry(patch.name.clone())
            .or_default()
            .push(path.clone());
    }
    for patch in patches {
        let stale = patch.files.iter().find(|pattern| {
            let one = Patch {
                files: vec![(*pattern).clone()],
                ..Patch::default()
            };
            !overlay.iter().any(|path| one.claims(path).is_some())
        });
        if let Some(pattern) = stale {
            bail!(
                "patches/{}.patch has `Files: {pattern}`, which is not there.",
                patch.name
            );
        }
    }
    Ok(owners)
}

/// Writes the series to `build/patches`, each into a directory of its own.
pub fn write(ctx: &Ctx) -> Result<PathBuf> {
    let base = source::base(ctx, Series::V7_3)?;
    let mut step = Step::start(ctx, "write the patch series");
    let out = ctx.build.join("patches");
    let _ = fs::remove_dir_all(&out);
    let change = tree::change(ctx, &base.pristine())?;
    let repo = Repo::new(ctx, &base.pristine(), &change)?;
    let topics = patches::topics(ctx)?;
    let owners = owners(&patches::patches(ctx)?, &tree::overlay(ctx)?)?;

    let mut count = 0;
    for (number, topic) in topics.iter().enumerate() {
        repo.must(repo.git().args(["tag", "--force", "begin"]))?;
        for name in &topic.patches {
            let patch = patches::patch(ctx, name)?;
            for path in owners.get(name).into_iter().flatten() {
                write_if_changed(&repo.dir.join(path), &fs::read(ctx.top.join(path))?)?;
            }
            tree::apply_hook(ctx, &patch, &repo.dir)?;
            for path in &patch.removes {
                fs::remove_file(repo.dir.join(path))?;
            }
            let author = patch.author().context("a patch without an author")?;
            repo.commit(&patch.message, author)?;
            count += 1;
        }
        // The number gives the directories the order of the series.
        let dir = out.join(format!("{:02}-{}", number + 1, topic.name));
        fs::create_dir_all(&dir)?;
        let mut git = repo.git();
        git.args([
            "format-patch",
            "--quiet",
            "--no-signature",
            "--no-renames",
            "--zero-commit",
            "--cover-letter",
        ]);
        git.arg("-o").arg(&dir).arg("begin");
        step.run(&mut git, &ctx.log("format-patch"))?;
        cover(ctx, topic, &dir)?;
    }
    step.done(&format!(
        "{count} patches in {} series in {}",
        topics.len(),
        ctx.shown(&out)
    ));
    Ok(out)
}

/// Inserts the cover letter of `topic` into the template of git.
fn cover(ctx: &Ctx, topic: &Topic, dir: &Path) -> Result<()> {
    let path = ctx.top.join(patches::DIR).join(&topic.name).join("cover");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("The topic {} has no cover letter.", topic.name))?;
    let (subject, body) = text.split_once("\n\n").with_context(|| {
        format!(
            "{} must be a subject, an empty line and a text.",
            ctx.shown(&path)
        )
    })?;
    let letter = dir.join("0000-cover-letter.patch");
    let made = fs::read_to_string(&letter)?;
    let made = made
        .replacen("*** SUBJECT HERE ***", subject.trim(), 1)
        .replacen("*** BLURB HERE ***", body.trim(), 1);
    fs::write(letter, made)?;
    Ok(())
}

/// The patches that [`write`] has written to `out`, in order, without cover letters.
pub fn written(out: &Path) -> Result<Vec<PathBuf>> {
    let mut found = files(out, &|_| true)?;
    found.retain(|path| !path.ends_with("0000-cover-letter.patch"));
    Ok(found.into_iter().map(|path| out.join(path)).collect())
}

/// Applies the series with `git am` to the files of the base that it changes, and compares the
/// result with the prepared tree. `out` is the directory that [`write`] has returned.
pub fn check(ctx: &Ctx, out: &Path) -> Result<Option<String>> {
    let base = source::base(ctx, Series::V7_3)?.pristine();
    let change = tree::change(ctx, &base)?;
    let repo = Repo::new(ctx, &base, &change)?;
    let patches = written(out)?;
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

/// A repository with the files of the base that the patches change.
pub struct Repo {
    pub dir: PathBuf,
    date: String,
}

impl Repo {
    /// A new one in `build/series`, with the files of `base`.
    pub fn new(ctx: &Ctx, base: &Path, change: &Change) -> Result<Self> {
        let dir = ctx.build.join("series");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        // The time of the newest commit of the checkout, so that the series is reproducible.
        let mut log = Command::new("git");
        log.args(["-c", "safe.directory=*", "-C"]).arg(&ctx.top);
        let date = log.args(["log", "-1", "--format=%aI"]).output();
        let date = date.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
        let date = date.ok().filter(|date| !date.is_empty());
        let repo = Repo {
            dir,
            date: date.unwrap_or("2026-01-01T00:00:00Z".to_owned()),
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
        repo.commit("base", ("unknown", "unknown@localhost"))?;
        Ok(repo)
    }

    /// The command `git`, for this repository only.
    pub fn git(&self) -> Command {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.dir);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        for role in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{role}_NAME"), "unknown");
            git.env(format!("GIT_{role}_EMAIL"), "unknown@localhost");
            git.env(format!("GIT_{role}_DATE"), &self.date);
        }
        git
    }

    /// Runs a command of [`Repo::git`] that must succeed.
    pub fn must(&self, git: &mut Command) -> Result<()> {
        let output = git
            .output()
            .context("`git` is missing: `make doctor` says how to get it.")?;
        if !output.status.success() {
            bail!("git: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Commits everything as `author`, a name and an address.
    fn commit(&self, message: &str, (name, mail): (&str, &str)) -> Result<()> {
        self.must(self.git().args(["add", "--all", "--force", "."]))?;
        let mut git = self.git();
        git.env("GIT_AUTHOR_NAME", name)
            .env("GIT_AUTHOR_EMAIL", mail);
        git.env("GIT_COMMITTER_NAME", name)
            .env("GIT_COMMITTER_EMAIL", mail);
        self.must(git.args(["commit", "--quiet", "--message", message]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(name: &str, files: &[&str]) -> Patch {
        Patch {
            name: name.to_owned(),
            files: files.iter().map(|&file| file.to_owned()).collect(),
            ..Patch::default()
        }
    }

    #[test]
    fn the_most_exact_pattern_owns_a_file() -> Result<()> {
        let all = [patch("a", &["mm/"]), patch("b", &["mm/x/y.rs", "mm/z/"])];
        let overlay: Vec<PathBuf> = ["mm/q.rs", "mm/x/y.rs", "mm/z/1.rs"]
            .map(PathBuf::from)
            .into();
        let owners = owners(&all, &overlay)?;
        assert_eq!(owners["a"], overlay[..1]);
        assert_eq!(owners["b"], overlay[1..]);
        Ok(())
    }

    #[test]
    fn stray_files_and_stale_patterns_are_errors() {
        assert!(owners(&[patch("a", &["mm/"])], &["lib/x.c".into()]).is_err());
        assert!(owners(&[patch("a", &["mm/", "lib/"])], &["mm/x.c".into()]).is_err());
    }
}
