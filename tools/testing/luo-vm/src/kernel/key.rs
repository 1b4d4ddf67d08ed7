// SPDX-License-Identifier: GPL-2.0

//! The key that kernels are signed with.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::report::step::Step;

/// The certificate in the output directory of a kernel, which `CONFIG_SYSTEM_TRUSTED_KEYS` names.
pub const CERTIFICATE: &str = "signing.pem";
/// The private key beside it.
pub const KEY: &str = "signing.key";

/// Creates a key, and a certificate for it that the kernel in `out` trusts, unless they exist.
pub fn make(step: &mut Step<'_>, out: &Path, log: &Path) -> Result<()> {
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
