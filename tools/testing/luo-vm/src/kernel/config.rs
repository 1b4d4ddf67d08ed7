// SPDX-License-Identifier: GPL-2.0

//! Configuring kernels: fragments on top of `tinyconfig`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::kernel::flavour::Flavour;
use crate::kernel::key;
use crate::report::step::Step;

/// Options that `make menuconfig` has set, on top of the tracked ones.
pub const LOCAL: &str = "local.config";

/// The text of the fragments of `flavour`, and of `local.config` for kernels with the overlay.
pub fn fragments(ctx: &Ctx, flavour: Flavour) -> Result<String> {
    let mut all = tracked(ctx, flavour)?;
    let local = ctx.top.join(LOCAL);
    if flavour.is_ours() && local.exists() {
        all += &fs::read_to_string(&local).with_context(|| ctx.shown(&local))?;
    }
    Ok(all)
}

/// The text of the tracked fragments of `flavour`: after each, what the architecture adds to it.
pub fn tracked(ctx: &Ctx, flavour: Flavour) -> Result<String> {
    let dir = ctx.top.join("tools/testing/luo-vm/configs");
    let arch = ctx.arch();
    let mut all = String::new();
    let names = flavour.fragments().iter();
    for name in names.filter(|name| !arch.without.contains(name)) {
        let common = dir.join(name).with_extension("config");
        all += &fs::read_to_string(&common).with_context(|| ctx.shown(&common))?;
        let own = dir.join(arch.name).join(name).with_extension("config");
        if own.exists() {
            all += &fs::read_to_string(&own).with_context(|| ctx.shown(&own))?;
        }
    }
    Ok(all)
}

/// Configures `out`: tinyconfig and the fragments on top of it. `make` runs targets there.
pub fn configure(
    ctx: &Ctx,
    flavour: Flavour,
    make: impl Fn() -> Command,
    out: &Path,
    fragments: &str,
) -> Result<()> {
    let mut step = Step::start(ctx, format!("configure {}", flavour.name()));
    let config = out.join(".config");
    let before = fs::read(&config).ok();
    let log = ctx.log(&format!("configure-{}", flavour.name()));
    set(&mut step, make, out, fragments, &log)?;

    let got = fs::read_to_string(&config)?;
    let missing = missing(fragments, &got);
    if !missing.is_empty() {
        bail!(
            "The kernel {} cannot be configured: Kconfig did not accept {}.",
            flavour.name(),
            missing.join(", ")
        );
    }
    if before.is_some_and(|before| before == got.as_bytes()) {
        step.done("unchanged");
    } else {
        step.done("");
    }
    Ok(())
}

/// Configures `out`, and omits options that Kconfig does not have or cannot set. Makes the key that
/// they name.
pub fn set(
    step: &mut Step<'_>,
    make: impl Fn() -> Command,
    out: &Path,
    fragments: &str,
    log: &Path,
) -> Result<()> {
    let config = out.join(".config");
    key::make(step, out, log)?;
    step.run(make().arg("tinyconfig"), log)?;
    let mut text = fs::read_to_string(&config)?;
    text += fragments;
    fs::write(&config, text)?;
    step.run(make().arg("olddefconfig"), log)
}

/// The options of `fragments` that `config` does not have as requested; the last request applies.
pub fn missing<'a>(fragments: &'a str, config: &str) -> Vec<&'a str> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for line in fragments.lines() {
        if let Some((name, value)) = line
            .split_once('=')
            .filter(|(n, _)| n.starts_with("CONFIG_"))
        {
            wanted.retain(|(other, _)| *other != name);
            wanted.push((name, value));
        }
    }
    let has = |name: &str, value: &str| match value {
        "n" => !config
            .lines()
            .any(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with('='))),
        _ => config
            .lines()
            .any(|l| l.split_once('=') == Some((name, value))),
    };
    wanted
        .into_iter()
        .filter(|(name, value)| !has(name, value))
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_options_are_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=8\n";
        assert!(missing("CONFIG_A=y\nCONFIG_B=n\nCONFIG_N=8\n", config).is_empty());
        assert_eq!(
            missing("CONFIG_A=n\nCONFIG_B=y\n", config),
            ["CONFIG_A", "CONFIG_B"]
        );
        assert!(missing("CONFIG_B=y\nCONFIG_B=n\n", config).is_empty());
    }
}
