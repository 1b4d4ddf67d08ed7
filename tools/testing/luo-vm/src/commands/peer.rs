// SPDX-License-Identifier: GPL-2.0

//! `make test-peer`: shows the faults of the implementation in C.
//!
//! Each case that shows a fault of C runs in its own machine, on the unchanged base kernel, which
//! must fail, and on ours, which must pass.

mod outcome;
mod table;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use crate::ctx::Ctx;
use crate::files::hex;
use crate::image::initramfs;
use crate::image::programs::{self, GuestTest, HazardCase, HazardItem};
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::machine::named;
use crate::machine::vm::{Vm, BOOT};
use crate::report::step::Step;
use outcome::Outcome;

/// The time limit of the C kernel per boot. Some cases make it hang.
const C_BOOT: Duration = Duration::from_secs(100);

/// The results of a case on both kernels.
#[derive(Serialize, Deserialize)]
struct Row {
    items: Vec<String>,
    /// The case with its suite.
    test: String,
    /// Why the fault cannot be shown on C, if it cannot.
    unseen: Option<String>,
    c: Outcome,
    ours: Outcome,
    seconds: f64,
}

impl Row {
    /// The problem of this result, if there is one.
    fn problem(&self) -> Option<String> {
        if self.ours != Outcome::Passes {
            return Some(format!("ours {}", self.ours));
        }
        match (&self.c, &self.unseen) {
            (_, Some(_)) => None,
            (Outcome::Passes, None) => Some("C passes, too".to_owned()),
            (Outcome::NotTried(why), None) => Some(format!("it was not tried on C: {why}")),
            (_, None) => None,
        }
    }

    fn is_about(&self, item: &HazardItem) -> bool {
        self.items.iter().any(|of| base(of) == item.item)
    }
}

/// The name of an item without the letter of its part.
fn base(item: &str) -> &str {
    item.trim_end_matches(|c: char| c.is_ascii_lowercase())
}

/// The results so far. An interrupted run is continued, unless a kernel or a test has changed.
#[derive(Serialize, Deserialize, Default, PartialEq)]
struct Tested {
    guest: String,
    c: String,
    ours: String,
}

/// The contents of the file of results.
#[derive(Serialize, Deserialize, Default)]
struct Results {
    tested: Tested,
    rows: Vec<Row>,
}

impl Results {
    /// Reads the results that are still valid.
    fn read(file: &Path, tested: Tested) -> Self {
        let old = std::fs::read(file).ok();
        let old: Option<Self> = old.and_then(|text| serde_json::from_slice(&text).ok());
        old.filter(|old| old.tested == tested).unwrap_or(Self {
            tested,
            rows: Vec::new(),
        })
    }

    fn write(&self, ctx: &Ctx, file: &Path) -> Result<()> {
        std::fs::write(file, serde_json::to_vec_pretty(self)?).with_context(|| ctx.shown(file))
    }
}

/// Both kernels, and an initramfs for each of them as the next kernel.
struct Kernels {
    c: (Kernel, PathBuf),
    ours: (Kernel, PathBuf),
}

impl Kernels {
    fn new(ctx: &Ctx, guest: &Path, prebuilt: Option<(PathBuf, PathBuf)>) -> Result<Self> {
        let (c, ours) = match prebuilt {
            Some((c, ours)) => (
                Kernel::prebuilt(Flavour::Peer, c),
                Kernel::prebuilt(Flavour::Ours, ours),
            ),
            None => (
                build::kernel(ctx, Flavour::Peer)?,
                build::kernel(ctx, Flavour::Ours)?,
            ),
        };
        let image = |name, next| initramfs::guest(ctx, name, guest, &[next, next], None);
        let (to_c, to_ours) = (image("test-peer-c", &c)?, image("test-peer-ours", &ours)?);
        Ok(Self {
            c: (c, to_c),
            ours: (ours, to_ours),
        })
    }

    fn tested(&self, guest: &Path) -> Result<Tested> {
        let content = |path: &Path| anyhow::Ok(hex(&std::fs::read(path)?));
        Ok(Tested {
            guest: content(guest)?,
            c: content(&self.c.0.image)?,
            ours: content(&self.ours.0.image)?,
        })
    }

    fn run(
        &self,
        ctx: &Ctx,
        test: &GuestTest,
        case: &HazardCase,
        flavour: Flavour,
    ) -> Result<Outcome> {
        let full = full_name(test, case);
        let (next, image) = if flavour == Flavour::Peer {
            &self.c
        } else {
            &self.ours
        };
        let (kernel, limit) = match flavour {
            Flavour::Peer if case.reader_only => (&self.ours.0, C_BOOT),
            Flavour::Peer => (next, C_BOOT),
            _ => (next, BOOT),
        };
        let vm = Vm::new(
            format!("test-peer-{}-{full}", flavour.name()),
            kernel,
            image,
        )
        .then(next)
        .params(test.cmdline.clone())
        .init(format!("selftest {full}"))
        .limit(limit * (1 + case.kexecs))
        .on(named::machine(&test.machine)?);
        Ok(Outcome::of(&vm.run(ctx)?, &full))
    }
}

/// The selection of cases.
pub struct Options<'a> {
    /// Only items, suites and cases whose names begin with this; the documentation is not changed.
    pub only: Option<&'a str>,
    /// Existing kernels: C, ours.
    pub prebuilt: Option<(PathBuf, PathBuf)>,
    /// The time after which no further case is started.
    pub limit: Option<Duration>,
}

/// Compares the kernels. Returns true if there are no problems.
pub fn run(ctx: &Ctx, options: Options<'_>) -> Result<bool> {
    let Options {
        only,
        prebuilt,
        limit,
    } = options;
    ctx.need_space(12, 4)?;
    let guest = programs::guest(ctx)?;
    let items = programs::hazard_items(ctx)?;
    let tests = programs::guest_tests(ctx)?;
    let wanted = |test: &GuestTest, case: &HazardCase| {
        only.is_none_or(|only| {
            let mut items = case.items.iter();
            full_name(test, case).starts_with(only) || items.any(|item| item.starts_with(only))
        })
    };
    let cases = tests.iter().flat_map(|test| {
        let cases = test.hazards.iter().filter(move |case| wanted(test, case));
        cases.map(move |case| (test, case))
    });
    let cases: Vec<_> = cases.collect();
    if cases.is_empty() {
        bail!("There is no such item, suite or case.");
    }
    let kernels = Kernels::new(ctx, &guest, prebuilt)?;
    let file = ctx.build.join("test-peer.json");
    let mut results = Results::read(&file, kernels.tested(&guest)?);
    if only.is_some() {
        // Named cases are run again.
        results
            .rows
            .retain(|row| !cases.iter().any(|(t, c)| full_name(t, c) == row.test));
    }

    let started = Instant::now();
    let mut left = 0;
    for (number, (test, case)) in cases.iter().enumerate() {
        let name = full_name(test, case);
        if results.rows.iter().any(|row| row.test == name) {
            continue;
        }
        if limit.is_some_and(|limit| started.elapsed() > limit) {
            left += 1;
            continue;
        }
        let items = case.items.join(" ");
        let title = format!("[{}/{}] {items} {name}", number + 1, cases.len());
        let mut step = Step::start(ctx, title);
        let begun = Instant::now();
        step.progress("on C");
        let c = kernels.run(ctx, test, case, Flavour::Peer)?;
        step.progress("on ours");
        let ours = kernels.run(ctx, test, case, Flavour::Ours)?;
        let row = Row {
            items: case.items.clone(),
            test: name,
            unseen: case.unseen.clone(),
            c,
            ours,
            seconds: begun.elapsed().as_secs_f64(),
        };
        let verdict = row
            .problem()
            .map_or(String::new(), |why| format!(" -- WRONG: {why}"));
        step.done(&format!(
            "C {}, ours {}{verdict}",
            row.c.verb(),
            row.ours.verb()
        ));
        results.rows.push(row);
        results.write(ctx, &file)?;
    }

    let rows = &results.rows;
    table::print(&items, rows);
    let mut problems: Vec<String> = rows
        .iter()
        .filter_map(|row| Some(format!("{}: {}", row.test, row.problem()?)))
        .collect();
    if only.is_none() {
        table::document(ctx, &items, rows)?;
        if left > 0 {
            problems.push(format!("{left} cases have not been tested: run it again"));
        }
        let all = || cases.iter().flat_map(|(_, case)| &case.items);
        let missing = items
            .iter()
            .filter(|item| item.otherwise.is_none() && !all().any(|of| base(of) == item.item));
        problems.extend(missing.map(|item| format!("{}: no case is about it", item.item)));
    }
    println!();
    for problem in &problems {
        println!("WRONG {problem}");
    }
    let shown = rows.iter().filter(|row| row.unseen.is_none());
    println!(
        "{} cases, {} of which C can show; {} problems; {} s; {}",
        rows.len(),
        shown.count(),
        problems.len(),
        started.elapsed().as_secs(),
        ctx.shown(&file)
    );
    Ok(problems.is_empty())
}

/// The name of a case with that of its suite.
fn full_name(test: &GuestTest, case: &HazardCase) -> String {
    format!("{}.{}", test.name, case.name)
}
