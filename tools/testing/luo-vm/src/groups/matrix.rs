// SPDX-License-Identifier: GPL-2.0

//! The groups `matrix` and `matrix-7.2`: updates between implementations.

use std::path::PathBuf;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::groups::luod;
use crate::image::initramfs;
use crate::image::programs::{self, GuestTest};
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::machine::named::{Machine, Q35, USUAL};
use crate::machine::vm::Vm;
use crate::report::results::Report;

/// The group of those guest tests that run between kernels of different kinds.
pub const MATRIX: &str = "matrix";

/// The common files of the groups of the matrix.
struct Matrix {
    guest: PathBuf,
    tests: Vec<GuestTest>,
    ours: Kernel,
}

impl Matrix {
    fn new(ctx: &Ctx) -> Result<Self> {
        let guest = programs::guest(ctx)?;
        let mut tests = programs::guest_tests(ctx)?;
        tests.retain(|test| test.group == MATRIX);
        let ours = build::kernel(ctx, Flavour::Ours)?;
        Ok(Self { guest, tests, ours })
    }

    /// Runs the tests from the kernel `from` to the kernel `to`, on a machine of the kind `machine`.
    fn update(
        &self,
        ctx: &Ctx,
        report: &mut Report,
        machine: &'static Machine,
        [from, to]: [&Kernel; 2],
    ) -> Result<()> {
        let pair = format!("{}-to-{}", from.flavour.name(), to.flavour.name());
        let initrd = initramfs::guest(ctx, &pair, &self.guest, &[to, to], None)?;
        for test in &self.tests {
            let vm = Vm::new(
                format!("{pair}-{}-{}", machine.name, test.name),
                from,
                &initrd,
            )
            .params(test.cmdline.clone())
            .init(format!("selftest {}", test.name))
            .kexecs(test.kexecs)
            .then(to)
            .on(machine);
            let run = vm.boot(ctx)?;
            let prefix = format!("{} to {} on {}: ", from.label(), to.label(), machine.name);
            run.judge(ctx, report, &prefix, &[&test.name]);
        }
        Ok(())
    }
}

/// Updates between the C implementation and ours.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let matrix = Matrix::new(ctx)?;
    let ours = &matrix.ours;
    let peer = build::kernel(ctx, Flavour::Peer)?;
    for pair in [[&peer, ours], [ours, &peer], [ours, ours]] {
        matrix.update(ctx, report, &USUAL, pair)?;
    }
    match Q35.is_of(ctx.settings.arch) {
        true => matrix.update(ctx, report, &Q35, [ours, ours]),
        false => Ok(()),
    }
}

/// The same, from the C implementation of Linux 7.2, if its source is available.
pub fn run_72(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let matrix = Matrix::new(ctx)?;
    match build::kernel(ctx, Flavour::Peer72) {
        Ok(older) => {
            matrix.update(ctx, report, &USUAL, [&older, &matrix.ours])?;
            luod::Luoctl::new(ctx, &older)?.update(ctx, report, &older, &matrix.ours)?;
        }
        Err(error) => report.not_run("C 7.2 to ours", &format!("{error:#}")),
    }
    Ok(())
}
