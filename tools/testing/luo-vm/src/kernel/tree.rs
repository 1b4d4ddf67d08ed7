// SPDX-License-Identifier: GPL-2.0

//! The prepared tree: a base with the overlay, the hooks and the removals of this checkout.
//!
//! The contents of the tree are computed first; then only files whose content differs are
//! written, so that `make` in the tree rebuilds only changed files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::files::{digest, files, hex, write_if_changed};
use crate::kernel::patches::{self, Patch};
use crate::kernel::source::{version, Base, OUT_PREFIX};
use crate::report::step::Step;

/// Directories of the checkout that are copied over the base tree.
const OVERLAY: [&str; 10] = [
    "arch",
    "drivers",
    "kernel",
    "mm",
    "rust",
    "include",
    "lib",
    "samples",
    "virt",
    "Documentation",
];

/// Pages about the project, which do not belong to a kernel tree.
const PROJECT: &str = "Documentation/project";

/// The change that this checkout makes to a base tree.
pub struct Change {
    /// Content of every file that is new or changed.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Removed files of the base.
    pub removed: BTreeSet<PathBuf>,
}

/// A tree with the change applied.
pub struct Prepared {
    pub dir: PathBuf,
    /// The files that are new, changed or removed.
    pub files: BTreeSet<PathBuf>,
    /// A hash of the whole change.
    pub digest: String,
    /// A hash of the changes of Kconfig files.
    pub kconfig: String,
}

/// The files of the checkout that are copied over the base.
pub fn overlay(ctx: &Ctx) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for dir in OVERLAY.iter().filter(|dir| ctx.top.join(dir).is_dir()) {
        let below = files(&ctx.top.join(dir), &|_| true)?;
        let hidden = |p: &PathBuf| p.to_string_lossy().split('/').any(|n| n.starts_with('.'));
        found.extend(
            below
                .into_iter()
                .filter(|p| !hidden(p))
                .map(|p| Path::new(dir).join(p))
                .filter(|p| !p.starts_with(PROJECT)),
        );
    }
    Ok(found)
}

/// Applies the diff of `patch` to the files under `dir`; names the hunk that does not apply.
pub fn apply_hook(ctx: &Ctx, patch: &Patch, dir: &Path) -> Result<()> {
    if patch.diff.is_empty() {
        return Ok(());
    }
    let path = ctx
        .top
        .join(patches::DIR)
        .join(format!("{}.patch", patch.name));
    let output = Command::new("patch")
        .args([
            "-p1",
            "--no-backup-if-mismatch",
            "--force",
            "--fuzz=1",
            "-d",
        ])
        .arg(dir)
        .arg("-i")
        .arg(&path)
        .output()
        .context("`patch` is missing: `make doctor` says how to get it.")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        let mut file = "";
        let mut why = Vec::new();
        for line in said.lines() {
            if line.starts_with("patching file ") {
                file = line.trim_start_matches("patching file ");
            } else if line.starts_with("Hunk") && line.contains("FAILED") {
                why.push(format!("    {file}: {line}"));
            } else if line.starts_with("can't find file") {
                why.push(format!("    {line}"));
            }
        }
        let why = why.join("\n");
        bail!(
            "The patch {} does not apply to this base:\n{why}",
            ctx.shown(&path)
        );
    }
    Ok(())
}

/// Computes the change that this checkout makes to `base`.
pub fn change(ctx: &Ctx, base: &Path) -> Result<Change> {
    // Each thread has its own directory.
    let stage = format!("stage-{:?}", std::thread::current().id());
    let stage = ctx.build.join(stage);
    let _ = fs::remove_dir_all(&stage);
    let mut paths: BTreeSet<PathBuf> = overlay(ctx)?.into_iter().collect();
    let patches = patches::patches(ctx)?;
    let hooked: BTreeSet<PathBuf> = patches.iter().flat_map(|patch| patch.touched()).collect();
    for path in paths.iter().chain(&hooked) {
        let staged = stage.join(path);
        fs::create_dir_all(staged.parent().context("a path with no parent")?)?;
        let ours = ctx.top.join(path);
        let from = if paths.contains(path) {
            ours
        } else {
            base.join(path)
        };
        fs::copy(&from, &staged)
            .with_context(|| format!("the base has no {}, which a hook changes", path.display()))?;
    }
    for patch in &patches {
        apply_hook(ctx, patch, &stage)?;
    }
    paths.extend(hooked);
    let mut removed = BTreeSet::new();
    for patch in &patches {
        for path in &patch.removes {
            if !base.join(path).exists() {
                bail!(
                    "patches/{}.patch removes {}, which this base does not have.",
                    patch.name,
                    path.display()
                );
            }
            removed.insert(path.clone());
        }
    }
    let mut contents = BTreeMap::new();
    for path in paths {
        contents.insert(path.clone(), fs::read(stage.join(&path))?);
    }
    fs::remove_dir_all(&stage)?;
    Ok(Change {
        files: contents,
        removed,
    })
}

/// Creates or updates the prepared tree of `base`. The caller must hold the lock of the base.
pub fn prepare(ctx: &Ctx, base: &Base) -> Result<Prepared> {
    let step = Step::start(ctx, "prepare the tree");
    let pristine = base.pristine();
    let change = change(ctx, &pristine)?;
    let dir = linked(base, "ours")?;
    let manifest = base.home.join("ours.json");
    let before: BTreeSet<PathBuf> = match fs::read(&manifest) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(_) => BTreeSet::new(),
    };
    let now: BTreeSet<PathBuf> = change
        .files
        .keys()
        .chain(&change.removed)
        .cloned()
        .collect();
    // Written first, so that the next run restores all files after an interruption.
    let both: BTreeSet<_> = before.union(&now).collect();
    fs::write(&manifest, serde_json::to_vec(&both)?)?;

    let mut written = 0;
    for path in before.difference(&now) {
        match fs::read(pristine.join(path)) {
            Ok(content) => written += usize::from(write_if_changed(&dir.join(path), &content)?),
            Err(_) => drop(fs::remove_file(dir.join(path))),
        }
    }
    for path in &change.removed {
        let _ = fs::remove_file(dir.join(path));
    }
    for (path, content) in &change.files {
        written += usize::from(write_if_changed(&dir.join(path), content)?);
    }
    fs::write(&manifest, serde_json::to_vec(&now)?)?;
    let digest = change.digest(|_| true);
    let kconfig = change.digest(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with("Kconfig"))
    });
    step.done(&format!(
        "Linux {}, {} files of the overlay, {written} written",
        base.version,
        change.files.len()
    ));
    Ok(Prepared {
        dir,
        files: now,
        digest,
        kconfig,
    })
}

/// Applies the change to a tree of the user.
pub fn apply(ctx: &Ctx, tree: &Path) -> Result<()> {
    let version = version(tree)?;
    if !version.starts_with("7.3.") {
        bail!("KERNEL_SRC is Linux {version}; the base must be Linux 7.3.x.");
    }
    let step = Step::start(ctx, "apply");
    let change = change(ctx, tree)?;
    for path in &change.removed {
        fs::remove_file(tree.join(path))?;
    }
    for (path, content) in &change.files {
        write_if_changed(&tree.join(path), content)?;
    }
    step.done(&format!(
        "{} files written, {} removed in Linux {version}",
        change.files.len(),
        change.removed.len()
    ));
    Ok(())
}

impl Change {
    /// A hash of the content of the files that `counts` selects.
    fn digest(&self, counts: impl Fn(&Path) -> bool) -> String {
        let mut text = String::new();
        for (path, content) in self.files.iter().filter(|(path, _)| counts(path)) {
            text += &format!("{} {}\n", hex(content), path.display());
        }
        for path in &self.removed {
            text += &format!("removed {}\n", path.display());
        }
        digest([text.as_bytes()])
    }
}

/// The copy `name` of the tree of `base`, which is created if it does not exist.
pub fn linked(base: &Base, name: &str) -> Result<PathBuf> {
    let dir = base.home.join(name);
    if !dir.is_dir() {
        let tmp = base.home.join(format!(".{name}"));
        link_tree(&base.pristine(), &tmp)?;
        fs::rename(tmp, &dir)?;
    }
    Ok(dir)
}

/// A copy of the tree `from` that shares the content of its files.
fn link_tree(from: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to)?;
    let mut cp = Command::new("cp");
    cp.arg("-al");
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(OUT_PREFIX) {
            cp.arg(entry.path());
        }
    }
    if !cp.arg(to).status()?.success() {
        bail!("the tree cannot be copied to {}", to.display());
    }
    Ok(())
}
