// SPDX-License-Identifier: GPL-2.0

//! `make menuconfig`: selects options in the menu of Kconfig.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::kernel::build;
use crate::kernel::config::{self, Start, LOCAL};
use crate::kernel::flavour::Flavour;
use crate::kernel::source::{self, OUT_PREFIX};
use crate::kernel::tree;

/// Shows the menu of the kernel `flavour`, and writes the selection to `local.config`, which
/// applies to all later builds of kernels with the overlay.
pub fn run(ctx: &Ctx, flavour: Flavour) -> Result<()> {
    if !flavour.is_ours() {
        bail!(
            "local.config only applies to kernels with the overlay, and {} is not one of them.",
            flavour.name()
        );
    }
    let base = source::base(ctx, flavour.series())?;
    let _lock = base.lock()?;
    let prepared = tree::prepare(ctx, &base)?;
    let out = prepared.dir.join(format!("{OUT_PREFIX}menu"));
    fs::create_dir_all(&out)?;
    let make = || build::make(ctx, &out);

    // The configuration without local.config.
    let start = Start::of(ctx, flavour)?;
    let configure = |fragments: String| {
        let make = || build::make(ctx, &out);
        config::configure(ctx, flavour, make, &out, &start, &fragments)
    };
    configure(config::tracked(ctx, flavour)?)?;
    let before = minimal(ctx, &out)?;
    configure(config::fragments(ctx, flavour)?)?;
    let kconfig = ctx.top.join("Kconfig");
    let status = make()
        .arg("menuconfig")
        .arg(format!("KBUILD_KCONFIG={}", kconfig.display()))
        .status()
        .context("`make` is missing: `make doctor` says how to get it.")?;
    if !status.success() {
        bail!("The menu ended with an error ({status}); local.config is unchanged.");
    }
    let after = minimal(ctx, &out)?;

    let file = ctx.top.join(LOCAL);
    let lines = difference(&before, &after, &fs::read_to_string(out.join(".config"))?);
    if lines.is_empty() {
        let _ = fs::remove_file(&file);
        println!(
            "Nothing differs from the tracked configuration of {}.",
            flavour.name()
        );
        return Ok(());
    }
    fs::write(&file, lines.concat())?;
    println!(
        "{} has {} options. All kernels with the overlay are built with them until it is removed.",
        ctx.shown(&file),
        lines.len()
    );
    Ok(())
}

/// The minimal configuration of `out`.
fn minimal(ctx: &Ctx, out: &Path) -> Result<String> {
    let output = build::make(ctx, out).arg("savedefconfig").output()?;
    if !output.status.success() {
        bail!(
            "`make savedefconfig` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(fs::read_to_string(out.join("defconfig"))?)
}

/// The options of a configuration and their values.
fn options(config: &str) -> BTreeMap<&str, &str> {
    config
        .lines()
        .filter_map(|line| {
            let unset = line
                .strip_prefix("# ")
                .and_then(|line| line.strip_suffix(" is not set"));
            unset.map(|name| (name, "n")).or_else(|| {
                line.split_once('=')
                    .filter(|(name, _)| name.starts_with("CONFIG_"))
            })
        })
        .collect()
}

/// The lines of a fragment that changes `before` to `after`. Both are minimal configurations;
/// the value of an option that is missing in `after` is taken from the full configuration
/// `full`.
fn difference(before: &str, after: &str, full: &str) -> Vec<String> {
    let (before, after, full) = (options(before), options(after), options(full));
    let mut lines = BTreeMap::new();
    for (name, value) in &after {
        if before.get(name) != Some(value) {
            lines.insert(*name, *value);
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        lines.insert(name, full.get(name).copied().unwrap_or("n"));
    }
    lines
        .into_iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen() {
        let before = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=8\nCONFIG_GONE=y\n";
        let after = "CONFIG_A=y\nCONFIG_C=y\nCONFIG_N=16\n# CONFIG_D is not set\n";
        // B has its default value; GONE does not exist any more.
        let full = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_N=16\n# CONFIG_D is not set\n";
        assert_eq!(
            difference(before, after, full),
            [
                "CONFIG_B=y\n",
                "CONFIG_C=y\n",
                "CONFIG_D=n\n",
                "CONFIG_GONE=n\n",
                "CONFIG_N=16\n"
            ]
        );
        assert!(difference(before, before, full).is_empty());
    }
}
