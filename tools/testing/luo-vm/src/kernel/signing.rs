// SPDX-License-Identifier: GPL-2.0

//! Signing kernel images, for kernels that verify the signature of the next one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::kernel::build::Kernel;
use crate::report::step::Step;

/// The certificate in the output directory of a kernel, which `CONFIG_SYSTEM_TRUSTED_KEYS` names.
const CERTIFICATE: &str = "signing.pem";
/// The private key beside it.
const KEY: &str = "signing.key";

/// Creates a key, and a certificate for it that the kernel in `out` trusts, unless they exist.
pub fn make_key(step: &mut Step<'_>, out: &Path, log: &Path) -> Result<()> {
    if out.join(CERTIFICATE).exists() && out.join(KEY).exists() {
        return Ok(());
    }
    let mut command = Command::new("openssl");
    command
        .args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes"])
        .args(["-sha256", "-days", "36500"])
        .args(["-subj", "/CN=kernels of luo-vm"])
        .arg("-keyout")
        .arg(out.join(KEY))
        .arg("-out")
        .arg(out.join(CERTIFICATE));
    step.run(&mut command, log)
}

/// `kernel` with a signed copy of its image.
pub fn signed(ctx: &Ctx, kernel: &Kernel) -> Result<Kernel> {
    let mut image: PathBuf = kernel.image.clone();
    image.as_mut_os_string().push(".signed");
    let mut step = Step::start(ctx, format!("sign the kernel {}", kernel.flavour.name()));
    let _ = fs::remove_file(&image);
    let mut command = Command::new("sbsign");
    command
        .arg("--key")
        .arg(kernel.out.join(KEY))
        .arg("--cert")
        .arg(kernel.out.join(CERTIFICATE))
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
