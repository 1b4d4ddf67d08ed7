// SPDX-License-Identifier: GPL-2.0

//! The rustdoc of all crates, including private items, and the man pages of the programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::ctx::Ctx;
use crate::image::programs;
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::report::step::Step;

/// Kernel crates of the overlay: the name in rustdoc, and the object.
const CRATES: [(&str, &str); 7] = [
    ("luo", "kernel/liveupdate/luo.o"),
    ("memfd_luo", "mm/memfd_luo.o"),
    ("pci_liveupdate", "drivers/pci/liveupdate/pci_liveupdate.o"),
    (
        "vfio_pci_liveupdate",
        "drivers/vfio/pci/liveupdate/vfio_pci_liveupdate.o",
    ),
    ("kvm_liveupdate", "virt/kvm/liveupdate/kvm_liveupdate.o"),
    ("rust_liveupdate", "samples/rust/rust_liveupdate.o"),
    (
        "rust_driver_edu",
        "samples/rust/rust_driver_edu/rust_driver_edu.o",
    ),
];

/// The pages are for developers: links to private items are intended.
const RUSTDOC: &str = "rustdoc --document-private-items -Arustdoc::private_intra_doc_links";

/// Writes the documentation to `build/doc`.
pub fn write(ctx: &Ctx) -> Result<()> {
    let doc = ctx.build.join("doc");
    let _ = fs::remove_dir_all(&doc);
    let kernel = build::kernel(ctx, Flavour::Ours)?;

    let mut step = Step::start(ctx, "rustdoc of the crate `kernel`");
    let mut make = build::make(ctx, &kernel.out);
    step.run(
        make.arg("rustdoc")
            .arg(format!("rustdoc_output={}", doc.display())),
        &ctx.log("doc-kernel"),
    )?;
    step.done("");
    for (name, object) in CRATES {
        let mut step = Step::start(ctx, format!("rustdoc of the crate `{name}`"));
        step.run(
            &mut rustdoc(&kernel, name, object, &doc)?,
            &ctx.log(&format!("doc-{name}")),
        )?;
        step.done("");
    }
    let mut step = Step::start(ctx, "rustdoc of the workspace in tools/");
    let mut cargo = programs::cargo(ctx);
    cargo.args([
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    cargo.arg("--target-dir").arg(ctx.build.join("doc-tools"));
    step.run(&mut cargo, &ctx.log("doc-tools"))?;
    step.done("");
    manuals(ctx, &doc)?;
    println!("{}", ctx.shown(&doc.join("luo/index.html")));
    println!("{}", ctx.shown(&doc.join("kernel/index.html")));
    println!("{}", ctx.shown(&ctx.build.join("doc-tools/doc")));
    println!("{}", ctx.shown(&doc.join("man")));
    println!("{}", ctx.shown(&doc.join("completions")));
    Ok(())
}

/// Man pages, and completions for shells: both are generated from the definitions of the command
/// lines.
fn manuals(ctx: &Ctx, doc: &Path) -> Result<()> {
    let (man, completions) = (doc.join("man"), doc.join("completions"));
    fs::create_dir_all(&completions)?;
    let mut step = Step::start(ctx, "man pages and completions");
    let mut luod = programs::cargo(ctx);
    luod.args(["run", "--locked", "-q", "-p", "luod-doc", "--"]);
    step.run(luod.arg(&man).arg(&completions), &ctx.log("doc-luod"))?;
    for program in ["luoctl", "luo-qemu"] {
        let run = |args: &[&str]| {
            let mut cargo = programs::cargo(ctx);
            cargo.args(["run", "--locked", "-q", "-p", program, "--"]);
            cargo.args(args);
            cargo
        };
        let log = ctx.log(&format!("doc-{program}"));
        step.run(run(&["man"]).arg(&man), &log)?;
        for (shell, file) in [
            ("bash", format!("{program}.bash")),
            ("zsh", format!("_{program}")),
            ("fish", format!("{program}.fish")),
        ] {
            let output = run(&["completions", shell]).output()?;
            if !output.status.success() || output.stdout.is_empty() {
                bail!("`{program} completions {shell}` failed: {}", output.status);
            }
            fs::write(completions.join(file), output.stdout)?;
        }
    }
    step.done("");
    Ok(())
}

/// Checks that rustdoc prints no warnings about the kernel crates of the overlay.
pub fn check(ctx: &Ctx, kernel: &Kernel) -> Result<Option<String>> {
    let doc = ctx.build.join("doc-check");
    for (name, object) in CRATES {
        let mut rustdoc = rustdoc(kernel, name, object, &doc)?;
        let output = rustdoc.output().context("rustdoc cannot be started")?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || said.contains("warning") {
            return Ok(Some(said.into_owned()));
        }
    }
    fs::remove_dir_all(&doc)?;
    Ok(None)
}

/// The command that documents a crate, from the command that compiled it.
fn rustdoc(kernel: &Kernel, name: &str, object: &str, doc: &Path) -> Result<Command> {
    let object = Path::new(object);
    let file = object
        .file_name()
        .context("an object has a name")?
        .to_string_lossy();
    let saved = kernel
        .out
        .join(object.with_file_name(format!(".{file}.cmd")));
    let text = fs::read_to_string(&saved).with_context(|| saved.display().to_string())?;
    let line = text.lines().next().and_then(|line| line.split_once(" := "));
    let (_, command) = line.context("the command that built the crate is not recorded")?;
    let command = command.split(';').next().unwrap_or(command);
    let mut shell = String::new();
    let mut words = command.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "rustc" | "clippy-driver" => shell += RUSTDOC,
            // Options for the output of the compiler; each has a value.
            "--crate-type" | "--out-dir" => drop(words.next()),
            _ if word.starts_with("--emit=") => {}
            _ => shell += word,
        }
        shell.push(' ');
    }
    shell += &format!("--crate-name {name} --output {}", doc.display());
    let mut rustdoc = Command::new("sh");
    rustdoc.args(["-c", &shell]);
    rustdoc.current_dir(&kernel.out).env("RUSTC_BOOTSTRAP", "1");
    Ok(rustdoc)
}
