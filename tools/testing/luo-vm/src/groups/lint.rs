// SPDX-License-Identifier: GPL-2.0

//! Checks of the source and of the objects made from it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{bail, Context, Result};
use regex::Regex;

use crate::commands::docs;
use crate::ctx::Ctx;
use crate::groups::fuzz;
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::kernel::source::{self, Series};
use crate::kernel::tree;
use crate::kernel::{checkpatch, series};
use crate::report::results::Report;
use crate::report::step::Step;

/// Objects of ours in which no path may panic without a reason.
const OBJECTS: [&str; 2] = ["kernel/liveupdate/luo.o", "mm/memfd_luo.o"];

/// Where `unsafe` may stand in kernel code outside `rust/`.
const BOUNDARY: [&str; 2] = ["kernel/liveupdate/c_abi.rs", "mm/memfd_luo/ops.rs"];

/// Functions of `core` that panic.
static PANICS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"panick|panic_|::panic|unwrap_failed|expect_failed|core::.*_fail\b|slice_error|_overflow\b|alloc_error")
        .expect("a constant pattern")
});

/// What needs no kernel to be built.
pub fn quick(ctx: &Ctx, report: &mut Report) -> Result<()> {
    report.attempt("no unsafe outside the boundary modules", unsafe_gate(ctx));
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

/// Whether the patches apply in order, and what checkpatch says about them.
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

/// Runs `command`; what it says if it fails is what there is against it.
fn quiet(ctx: &Ctx, name: &str, command: &mut Command) -> Result<Option<String>> {
    let mut step = Step::start(ctx, name);
    let outcome = step.run(command, &ctx.log(name));
    step.done("");
    Ok(outcome.err().map(|error| format!("{error:#}")))
}

/// Our Rust files for the kernel.
fn kernel_rust(ctx: &Ctx) -> Result<Vec<PathBuf>> {
    let mut files = tree::overlay(ctx)?;
    files.retain(|path| path.extension().is_some_and(|e| e == "rs"));
    Ok(files)
}

/// The command that formats our Rust files for the kernel as the base wants it.
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

/// The code of a Rust source without comments and string literals.
fn code(source: &str) -> String {
    let mut code = String::new();
    for line in source.lines() {
        let mut quoted = false;
        let mut before = ' ';
        for (at, c) in line.char_indices() {
            if !quoted && line[at..].starts_with("//") {
                break;
            }
            if c == '"' && before != '\\' && before != '\'' {
                quoted = !quoted;
            }
            code.push(if quoted { ' ' } else { c });
            before = c;
        }
        code.push('\n');
    }
    code
}

fn unsafe_gate(ctx: &Ctx) -> Result<Option<String>> {
    let word = Regex::new(r"\bunsafe\b").context("a constant pattern")?;
    let mut found = Vec::new();
    for path in kernel_rust(ctx)? {
        if path.starts_with("rust") || BOUNDARY.iter().any(|at| path == Path::new(at)) {
            continue;
        }
        let text = code(&fs::read_to_string(ctx.top.join(&path))?);
        for (number, _) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| word.is_match(line))
        {
            found.push(format!("{}:{}", path.display(), number + 1));
        }
    }
    Ok((!found.is_empty()).then(|| found.join("\n")))
}

/// Lists the panicking functions that an object calls and nobody has justified.
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
    fn only_code_counts() {
        let source = "// unsafe\nlet a = \"unsafe\"; // unsafe\nlet b = '\"'; unsafe {}\n";
        let code = code(source);
        let lines: Vec<bool> = code.lines().map(|l| l.contains("unsafe")).collect();
        assert_eq!(lines, [false, false, true]);
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
