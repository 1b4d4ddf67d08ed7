// SPDX-License-Identifier: GPL-2.0

//! Configuring kernels: fragments on top of `tinyconfig`, or of a configuration of Debian.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::kernel::flavour::Flavour;
use crate::kernel::key;
use crate::kernel::source;
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

/// The directory with parts of configurations.
fn dir(ctx: &Ctx) -> PathBuf {
    ctx.top.join("tools/testing/luo-vm/configs")
}

/// The text of the tracked fragments of `flavour`: after each, what the architecture adds to it.
pub fn tracked(ctx: &Ctx, flavour: Flavour) -> Result<String> {
    let dir = dir(ctx);
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

/// What the fragments of a kernel are added to.
pub enum Start {
    /// `tinyconfig`.
    Tiny,
    /// A configuration of Debian.
    Debian {
        text: String,
        /// Whether all its modules are built.
        whole: bool,
    },
}

impl Start {
    /// That of `flavour`. Debian's is fetched from the archive, unless it is in the cache.
    pub fn of(ctx: &Ctx, flavour: Flavour) -> Result<Self> {
        let Some(name) = flavour.debian() else {
            return Ok(Start::Tiny);
        };
        let package = format!("linux-config-{}", flavour.series().number());
        let deb = source::download(ctx, &package)?;
        let file = format!("./usr/src/{package}/config.{name}.xz");
        let mut unpack = Command::new("sh");
        unpack.args(["-c", UNPACK, "sh"]).arg(&deb).arg(&file);
        let output = unpack.output().context("sh")?;
        let text = String::from_utf8(output.stdout).with_context(|| file.clone())?;
        if !output.status.success() || text.is_empty() {
            bail!(
                "{} has no {file}: {}",
                ctx.shown(&deb),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let Some(modules) = flavour.modules() else {
            return Ok(Start::Debian { text, whole: true });
        };
        let list = dir(ctx).join(modules);
        let list = fs::read_to_string(&list).with_context(|| ctx.shown(&list))?;
        Ok(Start::Debian {
            text: with_modules(&text, &list),
            whole: false,
        })
    }

    /// Its text; empty for `tinyconfig`, which is part of the kernel.
    pub fn text(&self) -> &str {
        match self {
            Start::Tiny => "",
            Start::Debian { text, .. } => text,
        }
    }

    /// The options that are lost: see [`lost`].
    fn lost(&self, fragments: &str, config: &str) -> Vec<&str> {
        match self {
            Start::Tiny => Vec::new(),
            Start::Debian { text, whole } => lost(text, fragments, config, *whole),
        }
    }
}

/// Turns those modules off that are not in `list`, which has an option in a line.
fn with_modules(text: &str, list: &str) -> String {
    let wanted: BTreeSet<&str> = list.lines().collect();
    let mut all = String::new();
    for line in text.lines() {
        match line.strip_suffix("=m") {
            Some(name) if !wanted.contains(name) => all += &format!("# {name} is not set\n"),
            _ => all += &format!("{line}\n"),
        }
    }
    all
}

/// Prints the compressed file $2 of the package $1.
const UNPACK: &str = r#"dpkg-deb --fsys-tarfile "$1" | tar -xO "$2" | xz -d"#;

/// Configures `out`: what the kernel starts with, and the fragments on top of it. `make` runs targets
/// there.
pub fn configure(
    ctx: &Ctx,
    flavour: Flavour,
    make: impl Fn() -> Command,
    out: &Path,
    start: &Start,
    fragments: &str,
) -> Result<()> {
    let mut step = Step::start(ctx, format!("configure {}", flavour.name()));
    let config = out.join(".config");
    let before = fs::read(&config).ok();
    let log = ctx.log(&format!("configure-{}", flavour.name()));
    set(&mut step, make, out, start, fragments, &log)?;

    let got = fs::read_to_string(&config)?;
    let missing = missing(fragments, &got);
    if !missing.is_empty() {
        bail!(
            "The kernel {} cannot be configured: Kconfig did not accept {}.",
            flavour.name(),
            missing.join(", ")
        );
    }
    let lost = start.lost(fragments, &got);
    if !lost.is_empty() {
        bail!(
            "The kernel {} has lost options of Debian's configuration, which its fragments do not \
             name: {}.",
            flavour.name(),
            lost.join(", ")
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
    start: &Start,
    fragments: &str,
    log: &Path,
) -> Result<()> {
    let config = out.join(".config");
    key::make(step, out, log)?;
    let mut text = match start {
        Start::Tiny => {
            step.run(make().arg("tinyconfig"), log)?;
            fs::read_to_string(&config)?
        }
        Start::Debian { text, .. } => text.clone(),
    };
    text += fragments;
    fs::write(&config, text)?;
    step.run(make().arg("olddefconfig"), log)
}

/// The names and values of the options that are set in `text`.
fn options(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| name.starts_with("CONFIG_"))
}

/// The options that `start` has in the kernel or in a module, and `config` does not have, or not in
/// the kernel any more. Those that `fragments` names are left out. Unless `start` is `whole`, so are
/// those that cannot be set any more, since they depend on a module that is turned off.
fn lost<'a>(start: &'a str, fragments: &str, config: &str, whole: bool) -> Vec<&'a str> {
    let off: BTreeSet<&str> = config
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.strip_suffix(" is not set"))
        .collect();
    let named: BTreeSet<&str> = options(fragments).map(|(name, _)| name).collect();
    let got: BTreeMap<&str, &str> = options(config).collect();
    options(start)
        .filter(|(name, value)| {
            let kept = match (*value, got.get(name).copied()) {
                ("y", value) => value == Some("y"),
                ("m", value) => matches!(value, Some("y" | "m")),
                _ => true,
            };
            let counts = whole || off.contains(name) || got.contains_key(name);
            !kept && counts && !named.contains(name)
        })
        .map(|(name, _)| name)
        .collect()
}

/// The options of `fragments` that `config` does not have as requested; the last request applies.
pub fn missing<'a>(fragments: &'a str, config: &str) -> Vec<&'a str> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (name, value) in options(fragments) {
        wanted.retain(|(other, _)| *other != name);
        wanted.push((name, value));
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
    fn lost_options_are_named() {
        let start =
            "CONFIG_A=y\nCONFIG_B=m\nCONFIG_C=m\nCONFIG_D=y\nCONFIG_E=y\n# CONFIG_F is not set\n\
            CONFIG_G=5\n";
        let fragments = "# why\nCONFIG_E=n\n";
        let config = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D=y\nCONFIG_G=6\n";
        assert!(lost(start, fragments, config, true).is_empty());
        let config = "CONFIG_A=m\nCONFIG_B=m\n# CONFIG_C is not set\n";
        let expected = ["CONFIG_A", "CONFIG_C", "CONFIG_D"];
        assert_eq!(lost(start, fragments, config, true), expected);
        assert_eq!(lost(start, fragments, config, false), expected[..2]);
    }

    #[test]
    fn other_modules_are_turned_off() {
        let text = "CONFIG_A=y\nCONFIG_B=m\nCONFIG_BC=m\n# CONFIG_D is not set\n";
        assert_eq!(
            with_modules(text, "# why\nCONFIG_B\n"),
            "CONFIG_A=y\nCONFIG_B=m\n# CONFIG_BC is not set\n# CONFIG_D is not set\n"
        );
    }

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
