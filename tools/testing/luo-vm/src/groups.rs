// SPDX-License-Identifier: GPL-2.0

//! The groups of `make test`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{bail, Result};

use crate::ctx::Ctx;
use crate::debian;
use crate::fuzz;
use crate::image;
use crate::kernel::{self, Flavour, Kernel};
use crate::ktap;
use crate::lint;
use crate::luod;
use crate::programs::{self, BaseTests, GuestTest, BASE_KEXEC_TESTS, BASE_TEST};
use crate::report::Report;
use crate::soak;
use crate::step::Step;
use crate::stress;
use crate::tree;
use crate::vm::{Run, Vm, TIMEOUT};

type Group = fn(&Ctx, &mut Report) -> Result<()>;

/// In the order in which they run: what is quick comes first.
const GROUPS: [(&str, Group); 10] = [
    ("host", host),
    ("lint", lint::run),
    ("kunit", kunit),
    ("kselftest-base", kselftest_base),
    ("kselftest", kselftest),
    ("luod", luod::run),
    ("debian", debian::run),
    ("matrix", matrix),
    ("matrix-7.2", matrix_72),
    ("debug", debug),
];

/// The group of those guest tests that run between kernels of different kinds.
const MATRIX: &str = "matrix";

/// What the names of our KUnit suites have in them.
const OUR_SUITES: [&str; 3] = ["luo", "liveupdate", "kho"];

/// Parameters that let KUnit run at boot.
const KUNIT: &str = "kunit.enable=1";

/// Runs all groups, or one. True if nothing failed.
pub fn run(ctx: &Ctx, only: Option<&str>) -> Result<bool> {
    if let Some(only) = only {
        if !GROUPS.iter().any(|(name, _)| *name == only) {
            let names = GROUPS.map(|(name, _)| name).join(", ");
            bail!("There is no group {only}; the groups are {names}.");
        }
    }
    ctx.need_space(16, 4)?;
    let started = Instant::now();
    let mut report = Report::default();
    for (name, group) in GROUPS {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        report.begin(name);
        if let Err(error) = group(ctx, &mut report) {
            report.fail("the group could not run", &format!("{error:#}"));
        }
        report.end();
    }
    eprintln!("tested in {} s", started.elapsed().as_secs());
    Ok(report.finish())
}

/// Runs a machine as one step.
pub fn boot(ctx: &Ctx, vm: &Vm) -> Result<Run> {
    let step = Step::start(ctx, format!("vm {}", vm.name));
    let run = vm.run(ctx)?;
    step.done("");
    Ok(run)
}

/// The tests of the Cargo workspace, and a bit of fuzzing.
fn host(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let mut step = Step::start(ctx, "cargo test");
    let mut results = Vec::new();
    let mut unit = String::new();
    let mut cargo = programs::cargo(ctx);
    cargo.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    let outcome = step.run_with(&mut cargo, &ctx.log("cargo-test"), |_, line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["Running", .., binary] = words[..] {
            let name = Path::new(binary.trim_matches(['(', ')'])).file_name();
            let name = name
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            unit = name
                .rsplit_once('-')
                .map_or(name.clone(), |(name, _)| name.to_owned());
        } else if let ["Doc-tests", name] = words[..] {
            unit = format!("{name} doc");
        } else if let Some((name, end)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            results.push((format!("{unit} {name}"), end.to_owned()));
        }
    });
    step.done(&format!("{} tests", results.len()));
    let mut failed = false;
    for (name, end) in results {
        failed |= end != "ok";
        report.check(
            &name,
            (end != "ok").then(|| format!("{end}: {}", ctx.shown(&ctx.log("cargo-test")))),
        );
    }
    match outcome {
        Err(error) if !failed => report.fail("cargo test", &format!("{error:#}")),
        _ => {}
    }
    fuzz::short(ctx, report)
}

/// KUnit at boot: our suites on our kernel. Doctests run in `debug`, whose kernel has them.
fn kunit(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = kernel::build(ctx, Flavour::Ours)?;
    kunit_on(ctx, report, &kernel, "")
}

fn kunit_on(ctx: &Ctx, report: &mut Report, kernel: &Kernel, prefix: &str) -> Result<()> {
    let guest = programs::guest(ctx)?;
    let initrd = image::guest(ctx, "kunit", &guest, &[], None)?;
    let vm = Vm {
        name: format!("kunit-{}", kernel.flavour.name()),
        kernel,
        initrd: &initrd,
        params: KUNIT.to_owned(),
        init: "exec /bin/busybox true".to_owned(),
        timeout: TIMEOUT,
    };
    let run = boot(ctx, &vm)?;
    let ktap = ktap::parse(run.console.kernel.iter().map(String::as_str));
    let doctests = our_doctests(ctx)?;
    let mut base = Vec::new();
    for result in &ktap.results {
        let name = result.name.rsplit('.').next().unwrap_or_default();
        let ours = doctests.iter().any(|start| name.starts_with(start));
        if name.starts_with("rust_doctest_") && !ours {
            base.push(result);
        } else {
            report.result(prefix, result);
        }
    }
    if !base.is_empty() {
        let failed = base.iter().filter(|r| r.status == ktap::Status::Failed);
        let failed: Vec<&str> = failed.map(|r| r.name.as_str()).collect();
        let name = format!("{prefix}the base's {} doctests", base.len());
        report.check(&name, (!failed.is_empty()).then(|| failed.join("\n")));
    }
    for problem in &ktap.problems {
        report.fail(&format!("{prefix}the plan"), problem);
    }
    let ours = |name: &str| OUR_SUITES.iter().any(|part| name.contains(part));
    if !ktap.results.iter().any(|result| ours(&result.name)) {
        report.fail(
            &format!("{prefix}our suites"),
            "the kernel log has no result of a KUnit suite of ours",
        );
    }
    if let Some(why) = run.guest_complaint() {
        report.fail(
            &format!("{prefix}the machine of KUnit"),
            &format!("{why}\n{}", run.tail(ctx)),
        );
    }
    Ok(())
}

/// How the doctests of our files are called.
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

/// The base's kselftests, unmodified, on our kernel.
fn kselftest_base(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = kernel::build(ctx, Flavour::Ours)?;
    base_tests_on(ctx, report, &kernel)
}

/// The base's kselftests on any kernel.
pub fn base_tests_on(ctx: &Ctx, report: &mut Report, kernel: &Kernel) -> Result<()> {
    let tests = BaseTests::build(ctx)?;
    let mut simple = None;
    for test in BASE_KEXEC_TESTS {
        let initrd = image::base_kexec_test(ctx, test, &tests, kernel)?;
        let vm = Vm {
            name: format!("base-{test}"),
            kernel,
            initrd: &initrd,
            params: String::new(),
            init: String::new(),
            timeout: TIMEOUT,
        };
        let run = boot(ctx, &vm)?;
        let said = |what: &str| run.console.user.iter().any(|line| line.contains(what));
        let against = run.complaint().or_else(|| {
            let good = said("TEST PASSED") && said("INIT: Stage 2 completed successfully.");
            (!good).then(|| "it did not say that it passed".to_owned())
        });
        report.check(test, against.map(|why| format!("{why}\n{}", run.tail(ctx))));
        simple.get_or_insert(run);
    }
    if let Some(run) = simple {
        in_kernel_test(report, &run.console.kernel);
    }

    let guest = programs::guest(ctx)?;
    let initrd = image::guest(ctx, "base", &guest, &[], Some(&tests))?;
    let vm = Vm {
        name: format!("base-{BASE_TEST}"),
        kernel,
        initrd: &initrd,
        params: String::new(),
        init: format!("exec /bin/{BASE_TEST}"),
        timeout: TIMEOUT,
    };
    let run = boot(ctx, &vm)?;
    report.guest_run(ctx, &format!("{BASE_TEST} "), &run, &[]);
    Ok(())
}

/// The messages of the base's `lib/tests/liveupdate.c`, before and after a kexec.
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

/// Our own kselftests.
fn kselftest(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = kernel::build(ctx, Flavour::Ours)?;
    own_tests_on(ctx, report, &kernel)?;
    soak::short(ctx, report)
}

/// Our own kselftests with everything that checks turned on, and KUnit with the doctests.
fn debug(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = kernel::build(ctx, Flavour::Debug)?;
    kunit_on(ctx, report, &kernel, "kunit ")?;
    own_tests_on(ctx, report, &kernel)?;
    stress::short(ctx, report, &kernel)
}

/// The threads that do everything at once for a longer time, and our own kselftests, on the kernel
/// that checks most. True if nothing failed.
pub fn test_debug(ctx: &Ctx, seconds: u64, seed: u64) -> Result<bool> {
    let kernel = kernel::build(ctx, Flavour::Kasan)?;
    let mut report = Report::default();
    report.begin("stress");
    let outcome = stress::run_on(ctx, &kernel, seconds, seed)?;
    for line in &outcome.lines {
        println!("stage {line}");
    }
    let name = format!("everything at once for {seconds} s, seed {seed}");
    report.check(&name, outcome.failure);
    report.end();
    report.begin("kselftest");
    if let Err(error) = own_tests_on(ctx, &mut report, &kernel) {
        report.fail("the group could not run", &format!("{error:#}"));
    }
    report.end();
    Ok(report.finish())
}

fn own_tests_on(ctx: &Ctx, report: &mut Report, kernel: &Kernel) -> Result<()> {
    let guest = programs::guest(ctx)?;
    let initrd = image::guest(ctx, kernel.flavour.name(), &guest, &[kernel, kernel], None)?;
    let tests = programs::guest_tests(&guest)?;
    let tests = tests.into_iter().filter(|test| test.group != MATRIX);
    let (alone, together): (Vec<_>, Vec<_>) = tests.partition(|test| test.kexecs > 0);

    // Tests that stay in one boot share it with those that need the same kernel parameters.
    let mut shared: BTreeMap<String, Vec<GuestTest>> = BTreeMap::new();
    for test in together {
        shared.entry(test.cmdline.clone()).or_default().push(test);
    }
    let machines = shared
        .into_values()
        .chain(alone.into_iter().map(|test| vec![test]));
    for (number, tests) in machines.enumerate() {
        let names: Vec<&str> = tests.iter().map(|t| t.name.as_str()).collect();
        let [first, ..] = &tests[..] else { continue };
        let label = if names.len() > 1 {
            format!("shared-{number}")
        } else {
            first.name.clone()
        };
        let vm = Vm {
            name: format!("{}-{label}", kernel.flavour.name()),
            kernel,
            initrd: &initrd,
            params: first.cmdline.clone(),
            init: format!("selftest {}", names.join(" ")),
            timeout: TIMEOUT * (1 + first.kexecs),
        };
        let run = boot(ctx, &vm)?;
        report.guest_run(ctx, "", &run, &names);
    }
    Ok(())
}

/// What the groups of the matrix have in common.
struct Matrix {
    guest: PathBuf,
    tests: Vec<GuestTest>,
    ours: Kernel,
}

impl Matrix {
    fn new(ctx: &Ctx) -> Result<Self> {
        let guest = programs::guest(ctx)?;
        let mut tests = programs::guest_tests(&guest)?;
        tests.retain(|test| test.group == MATRIX);
        let ours = kernel::build(ctx, Flavour::Ours)?;
        Ok(Self { guest, tests, ours })
    }

    /// Runs the tests from the kernel `from` to the kernel `to`.
    fn update(&self, ctx: &Ctx, report: &mut Report, from: &Kernel, to: &Kernel) -> Result<()> {
        let pair = format!("{}-to-{}", from.flavour.name(), to.flavour.name());
        let initrd = image::guest(ctx, &pair, &self.guest, &[to, to], None)?;
        for test in &self.tests {
            let vm = Vm {
                name: format!("{pair}-{}", test.name),
                kernel: from,
                initrd: &initrd,
                params: test.cmdline.clone(),
                init: format!("selftest {}", test.name),
                timeout: TIMEOUT * (1 + test.kexecs),
            };
            let run = boot(ctx, &vm)?;
            let prefix = format!("{} to {}: ", from.label(), to.label());
            report.guest_run(ctx, &prefix, &run, &[&test.name]);
        }
        Ok(())
    }
}

/// Who writes and who reads.
fn matrix(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let matrix = Matrix::new(ctx)?;
    let ours = &matrix.ours;
    let peer = kernel::build(ctx, Flavour::Peer)?;
    for (from, to) in [(&peer, ours), (ours, &peer), (ours, ours)] {
        matrix.update(ctx, report, from, to)?;
    }
    Ok(())
}

/// The same, from the C implementation of Linux 7.2, if its source can be had.
fn matrix_72(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let matrix = Matrix::new(ctx)?;
    match kernel::build(ctx, Flavour::Peer72) {
        Ok(older) => {
            matrix.update(ctx, report, &older, &matrix.ours)?;
            luod::Luoctl::new(ctx, &older)?.update(ctx, report, &older, &matrix.ours)?;
        }
        Err(error) => report.not_run("C 7.2 to ours", &format!("{error:#}")),
    }
    Ok(())
}
