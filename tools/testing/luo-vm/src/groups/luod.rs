// SPDX-License-Identifier: GPL-2.0

//! The group `luod`: luod with its clients in two live updates, and luoctl in one, between our
//! kernel and those in C.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::initramfs;
use crate::image::programs;
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::kernel::patched::{self, Change};
use crate::machine::vm::Vm;
use crate::report::results::Report;

/// The names of formats, and names of the same length that no format has.
const NO_FORMATS: [Change; 3] = [
    ("kho-v4", "kho_v4"),
    ("luo-v5", "luo_v5"),
    ("memfd-v2", "memfd_v2"),
];

/// Runs the group.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let ours = build::kernel(ctx, Flavour::Ours)?;
    let guest = programs::guest(ctx)?;
    let programs = programs::luod(ctx)?;
    let programs: Vec<_> = programs
        .iter()
        .map(|(name, path)| (*name, path.as_path()))
        .collect();
    let initrd = initramfs::guest_with(ctx, "luod", &guest, &[&ours], &programs)?;
    let vm = machine("luod", &ours, &initrd, "luod");
    vm.boot(ctx)?.judge(ctx, report, "", &["luod"]);

    let peer = build::kernel(ctx, Flavour::Peer)?;
    let luoctl = Luoctl::new(ctx, &peer)?;
    for (from, to) in [(&ours, &ours), (&peer, &ours), (&ours, &peer)] {
        luoctl.update(ctx, report, from, to)?;
    }
    Ok(())
}

/// The files for the test of luoctl.
pub struct Luoctl {
    guest: PathBuf,
    /// Further files in the image: programs, and kernels that luoctl must distinguish.
    files: Vec<(&'static str, PathBuf)>,
}

impl Luoctl {
    /// `peer` is a kernel in C.
    pub fn new(ctx: &Ctx, peer: &Kernel) -> Result<Self> {
        let guest = programs::guest(ctx)?;
        let mut files = programs::luod(ctx)?;
        let other = patched::image(ctx, peer, "other", &[("luo-v5", "luo-v6")])?;
        let without = patched::image(ctx, peer, "without", &NO_FORMATS)?;
        files.extend([
            ("/boot/c", peer.image.clone()),
            ("/boot/other", other),
            ("/boot/without", without),
        ]);
        Ok(Self { guest, files })
    }

    /// Runs an update.
    pub fn update(&self, ctx: &Ctx, report: &mut Report, from: &Kernel, to: &Kernel) -> Result<()> {
        let files = self.files.iter();
        let files: Vec<_> = files.map(|(name, path)| (*name, path.as_path())).collect();
        let name = format!("luoctl-{}-to-{}", from.flavour.name(), to.flavour.name());
        let initrd = initramfs::guest_with(ctx, &name, &self.guest, &[to], &files)?;
        let to_ours = to.flavour.is_ours();
        let init = if to_ours { "luoctl" } else { "luoctl --to=c" };
        let prefix = if from.flavour.is_ours() && to_ours {
            String::new()
        } else {
            format!("{} to {}: ", from.label(), to.label())
        };
        let vm = machine(&name, from, &initrd, init).then(to);
        vm.boot(ctx)?.judge(ctx, report, &prefix, &["luoctl"]);
        Ok(())
    }
}

fn machine<'a>(name: &str, kernel: &'a Kernel, initrd: &'a Path, init: &str) -> Vm<'a> {
    Vm::new(name, kernel, initrd).init(init).kexecs(2)
}
