// SPDX-License-Identifier: GPL-2.0

//! The groups `machines` and `machines-all`: several updates in a row on machines of other kinds.

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::{initramfs, programs};
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::kernel::signing;
use crate::machine::named::{
    Machine, CHECKED, CRASH, GIGANTIC, HUGE_PAGES, IOMMU, LARGE, LOCKED, NODES, Q35, SCRATCH,
    SMALL, UEFI, USUAL,
};
use crate::machine::vm::Vm;
use crate::report::results::Report;

/// The group of those guest tests that need one of these machines.
pub const MACHINES: &str = "machines";

/// The suites that run on most machines: three updates in a row, and files of all kinds.
const SUITES: [&str; 3] = ["chain", "roundtrip", "memfd"];

/// The number of updates of the longest suite.
const UPDATES: u32 = 3;

/// A machine, and the suites that run on it.
struct Row {
    /// Its name in results.
    name: &'static str,
    machine: &'static Machine,
    suites: &'static [&'static str],
    /// A parameter that every other kernel has.
    alternate: Option<&'static str>,
}

impl Row {
    const fn new(machine: &'static Machine) -> Self {
        Self {
            name: machine.name,
            machine,
            suites: &SUITES,
            alternate: None,
        }
    }
}

/// The machines of `make test`.
const SOME: [Row; 8] = [
    Row::new(&UEFI),
    Row {
        suites: &["chain", "roundtrip", "memfd", "signed"],
        ..Row::new(&LOCKED)
    },
    Row {
        suites: &["chain", "roundtrip", "memfd", "iommu"],
        ..Row::new(&IOMMU)
    },
    Row::new(&HUGE_PAGES),
    Row {
        suites: &["chain", "roundtrip", "memfd", "nodes", "hugetlb_nodes"],
        ..Row::new(&NODES)
    },
    Row {
        suites: &["gigantic"],
        ..Row::new(&GIGANTIC)
    },
    Row {
        suites: &["gigantic_damage"],
        ..Row::new(&LARGE)
    },
    // Its programs unload modules, which no other suite must use.
    Row {
        name: "modules",
        suites: &["modules"],
        ..Row::new(&USUAL)
    },
];

/// The other machines.
const MORE: [Row; 6] = [
    Row {
        name: "page-table-levels",
        alternate: Some("no5lvl"),
        ..Row::new(&Q35)
    },
    Row::new(&SMALL),
    Row::new(&LARGE),
    Row::new(&CHECKED),
    Row::new(&SCRATCH),
    Row {
        suites: &["crash"],
        ..Row::new(&CRASH)
    },
];

/// The machines of `make test`.
pub fn some(ctx: &Ctx, report: &mut Report) -> Result<()> {
    run(ctx, report, MACHINES, &SOME)
}

/// The others.
pub fn others(ctx: &Ctx, report: &mut Report) -> Result<()> {
    run(ctx, report, "machines-all", &MORE)
}

fn run(ctx: &Ctx, report: &mut Report, group: &str, rows: &[Row]) -> Result<()> {
    let known = rows.iter().flat_map(|row| row.suites.iter().copied());
    ctx.settings.check_suites(group, known)?;
    // Some machines load only kernels that are signed.
    let kernel = signing::signed(ctx, &build::kernel(ctx, Flavour::Ours)?)?;
    let guest = programs::guest(ctx)?;
    let initrd = initramfs::guest_with_modules(ctx, MACHINES, &guest, &[&kernel, &kernel])?;
    for row in rows {
        let mut suites = row.suites.to_vec();
        suites.retain(|suite| ctx.settings.wants(suite));
        if suites.is_empty() {
            continue;
        }
        let mut init = format!("selftest {}", suites.join(" "));
        if let Some(word) = row.alternate {
            init = format!("{init} --alternate={word}");
        }
        let vm = Vm::new(format!("machine-{}", row.name), &kernel, &initrd)
            .on(row.machine)
            .init(init)
            .kexecs(UPDATES);
        let run = vm.boot(ctx)?;
        run.judge(ctx, report, &format!("{}: ", row.name), &suites);
    }
    Ok(())
}
