// SPDX-License-Identifier: GPL-2.0

//! Building a kernel after each patch of the series.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::ctx::Ctx;
use crate::files::{digest, write_if_changed};
use crate::kernel::build;
use crate::kernel::config::{self, Start};
use crate::kernel::flavour::Flavour;
use crate::kernel::series::{self, Repo};
use crate::kernel::source::{self, OUT_PREFIX};
use crate::kernel::tree;
use crate::report::step::Step;

/// Builds the kernel of `make run` after each patch that [`series::write`] has written. States that
/// have been built before, by this or another checkout, are skipped. Returns the first patch after
/// which the build fails.
pub fn build(ctx: &Ctx) -> Result<Option<String>> {
    let base = source::base(ctx, Flavour::Ours.series())?;
    let _lock = base.lock()?;
    let pristine = base.pristine();
    let change = tree::change(ctx, &pristine)?;
    let paths: Vec<&PathBuf> = change.files.keys().chain(&change.removed).collect();
    let repo = Repo::new(ctx, &pristine, &change)?;
    let patches = series::written(&ctx.build.join("patches"))?;

    let dir = tree::linked(&base, "each")?;
    let out = dir.join(format!("{OUT_PREFIX}each"));
    fs::create_dir_all(&out)?;
    let record = base.home.join("each.json");
    let mut built: BTreeSet<String> = match fs::read(&record) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(_) => BTreeSet::new(),
    };
    let fragments = config::fragments(ctx, Flavour::Ours)?;

    let mut step = Step::start(ctx, "a kernel after each patch");
    let count = patches.len();
    let mut skipped = 0;
    for (number, patch) in patches.iter().enumerate() {
        let name = name(patch);
        let mut am = repo.git();
        repo.must(am.args(["am", "--quiet"]).arg(patch))?;
        let state = state(&repo.dir, &paths, &fragments)?;
        if built.contains(&state) {
            skipped += 1;
            continue;
        }
        step.progress(&format!("{} of {count}, {name}", number + 1));
        for path in &paths {
            match fs::read(repo.dir.join(path)) {
                Ok(content) => drop(write_if_changed(&dir.join(path), &content)?),
                Err(_) => drop(fs::remove_file(dir.join(path))),
            }
        }
        let log = ctx.log(&format!("each-{:02}", number + 1));
        let make = || build::make(ctx, &out);
        // The options of later patches are omitted.
        config::set(&mut step, make, &out, &Start::Tiny, &fragments, &log)?;
        let outcome = step.run_with(make().arg(ctx.arch().image), &log, |step, line| {
            step.progress(&format!("{} of {count}, {name}: {line}", number + 1));
        });
        if let Err(error) = outcome {
            return Ok(Some(format!("{name}: {error:#}")));
        }
        built.insert(state);
        fs::write(&record, serde_json::to_vec(&built)?)?;
    }
    step.done(&format!("{count} patches, {skipped} built before"));
    Ok(None)
}

/// A hash of the content of `paths` under `dir` and of the configuration.
fn state(dir: &Path, paths: &[&PathBuf], fragments: &str) -> Result<String> {
    let mut parts = vec![fragments.as_bytes().to_owned()];
    for path in paths {
        parts.push(path.to_string_lossy().into_owned().into_bytes());
        // A missing file differs from an empty one.
        match fs::read(dir.join(path)) {
            Ok(content) => parts.push([b"+", content.as_slice()].concat()),
            Err(error) if error.kind() == ErrorKind::NotFound => parts.push(b"-".to_vec()),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(digest(parts.iter().map(Vec::as_slice)))
}

/// The name of a patch, with its topic.
fn name(patch: &Path) -> String {
    let topic = patch.parent().and_then(Path::file_name).unwrap_or_default();
    let file = patch.file_stem().unwrap_or_default();
    format!("{}/{}", topic.to_string_lossy(), file.to_string_lossy())
}
