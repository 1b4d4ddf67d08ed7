// SPDX-License-Identifier: GPL-2.0

//! The pages of the overlay in `Documentation/`, built by the base's `make htmldocs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::files::digest;
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::kernel::source::{self, OUT_PREFIX};
use crate::kernel::tree;
use crate::report::step::Step;

/// Directories of `Documentation/` with pages of the overlay. Sphinx reads each of them
/// completely.
const DIRS: [&str; 4] = ["admin-guide/liveupdate", "core-api", "mm", "userspace-api"];

/// The list of packages for building pages.
const REQUIREMENTS: &str = "tools/testing/luo-vm/sphinx-requirements.txt";

/// Builds the pages into `build/html`. Returns true if Sphinx and kernel-doc have no warnings
/// about files of the overlay.
pub fn html(ctx: &Ctx) -> Result<bool> {
    let sphinx = sphinx(ctx)?;
    let base = source::base(ctx, Flavour::Ours.series())?;
    let _lock = base.lock()?;
    let prepared = tree::prepare(ctx, &base)?;
    let out = prepared.dir.join(format!("{OUT_PREFIX}html"));
    fs::create_dir_all(&out)?;
    let html = ctx.build.join("html");

    let mut step = Step::start(ctx, "pages of Documentation/ (several minutes)");
    let mut make = build::make(ctx, &out);
    make.arg("htmldocs")
        .arg(format!("SPHINXDIRS={}", DIRS.join(" ")))
        .arg(format!("BUILDDIR={}", html.display()));
    let path = std::env::var("PATH").unwrap_or_default();
    make.env("PATH", format!("{}:{path}", sphinx.join("bin").display()));
    let log = ctx.log("htmldocs");
    let mut pages = 0;
    step.run_with(&mut make, &log, |step, line| {
        pages += 1;
        step.progress(&format!("{pages} lines of output, {line}"));
    })?;

    let ours = &prepared.files;
    let pages = prepared.dir.join("Documentation");
    let labels = labels(&pages, ours)?;
    let known = |reference: Reference<'_>| match reference {
        Reference::Page(page) => pages
            .join(format!("{}.rst", page.trim_start_matches('/')))
            .exists(),
        Reference::Label(label) => labels.contains(label),
    };
    let said = warnings(&fs::read_to_string(&log)?, ours, &known);
    step.done(&format!(
        "{} warnings about files of the overlay",
        said.len()
    ));
    for line in &said {
        println!("{line}");
    }
    println!("{}", ctx.shown(&html));
    Ok(said.is_empty())
}

/// Sphinx, in a virtual environment of Python.
fn sphinx(ctx: &Ctx) -> Result<PathBuf> {
    let list = ctx.top.join(REQUIREMENTS);
    let name = &digest([fs::read(&list)?.as_slice()])[..12];
    let dir = ctx.cache.join(format!("sphinx-{name}"));
    let complete = dir.join("complete");
    if !complete.exists() {
        let mut step = Step::start(ctx, "Sphinx from PyPI");
        let log = ctx.log("sphinx");
        let _ = fs::remove_dir_all(&dir);
        step.run(Command::new("python3").args(["-m", "venv"]).arg(&dir), &log)?;
        let mut pip = Command::new(dir.join("bin/pip"));
        pip.args(["install", "--no-input", "-r"]).arg(&list);
        step.run(&mut pip, &log)?;
        fs::write(&complete, "")?;
        step.done("");
    }
    Ok(dir)
}

/// The labels that pages of the overlay define.
fn labels(pages: &Path, ours: &BTreeSet<PathBuf>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for file in ours {
        let Ok(page) = file.strip_prefix("Documentation") else {
            continue;
        };
        if page.extension().is_none_or(|extension| extension != "rst") {
            continue;
        }
        let page = pages.join(page);
        // The file may be removed by a patch.
        if !page.exists() {
            continue;
        }
        let text = fs::read_to_string(page)?;
        let label = |line: &str| {
            let name = line.trim().strip_prefix(".. _")?.strip_suffix(':')?;
            Some(name.to_lowercase())
        };
        found.extend(text.lines().filter_map(label));
    }
    Ok(found)
}

/// A reference of a page.
enum Reference<'a> {
    /// Another page.
    Page(&'a str),
    /// A label.
    Label(&'a str),
}

impl<'a> Reference<'a> {
    /// The unresolved reference in a warning of Sphinx, if it is about one.
    fn missing(said: &'a str) -> Option<Self> {
        let name = |begin| said.strip_prefix(begin)?.split('\'').next();
        name("unknown document: '")
            .or_else(|| name("toctree contains reference to nonexisting document '"))
            .map(Self::Page)
            .or_else(|| name("undefined label: '").map(Self::Label))
    }
}

/// The warnings in a log of Sphinx about files of the overlay. References to `known` targets,
/// which are only missing in this run, are ignored.
fn warnings(
    log: &str,
    ours: &BTreeSet<PathBuf>,
    known: &dyn Fn(Reference<'_>) -> bool,
) -> Vec<String> {
    let mut found = BTreeSet::new();
    for line in log.lines() {
        let Some((place, what)) = ["WARNING: ", "ERROR: ", "Warning: ", "Error: "]
            .iter()
            .find_map(|kind| line.split_once(kind))
        else {
            continue;
        };
        let about = |file: &PathBuf| place.contains(&*file.to_string_lossy());
        if !ours.iter().any(|file| about(file) || in_line(what, file)) {
            continue;
        }
        if Reference::missing(what).is_some_and(known) {
            continue;
        }
        found.insert(line.to_owned());
    }
    found.into_iter().collect()
}

/// Returns whether a message of kernel-doc begins with a file: it prints the kind of the
/// message first.
fn in_line(what: &str, file: &Path) -> bool {
    what.strip_prefix("./")
        .unwrap_or(what)
        .starts_with(&*file.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_us() {
        let ours = ["Documentation/mm/memfd.rst", "kernel/luo.c"];
        let ours = ours.iter().map(PathBuf::from).collect();
        let known = |reference: Reference<'_>| match reference {
            Reference::Page(page) => page == "arch/x86/boot",
            Reference::Label(label) => label == "luo",
        };
        let log = "reading sources... [ 50%] memfd\n\
            /cache/t/Documentation/mm/memfd.rst:7: WARNING: Title underline too short.\n\
            /cache/t/Documentation/mm/memfd.rst:9: WARNING: unknown document: 'arch/x86/boot' [ref.doc]\n\
            /cache/t/Documentation/mm/memfd.rst:9: WARNING: unknown document: 'arch/x86/boat' [ref.doc]\n\
            /cache/t/Documentation/mm/memfd.rst:9: WARNING: undefined label: 'luo' [ref.ref]\n\
            /cache/t/Documentation/mm/other.rst:7: WARNING: Title underline too short.\n\
            WARNING: kernel/luo.c:12 function parameter 'x' not described in 'f'\n\
            WARNING: kernel/other.c:12 function parameter 'x' not described in 'f'\n";
        let said = warnings(log, &ours, &known);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said.iter().all(|line| !line.contains("other")));
        assert!(said
            .iter()
            .all(|line| !line.contains("boot") && !line.contains("'luo'")));
    }
}
