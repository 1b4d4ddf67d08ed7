// SPDX-License-Identifier: GPL-2.0

//! The group `kselftest-base`: the kselftests of the base, unmodified.

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs::{self, BaseTests, BASE_KEXEC_TESTS, BASE_TEST};
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::machine::vm::Vm;
use crate::report::results::Report;

/// The base's kselftests, unmodified, on our kernel.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    run_on(ctx, report, &kernel)
}

/// The base's kselftests on any kernel.
pub fn run_on(ctx: &Ctx, report: &mut Report, kernel: &Kernel) -> Result<()> {
    let tests = BaseTests::build(ctx)?;
    let mut simple = None;
    for test in BASE_KEXEC_TESTS {
        let initrd = initramfs::base_kexec_test(ctx, test, &tests, kernel)?;
        let vm = Vm::new(format!("base-{test}"), kernel, &initrd).kexecs(1);
        let run = vm.boot(ctx)?;
        let said = |what: &str| run.console.user.iter().any(|line| line.contains(what));
        let against = run.complaint().or_else(|| {
            let good = said("TEST PASSED") && said("INIT: Stage 2 completed successfully.");
            (!good).then(|| "it has not reported success".to_owned())
        });
        report.check(
            test,
            against.map(|why| run.failure(ctx, "TEST PASSED after the kexec", &why)),
        );
        simple.get_or_insert(run);
    }
    if let Some(run) = simple {
        in_kernel_test(report, &run.console.kernel);
    }

    let guest = programs::guest(ctx)?;
    let initrd = initramfs::guest(ctx, "base", &guest, &[], Some(&tests))?;
    let vm = Vm::new(format!("base-{BASE_TEST}"), kernel, &initrd)
        .init(format!("exec /bin/{BASE_TEST}"));
    let run = vm.boot(ctx)?;
    run.judge(ctx, report, &format!("{BASE_TEST} "), &[]);
    Ok(())
}

/// Checks the messages of the base's `lib/tests/liveupdate.c`, before and after a
/// kexec.
fn in_kernel_test(report: &mut Report, kernel_log: &[String]) {
    let boots: Vec<usize> = kernel_log
        .iter()
        .enumerate()
        .filter(|(_, line)| line.starts_with("Linux version "))
        .map(|(at, _)| at)
        .collect();
    let [_, second] = boots[..] else {
        report.fail(
            "lib/tests/liveupdate.c",
            "there were not two boots to look at",
        );
        return;
    };
    let (before, after) = kernel_log.split_at(second);
    for (when, log, events) in [
        ("before", before, &["preserve was triggered"][..]),
        (
            "after",
            after,
            &[
                "found flb data from the previous boot",
                "finish was triggered",
            ],
        ),
    ] {
        let says = |text: &str| log.iter().any(|line| line.contains(text));
        let registered = "liveupdate test: Registered 3 FLBs with file handler: [memfd-v2]";
        report.check(
            &format!("lib/tests/liveupdate.c registers {when} the kexec"),
            (!says(registered)).then(|| format!("the kernel log lacks: {registered}")),
        );
        for event in events {
            let missing = (0..3)
                .map(|i| format!("liveupdate test: liveupdate-test-flb-v{i}: {event}"))
                .find(|line| !says(line));
            report.check(
                &format!("lib/tests/liveupdate.c {when} the kexec: {event}"),
                missing.map(|line| format!("the kernel log lacks: {line}")),
            );
        }
        let error = log.iter().find(|l| {
            l.starts_with("liveupdate test:") && (l.contains("ERROR") || l.contains("ailed"))
        });
        report.check(
            &format!("lib/tests/liveupdate.c has no error {when} the kexec"),
            error.cloned(),
        );
    }
}
