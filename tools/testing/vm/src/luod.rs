// SPDX-License-Identifier: GPL-2.0

//! The group `luod`: luod with its clients in two live updates, and luoctl in one, from our kernel
//! and from the one in C.

use std::path::Path;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::groups::boot;
use crate::image;
use crate::kernel::{self, Flavour, Kernel};
use crate::patched::{self, Change};
use crate::programs;
use crate::report::Report;
use crate::vm::{Vm, TIMEOUT};

/// The names of formats, and as long ones that are none.
const NO_FORMATS: [Change; 3] = [
    ("kho-v4", "kho_v4"),
    ("luo-v5", "luo_v5"),
    ("memfd-v2", "memfd_v2"),
];

/// Runs the group.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let kernel = kernel::build(ctx, Flavour::Ours)?;
    let guest = programs::guest(ctx)?;
    let programs = programs::luod(ctx)?;
    let programs: Vec<_> = programs
        .iter()
        .map(|(name, path)| (*name, path.as_path()))
        .collect();
    let initrd = image::guest_with(ctx, "luod", &guest, &[&kernel], &programs)?;
    machine(ctx, report, &kernel, &initrd, "luod", "luod")?;

    let peer = kernel::build(ctx, Flavour::Peer)?;
    let other = patched::image(ctx, &peer, "other", &[("luo-v5", "luo-v6")])?;
    let without = patched::image(ctx, &peer, "without", &NO_FORMATS)?;
    let mut files = programs;
    files.extend([
        ("/boot/c", peer.image.as_path()),
        ("/boot/other", other.as_path()),
        ("/boot/without", without.as_path()),
    ]);
    let initrd = image::guest_with(ctx, "luoctl", &guest, &[&kernel], &files)?;
    machine(ctx, report, &kernel, &initrd, "luoctl", "luoctl")?;
    machine(ctx, report, &peer, &initrd, "luoctl", "luoctl --from=c")
}

fn machine(
    ctx: &Ctx,
    report: &mut Report,
    kernel: &Kernel,
    initrd: &Path,
    suite: &str,
    init: &str,
) -> Result<()> {
    let from_c = !kernel.flavour.is_ours();
    let vm = Vm {
        name: format!("{suite}{}", if from_c { "-from-c" } else { "" }),
        kernel,
        initrd,
        params: String::new(),
        init: init.to_owned(),
        timeout: TIMEOUT * 3,
    };
    let run = boot(ctx, &vm)?;
    report.guest_run(ctx, if from_c { "from C: " } else { "" }, &run, &[suite]);
    Ok(())
}
