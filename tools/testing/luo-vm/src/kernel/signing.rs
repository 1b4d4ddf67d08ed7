// SPDX-License-Identifier: GPL-2.0

//! Signing kernel images, for kernels that verify the signature of the next one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::kernel::build::Kernel;
use crate::kernel::key;
use crate::report::step::Step;

/// `kernel` with a signed copy of its image.
pub fn signed(ctx: &Ctx, kernel: &Kernel) -> Result<Kernel> {
    let mut image: PathBuf = kernel.image.clone();
    image.as_mut_os_string().push(".signed");
    let mut step = Step::start(ctx, format!("sign the kernel {}", kernel.flavour.name()));
    let _ = fs::remove_file(&image);
    let mut command = Command::new("sbsign");
    command
        .arg("--key")
        .arg(kernel.out.join(key::KEY))
        .arg("--cert")
        .arg(kernel.out.join(key::CERTIFICATE))
        .arg("--output")
        .arg(&image)
        .arg(&kernel.image);
    step.run(&mut command, &ctx.log("sign"))?;
    step.done("");
    Ok(Kernel {
        image,
        ..kernel.clone()
    })
}
