// SPDX-License-Identifier: GPL-2.0

//! The groups `kunit` and `kunit-debug`: tests inside of the kernel, at boot.

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs;
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::kernel::tree;
use crate::machine::verdict::GOOD;
use crate::machine::vm::Vm;
use crate::report::ktap;
use crate::report::results::Report;

/// Parts of the names of the suites of the overlay.
const OUR_SUITES: [&str; 3] = ["luo", "liveupdate", "kho"];

/// Parameters that run KUnit at boot.
const KUNIT: &str = "kunit.enable=1";

/// The suites of the overlay.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    run_on(ctx, report, Flavour::Ours)
}

/// The same, and the doctests, on the kernel that contains them.
pub fn run_debug(ctx: &Ctx, report: &mut Report) -> Result<()> {
    run_on(ctx, report, Flavour::Debug)
}

fn run_on(ctx: &Ctx, report: &mut Report, flavour: Flavour) -> Result<()> {
    let kernel = build::kernel(ctx, flavour)?;
    let guest = programs::guest(ctx)?;
    let initrd = initramfs::guest(ctx, "kunit", &guest, &[], None)?;
    let vm = Vm::new(format!("kunit-{}", flavour.name()), &kernel, &initrd)
        .params(KUNIT)
        .init("exec /bin/busybox true");
    let run = vm.boot(ctx)?;
    let ktap = ktap::parse(run.console.kernel.iter().map(String::as_str));
    let doctests = our_doctests(ctx)?;
    let mut base = Vec::new();
    for result in &ktap.results {
        let name = result.name.rsplit('.').next().unwrap_or_default();
        let ours = doctests.iter().any(|start| name.starts_with(start));
        if name.starts_with("rust_doctest_") && !ours {
            base.push(result);
        } else {
            report.result("", result);
        }
    }
    if !base.is_empty() {
        let failed = base.iter().filter(|r| r.status == ktap::Status::Failed);
        let failed: Vec<&str> = failed.map(|r| r.name.as_str()).collect();
        let name = format!("the base's {} doctests", base.len());
        report.check(&name, (!failed.is_empty()).then(|| failed.join("\n")));
    }
    for problem in &ktap.problems {
        report.fail("the plan", problem);
    }
    let ours = |name: &str| OUR_SUITES.iter().any(|part| name.contains(part));
    if !ktap.results.iter().any(|result| ours(&result.name)) {
        report.fail(
            "our suites",
            "the kernel log has no result of a KUnit suite of the overlay",
        );
    }
    if let Some(why) = run.guest_complaint() {
        report.fail("the machine of KUnit", &run.failure(ctx, GOOD, &why));
    }
    Ok(())
}

/// The names of the doctests of files of the overlay.
fn our_doctests(ctx: &Ctx) -> Result<Vec<String>> {
    let ours = tree::overlay(ctx)?;
    let ours = ours
        .iter()
        .filter_map(|path| path.strip_prefix("rust/kernel").ok());
    Ok(ours
        .map(|p| {
            format!(
                "rust_doctest_kernel_{}_",
                p.to_string_lossy().replace(['/', '.'], "_")
            )
        })
        .collect())
}
