// SPDX-License-Identifier: GPL-2.0

//! The project description for rust-analyzer, with the kernel crates of the overlay.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{json, Value};

use crate::ctx::Ctx;
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::report::step::Step;

/// The crate whose dependencies and configuration the crates of [`CRATES`] share.
const MODEL: &str = "rust_liveupdate";

/// Crates of the overlay that the base's generator does not find, and their roots.
const CRATES: [(&str, &str); 2] = [
    ("luo", "kernel/liveupdate/luo.rs"),
    ("memfd_luo", "mm/memfd_luo.rs"),
];

/// Writes `rust-project.json` at the top of the checkout, for editors outside the sandbox.
pub fn write(ctx: &Ctx) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    let mut step = Step::start(ctx, "rust-project.json");
    let mut make = build::make(ctx, &kernel.out);
    step.run(make.arg("rust-analyzer"), &ctx.log("rust-analyzer"))?;
    let text = fs::read_to_string(kernel.out.join("rust-project.json"))?;
    let mut project: Value = serde_json::from_str(&text)?;
    let tree = kernel.out.parent().context("a tree around the build")?;
    add(&mut project)?;
    translate(&mut project, &|path| outside(ctx, tree, path));
    let file = ctx.top.join("rust-project.json");
    fs::write(&file, serde_json::to_vec(&project)?)?;
    step.done("");
    println!("{}", ctx.shown(&file));
    println!(
        "In the editor: rust-analyzer.linkedProjects = [\"rust-project.json\", \
         \"tools/Cargo.toml\"]"
    );
    Ok(())
}

/// Adds the crates that the generator does not find.
fn add(project: &mut Value) -> Result<()> {
    let crates = project["crates"]
        .as_array_mut()
        .context("rust-project.json has no list of crates")?;
    let model = crates
        .iter()
        .find(|one| one["display_name"] == MODEL)
        .with_context(|| format!("rust-project.json has no crate {MODEL}"))?
        .clone();
    for (name, root) in CRATES {
        let mut one = model.clone();
        one["display_name"] = json!(name);
        one["root_module"] = json!(Path::new("/luo").join(root));
        one["env"]["RUST_MODFILE"] = json!(root.trim_end_matches(".rs"));
        crates.push(one);
    }
    Ok(())
}

/// Converts a path of the sandbox to a path of the host. Crate roots of the overlay are mapped to
/// the checkout, not to their copy in the prepared tree.
fn outside(ctx: &Ctx, tree: &Path, path: &Path) -> Option<PathBuf> {
    if let Ok(below) = path.strip_prefix(tree) {
        let ours = ctx.top.join(below);
        let crate_of_ours = below.starts_with("samples") && ours.is_file();
        return Some(ctx.shown(if crate_of_ours { &ours } else { path }).into());
    }
    if path.starts_with(&ctx.cache) || path.starts_with(&ctx.top) {
        return Some(ctx.shown(path).into());
    }
    let root = std::env::var_os("LUO_HOST_ROOT").map(PathBuf::from)?;
    let below = path.strip_prefix("/usr").ok()?;
    Some(root.join("usr").join(below))
}

/// Replaces all strings that are absolute paths.
fn translate(value: &mut Value, to: &dyn Fn(&Path) -> Option<PathBuf>) {
    match value {
        Value::String(text) if text.starts_with('/') => {
            if let Some(path) = to(Path::new(text)) {
                *text = path.display().to_string();
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|one| translate(one, to)),
        Value::Object(all) => all.values_mut().for_each(|one| translate(one, to)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_and_paths() -> Result<()> {
        let mut project = json!({
            "sysroot": "/usr",
            "crates": [{
                "display_name": MODEL,
                "root_module": "/cache/tree/samples/rust/rust_liveupdate.rs",
                "cfg": ["CONFIG_A", "CONFIG_B=\"/not/a/path\""],
                "env": { "RUST_MODFILE": "samples/rust/rust_liveupdate" },
            }],
        });
        add(&mut project)?;
        translate(&mut project, &|path| {
            Some(Path::new("/host").join(path.strip_prefix("/").ok()?))
        });
        let crates = project["crates"].as_array().context("crates")?;
        assert_eq!(crates.len(), 3);
        assert_eq!(crates[1]["display_name"], "luo");
        assert_eq!(
            crates[1]["root_module"],
            "/host/luo/kernel/liveupdate/luo.rs"
        );
        assert_eq!(crates[1]["env"]["RUST_MODFILE"], "kernel/liveupdate/luo");
        assert_eq!(crates[0]["cfg"][1], "CONFIG_B=\"/not/a/path\"");
        assert_eq!(project["sysroot"], "/host/usr");
        assert!(add(&mut json!({ "crates": [] })).is_err());
        Ok(())
    }
}
