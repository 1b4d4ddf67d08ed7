// SPDX-License-Identifier: GPL-2.0

//! Findings of `checkpatch.pl --strict` of the base tree about the series.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use anyhow::{bail, ensure, Context, Result};

use crate::ctx::Ctx;
use crate::files::digest;
use crate::kernel::patches;
use crate::kernel::series;
use crate::kernel::source::{self, Series};
use crate::report::step::Step;

/// The accepted findings and the reasons, in the checkout.
const EXCEPTIONS: &str = "patches/checkpatch-exceptions";

/// A line of [`EXCEPTIONS`].
#[derive(Debug, PartialEq)]
struct Exception {
    kind: String,
    patches: String,
}

impl Exception {
    fn parse(line: &str) -> Result<Self> {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(kind), Some(patches), Some(_)) => Ok(Exception {
                kind: kind.to_owned(),
                patches: patches.to_owned(),
            }),
            _ => bail!("{EXCEPTIONS}: `{line}` is not a type, a patch and a reason."),
        }
    }

    fn covers(&self, patch: &str, kind: &str) -> bool {
        let named = self.patches == "*"
            || self.patches == patch
            || (self.patches.ends_with('/') && patch.starts_with(&self.patches));
        named && self.kind == kind
    }
}

/// The type in a line such as `a.patch:7: WARNING:LONG_LINE: line length of 101 exceeds 100`.
fn kind(line: &str) -> Option<&str> {
    let (_, rest) = ["ERROR:", "WARNING:", "CHECK:"]
        .iter()
        .find_map(|level| line.split_once(&format!(": {level}")))?;
    Some(rest.split(':').next().unwrap_or(rest))
}

/// Runs checkpatch on `patch`; returns its findings, a line each.
fn run(script: &Path, root: &Path, patch: &Path) -> Result<Vec<String>> {
    let output = Command::new("perl")
        .arg(script)
        .args(["--strict", "--terse", "--show-types", "--no-summary"])
        .arg(format!("--root={}", root.display()))
        .arg(patch)
        .current_dir(root)
        .output()
        .context("`perl` is missing: `make doctor` says how to get it.")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found: Vec<String> = text
        .lines()
        .filter(|line| kind(line).is_some())
        .map(str::to_owned)
        .collect();
    ensure!(
        output.status.success() || !found.is_empty(),
        "checkpatch.pl: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(found)
}

/// The findings about each of `patches`. Results of earlier runs are cached in `build/`.
fn findings(ctx: &Ctx, patches: &[PathBuf]) -> Result<Vec<Vec<String>>> {
    let base = source::base(ctx, Series::V7_3)?.pristine();
    let script = base.join("scripts/checkpatch.pl");
    let tool = fs::read(&script)?;
    let store = ctx.build.join("checkpatch.json");
    let known: BTreeMap<String, Vec<String>> = match fs::read(&store) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(_) => BTreeMap::new(),
    };
    let mut keys = Vec::new();
    for patch in patches {
        // The date of the newest commit.
        let text = fs::read_to_string(patch)?;
        let text: Vec<&str> = text.lines().filter(|l| !l.starts_with("Date: ")).collect();
        keys.push(digest([tool.as_slice(), text.join("\n").as_bytes()]));
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..ctx.jobs {
            scope.spawn(|| loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let (Some(patch), Some(key)) = (patches.get(index), keys.get(index)) else {
                    return;
                };
                let found = match known.get(key) {
                    Some(found) => Ok(found.clone()),
                    None => run(&script, &base, patch),
                };
                match found {
                    Ok(found) => drop(results.lock().map(|mut r| r.insert(key.clone(), found))),
                    Err(error) => drop(failure.lock().map(|mut f| f.replace(error))),
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().ok().flatten() {
        return Err(error);
    }
    let results = results.into_inner().unwrap_or_default();
    fs::write(&store, serde_json::to_vec(&results)?)?;
    let all = keys.iter().map(|key| results.get(key).cloned());
    all.collect::<Option<_>>()
        .context("checkpatch.pl has not seen all patches")
}

/// Checks the series in `out`, which [`series::write`] has written.
pub fn check(ctx: &Ctx, out: &Path) -> Result<Option<String>> {
    let topics = patches::topics(ctx)?;
    let names: Vec<&String> = topics.iter().flat_map(|topic| &topic.patches).collect();
    let written = series::written(out)?;
    ensure!(names.len() == written.len(), "the series has other patches");
    let exceptions = fs::read_to_string(ctx.top.join(EXCEPTIONS)).context(EXCEPTIONS)?;
    let exceptions: Vec<Exception> = exceptions
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(Exception::parse)
        .collect::<Result<_>>()?;

    let step = Step::start(ctx, "checkpatch");
    let mut used = BTreeSet::new();
    let mut bad = Vec::new();
    for (name, found) in names.iter().zip(findings(ctx, &written)?) {
        for line in found {
            let kind = kind(&line).unwrap_or_default();
            match exceptions.iter().position(|e| e.covers(name, kind)) {
                Some(index) => drop(used.insert(index)),
                None => {
                    let text = line.split_once(".patch:").map_or(&*line, |(_, text)| text);
                    bad.push(format!("{name}:{text}"));
                }
            }
        }
    }
    for (index, exception) in exceptions.iter().enumerate() {
        if !used.contains(&index) {
            bad.push(format!(
                "{EXCEPTIONS}: {} {} is no longer needed; remove it.",
                exception.kind, exception.patches
            ));
        }
    }
    step.done(&format!("{} patches", written.len()));
    Ok((!bad.is_empty()).then(|| bad.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_have_types() {
        let line = "/x/0001-a.patch:7: WARNING:LONG_LINE: line length of 101 exceeds 100 columns";
        assert_eq!(kind(line), Some("LONG_LINE"));
        assert_eq!(kind("total: 0 errors, 1 warnings, 7 lines checked"), None);
    }

    #[test]
    fn exceptions_have_a_reason_and_a_place() -> Result<()> {
        let exception = Exception::parse("LONG_LINE rust/ because")?;
        assert!(exception.covers("rust/kho", "LONG_LINE"));
        assert!(!exception.covers("mm/kho", "LONG_LINE"));
        assert!(!exception.covers("rust/kho", "LINE_SPACING"));
        assert!(Exception::parse("LONG_LINE *")
            .is_err_and(|error| error.to_string().contains("reason")));
        Ok(())
    }
}
