// SPDX-License-Identifier: GPL-2.0

//! `luo-vm`: prepares and builds kernels with the Live Update Orchestrator, creates initramfs
//! images, runs them in QEMU and evaluates their output. The top-level Makefile starts it in the
//! build sandbox.

mod arch;
mod commands;
mod ctx;
mod files;
mod groups;
mod image;
mod kernel;
mod machine;
mod once;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use clap::{Parser, Subcommand};

use crate::arch::Arch;
use crate::commands::{analyzer, bench, demo, docs, menuconfig, pages, peer};
use crate::ctx::{Ctx, Settings};
use crate::groups::{base, debug, fuzz, lint, soak, words};
use crate::kernel::flavour::Flavour;
use crate::kernel::{build, each, package, series, tree};
use crate::report::results::{summary, Report};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build everything and show a live update
    Run {
        /// The kernel that hands over
        #[arg(long, default_value = "ours")]
        from: Flavour,
        /// The kernel that takes over
        #[arg(long, default_value = "ours")]
        to: Flavour,
    },
    /// Update the kernel under a cache with load
    Demo,
    /// Update the kernel under a network card that receives frames
    DemoDevice,
    /// Update the kernel under a guest of QEMU
    DemoVm,
    /// Update the kernel of a machine made of packages
    DemoDeb,
    /// Make the packages for the machine of demo-deb
    MachinePackages {
        /// The kernel of the machine
        #[arg(default_value = "ours", env = "FLAVOUR")]
        flavour: Flavour,
    },
    /// Build packages of a kernel, with two releases
    DebKernel {
        #[arg(default_value = "cloud-full", env = "FLAVOUR")]
        flavour: Flavour,
    },
    /// Run the tests
    Test {
        /// Only this group
        #[arg(long, env = "ONLY")]
        only: Option<String>,
    },
    /// Run all tests, including those that take hours, and write the page of results
    TestAll {
        /// Run only these groups, in a list with commas
        #[arg(long, env = "ONLY")]
        only: Option<String>,
    },
    /// Fuzz the parsers of handed over data
    Fuzz {
        /// How long each target runs
        #[arg(long, env = "FUZZ_SECONDS", default_value_t = 60)]
        seconds: u64,
    },
    /// Show the faults of the implementation in C
    TestPeer {
        /// Only items, suites or cases whose names begin with this
        #[arg(long, env = "ONLY")]
        only: Option<String>,
        /// A bzImage with the implementation in C, instead of building it
        #[arg(long, requires = "ours")]
        peer: Option<PathBuf>,
        /// A bzImage with our implementation, instead of building it
        #[arg(long, requires = "peer")]
        ours: Option<PathBuf>,
        /// Stop after this time; another run continues
        #[arg(long)]
        minutes: Option<u64>,
    },
    /// Compare the speed of our implementation with that of the one in C
    Bench {
        /// Run only the short benchmarks, once (1)
        #[arg(long, env = "QUICK", default_value = "0")]
        quick: String,
        /// Only runs whose names begin with this
        #[arg(long, env = "ONLY")]
        only: Option<String>,
    },
    /// Consecutive kexecs, with random sessions and files
    Soak {
        /// The number of kexecs
        #[arg(long, env = "N", default_value_t = 100)]
        count: u64,
        /// The seed of the random sessions and files
        #[arg(long, env = "SEED", default_value_t = 1)]
        seed: u64,
    },
    /// A stress test and all tests, on a kernel with debugging options
    TestDebug {
        /// The duration of the stress test
        #[arg(long, env = "STRESS_SECONDS", default_value_t = 600)]
        seconds: u64,
        /// The seed of the stress test
        #[arg(long, env = "SEED", default_value_t = 1)]
        seed: u64,
    },
    /// The base's kselftests on any kernel
    BaseTests { flavour: Flavour },
    /// Build a kernel
    Kernel {
        #[arg(default_value = "ours", env = "FLAVOUR")]
        flavour: Flavour,
    },
    /// Select options in Kconfig's menu; written to local.config
    Menuconfig {
        #[arg(default_value = "ours", env = "FLAVOUR")]
        flavour: Flavour,
    },
    /// A shell in a virtual machine, with a kernel to kexec
    Shell {
        #[arg(default_value = "ours", env = "FLAVOUR")]
        flavour: Flavour,
    },
    /// Write the whole change as patches to build/patches
    Patches,
    /// Check that the patches apply, and run checkpatch on them
    CheckPatches {
        /// Build a kernel after each patch as well (1); built states are skipped
        #[arg(long, env = "BUILD", default_value = "0")]
        build: String,
    },
    /// Check the words of comments, pages and messages
    CheckWords,
    /// Apply the change to the tree KERNEL_SRC
    Apply,
    /// Write rust-project.json for editors
    RustAnalyzer,
    /// Build the pages of Documentation/ as HTML, and check for warnings of Sphinx
    Htmldocs,
    /// Write rustdoc, man pages and completions to build/doc
    Docs,
}

impl Action {
    /// Returns whether it is done for the architecture `arch`.
    fn is_of(&self, arch: Arch) -> bool {
        arch == Arch::X86
            || matches!(
                self,
                Action::Run { .. }
                    | Action::Test { .. }
                    | Action::TestAll { .. }
                    | Action::BaseTests { .. }
                    | Action::Kernel { .. }
                    | Action::Menuconfig { .. }
                    | Action::Shell { .. }
            )
    }
}

fn run(cli: Cli) -> Result<bool> {
    let ctx = Ctx::new(cli.settings)?;
    if !cli.command.is_of(ctx.settings.arch) {
        bail!(
            "This is not done for ARCH={}: only `run`, `test`, `test-all`, `kernel`, `menuconfig` and \
             `shell` are.",
            ctx.arch().name
        );
    }
    match cli.command {
        Action::Run { from, to } => {
            ctx.need_space(8, 3)?;
            demo::run(&ctx, from, to)
        }
        Action::Demo => {
            ctx.need_space(8, 3)?;
            demo::cache(&ctx)
        }
        Action::DemoVm => {
            ctx.need_space(8, 3)?;
            demo::guest(&ctx)
        }
        Action::DemoDevice => {
            ctx.need_space(8, 3)?;
            demo::device::run(&ctx)
        }
        Action::DemoDeb => {
            ctx.need_space(8, 3)?;
            demo::packages::run(&ctx)
        }
        Action::MachinePackages { flavour } => {
            ctx.need_space(8, 3)?;
            image::machine::packages(&ctx, flavour).map(|()| true)
        }
        Action::DebKernel { flavour } => {
            ctx.need_space(16, 6)?;
            for package in package::both(&ctx, flavour)? {
                println!("{}", ctx.shown(&package.file));
                println!("{}", ctx.shown(&package.headers));
            }
            Ok(true)
        }
        Action::Test { only } => groups::run(&ctx, only.as_deref().filter(|only| !only.is_empty())),
        Action::TestAll { only } => {
            groups::run_all(&ctx, only.as_deref().filter(|only| !only.is_empty()))
        }
        Action::Fuzz { seconds } => fuzz::run(&ctx, seconds),
        Action::TestPeer {
            only,
            peer,
            ours,
            minutes,
        } => {
            let options = peer::Options {
                only: only.as_deref().filter(|only| !only.is_empty()),
                prebuilt: peer.zip(ours),
                limit: minutes.map(|minutes| Duration::from_secs(60 * minutes)),
            };
            peer::run(&ctx, options)
        }
        Action::Bench { quick, only } => {
            ctx.need_space(10, 4)?;
            bench::run(
                &ctx,
                quick == "1",
                only.as_deref().filter(|only| !only.is_empty()),
            )
        }
        Action::Soak { count, seed } => soak::run(&ctx, count, seed),
        Action::TestDebug { seconds, seed } => debug::test_debug(&ctx, seconds, seed),
        Action::BaseTests { flavour } => {
            let kernel = build::kernel(&ctx, flavour)?;
            let mut report = Report::new("kselftest-base");
            base::run_on(&ctx, &mut report, &kernel)?;
            Ok(summary(&[report]))
        }
        Action::Kernel { flavour } => {
            ctx.need_space(8, 3)?;
            println!("{}", ctx.shown(&build::kernel(&ctx, flavour)?.image));
            Ok(true)
        }
        Action::Shell { flavour } => {
            ctx.need_space(8, 3)?;
            demo::shell(&ctx, flavour).map(|()| true)
        }
        Action::Patches => series::write(&ctx).map(|_| true),
        Action::CheckPatches { build } => {
            let mut report = Report::new("patches");
            lint::patches(&ctx, &mut report)?;
            if build == "1" {
                report.attempt("a kernel builds after each patch", each::build(&ctx));
            }
            Ok(summary(&[report]))
        }
        Action::CheckWords => {
            let mut report = Report::new("words");
            words::run(&ctx, &mut report);
            Ok(summary(&[report]))
        }
        Action::Apply => {
            let tree = ctx.settings.kernel_src.clone();
            let tree = tree.context("`make apply` needs KERNEL_SRC=dir, a Linux 7.3 tree.")?;
            tree::apply(&ctx, &tree).map(|()| true)
        }
        Action::Menuconfig { flavour } => {
            ctx.need_space(8, 3)?;
            menuconfig::run(&ctx, flavour).map(|()| true)
        }
        Action::RustAnalyzer => analyzer::write(&ctx).map(|()| true),
        Action::Htmldocs => pages::html(&ctx),
        Action::Docs => docs::write(&ctx).map(|()| true),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
