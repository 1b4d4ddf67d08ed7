// SPDX-License-Identifier: GPL-2.0

//! Checks of the source and of its objects.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{bail, Context, Result};
use regex::Regex;

use crate::commands::docs;
use crate::ctx::Ctx;
use crate::groups::{fuzz, words};
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::kernel::source::{self, Series};
use crate::kernel::tree;
use crate::kernel::{checkpatch, series};
use crate::report::results::Report;
use crate::report::step::Step;

/// Objects of the overlay in which no path may panic without a reason.
const OBJECTS: [&str; 5] = [
    "kernel/liveupdate/luo.o",
    "mm/memfd_luo.o",
    "drivers/pci/liveupdate/pci_liveupdate.o",
    "drivers/vfio/pci/liveupdate/vfio_pci_liveupdate.o",
    "virt/kvm/liveupdate/kvm_liveupdate.o",
];

/// The modules of kernel crates outside `rust/` that may have `unsafe` code.
const BOUNDARY: [&str; 2] = ["c_abi", "ops"];

/// Marks a file as the root of a crate.
static CRATE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)^(kernel::builtin_crate!\(|(kernel::)?module! \{)")
        .expect("a constant pattern")
});

/// An attribute that allows `unsafe` code, and its module, if it has one.
static ALLOWED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\b(?:allow|expect|warn)\(unsafe_code\b[^\]]*\]\s*(?:mod (\w+);)?")
        .expect("a constant pattern")
});

/// Functions of `core` that panic.
static PANICS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"panick|panic_|::panic|unwrap_failed|expect_failed|core::.*_fail\b|slice_error|_overflow\b|alloc_error")
        .expect("a constant pattern")
});

/// Checks without a built kernel.
pub fn quick(ctx: &Ctx, report: &mut Report) -> Result<()> {
    report.attempt("kernel crates deny unsafe code", unsafe_gate(ctx));
    words::run(ctx, report);
    // The fuzz targets are a workspace of their own.
    for (dir, what) in [("tools", ""), (fuzz::CRATE, " of the fuzz targets")] {
        let mut fmt = Command::new("cargo");
        fmt.current_dir(ctx.top.join(dir))
            .args(["fmt", "--all", "--", "--check"]);
        report.attempt(
            &format!("cargo fmt{what}"),
            quiet(ctx, "cargo-fmt", &mut fmt),
        );
        let mut clippy = Command::new("cargo");
        clippy.current_dir(ctx.top.join(dir)).args([
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-Dwarnings",
        ]);
        report.attempt(
            &format!("cargo clippy{what}"),
            quiet(ctx, "cargo-clippy", &mut clippy),
        );
    }
    report.attempt("rustfmt of the kernel code", rustfmt(ctx));
    patches(ctx, report)
}

/// Checks that the patches apply in order, and runs checkpatch on them.
pub fn patches(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let out = series::write(ctx)?;
    report.attempt(
        "the patch series apply with git am",
        series::check(ctx, &out),
    );
    report.attempt(
        "checkpatch.pl --strict of the patches",
        checkpatch::check(ctx, &out),
    );
    Ok(())
}

pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    if let Err(error) = quick(ctx, report) {
        report.fail("the checks of the source", &format!("{error:#}"));
    }
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    report.attempt("rustdoc has no warning", docs::check(ctx, &kernel));
    for object in OBJECTS {
        report.attempt(
            &format!("no panic in {object}"),
            panic_gate(ctx, &kernel, object),
        );
    }
    report.check(
        "no compiler or objtool warning from the kernel code",
        said(&kernel),
    );
    Ok(())
}

/// The messages of Clippy about the kernel code.
pub fn run_debug(ctx: &Ctx, report: &mut Report) -> Result<()> {
    // Built with CLIPPY=1.
    let checked = build::kernel(ctx, Flavour::Debug);
    report.attempt(
        "no warning from Clippy for the kernel code",
        checked.map(|k| said(&k)),
    );
    Ok(())
}

fn said(kernel: &Kernel) -> Option<String> {
    (!kernel.findings.is_empty()).then(|| kernel.findings.join("\n"))
}

/// Runs `command`; returns its output if it fails.
pub(super) fn quiet(ctx: &Ctx, name: &str, command: &mut Command) -> Result<Option<String>> {
    let mut step = Step::start(ctx, name);
    let outcome = step.run(command, &ctx.log(name));
    step.done("");
    Ok(outcome.err().map(|error| format!("{error:#}")))
}

/// The Rust files of the overlay.
fn kernel_rust(ctx: &Ctx) -> Result<Vec<PathBuf>> {
    let mut files = tree::overlay(ctx)?;
    files.retain(|path| path.extension().is_some_and(|e| e == "rs"));
    Ok(files)
}

/// The command that formats the Rust files of the overlay in the style of the base.
pub fn rustfmt_command(ctx: &Ctx) -> Result<Command> {
    let base = source::base(ctx, Series::V7_3)?.pristine();
    let mut rustfmt = Command::new("rustfmt");
    rustfmt
        .args(["--edition=2021", "--config-path"])
        .arg(base.join(".rustfmt.toml"))
        .args(kernel_rust(ctx)?)
        .current_dir(&ctx.top);
    Ok(rustfmt)
}

fn rustfmt(ctx: &Ctx) -> Result<Option<String>> {
    let mut rustfmt = rustfmt_command(ctx)?;
    rustfmt.args(["--check", "--color=never"]);
    quiet(ctx, "rustfmt", &mut rustfmt)
}

/// The problem with the denial of `unsafe` code in a source outside `rust/`, if
/// there is one.
fn allows_unsafe(source: &str) -> Option<String> {
    if CRATE.is_match(source) && !source.lines().any(|line| line == "#![deny(unsafe_code)]") {
        return Some("`#![deny(unsafe_code)]` is missing".into());
    }
    ALLOWED
        .captures_iter(source)
        .map(|found| found.get(1).map_or("", |module| module.as_str()))
        .find(|module| !BOUNDARY.contains(module))
        .map(|_| {
            format!(
                "`unsafe_code` is only for the modules {}",
                BOUNDARY.join(" and ")
            )
        })
}

fn unsafe_gate(ctx: &Ctx) -> Result<Option<String>> {
    let mut found = Vec::new();
    for path in kernel_rust(ctx)? {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if path.starts_with("rust") || stem.is_some_and(|stem| BOUNDARY.contains(&stem)) {
            continue;
        }
        if let Some(finding) = allows_unsafe(&fs::read_to_string(ctx.top.join(&path))?) {
            found.push(format!("{}: {finding}", path.display()));
        }
    }
    Ok((!found.is_empty()).then(|| found.join("\n")))
}

/// Lists the panicking functions that an object calls without a listed reason.
fn panic_gate(ctx: &Ctx, kernel: &Kernel, object: &str) -> Result<Option<String>> {
    let nm = Command::new("llvm-nm")
        .args(["--undefined-only", "--demangle"])
        .arg(kernel.out.join(object))
        .output()
        .context("`llvm-nm` is missing: `make doctor` says how to get it.")?;
    if !nm.status.success() {
        bail!("llvm-nm {object}: {}", String::from_utf8_lossy(&nm.stderr));
    }
    let justified = fs::read_to_string(ctx.top.join("tools/testing/luo-vm/panics-allowed"))?;
    let justified: Vec<(&str, &str)> = justified
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .collect();
    let text = String::from_utf8_lossy(&nm.stdout);
    let symbols = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("U "));
    let bad: Vec<&str> = symbols
        .filter(|symbol| PANICS.is_match(symbol))
        .filter(|symbol| {
            !justified
                .iter()
                .any(|(o, s)| *o == object && s.trim() == *symbol)
        })
        .collect();
    Ok((!bad.is_empty()).then(|| bad.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_is_denied() {
        let root = "kernel::builtin_crate!(c\"luo\");\n";
        assert!(allows_unsafe(root).is_some());
        assert!(allows_unsafe("module! {\n").is_some());
        let root = format!("#![deny(unsafe_code)]\n{root}");
        assert_eq!(allows_unsafe(&root), None);
        for (item, is_allowed) in [
            ("#[expect(unsafe_code, reason = \"C\")]\nmod ops;\n", true),
            ("#[allow(unsafe_code)]\nmod c_abi;\n", true),
            ("#[allow(unsafe_code)]\nmod handover;\n", false),
            ("#[allow(unsafe_code)]\nfn f() {}\n", false),
            ("#![allow(unsafe_code)]\n", false),
        ] {
            let found = allows_unsafe(&format!("{root}{item}"));
            assert_eq!(found.is_none(), is_allowed, "{item}");
        }
        // Other files need no attribute of their own.
        assert_eq!(allows_unsafe("fn f() {}\n"), None);
    }

    #[test]
    fn panicking_symbols() {
        for symbol in [
            "core::panicking::panic_fmt",
            "core::option::unwrap_failed",
            "core::slice::index::slice_end_index_len_fail",
            "core::panicking::panic_const::panic_const_add_overflow",
        ] {
            assert!(PANICS.is_match(symbol), "{symbol}");
        }
        assert!(!PANICS.is_match("kho_preserve_folio"));
        assert!(!PANICS.is_match("liveupdate_should_fail"));
    }
}
