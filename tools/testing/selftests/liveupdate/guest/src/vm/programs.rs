// SPDX-License-Identifier: GPL-2.0

//! The guest agent of QEMU.

use crate::support::error::{At, Failure, Result};
use std::{fs, path::PathBuf, process::Command, thread::sleep, time::Duration};

/// The program, its loader, and the directory with its libraries.
const AGENT: &str = "/bin/qemu-ga";
const LOADER: &str = "/lib/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "/lib";

/// What the name of the port to the host begins with. The guest has no other port; the number in the
/// name is that of the virtio device.
const PORT: &str = "vport";

/// Whether the guest has an agent.
pub(super) fn exists() -> bool {
    fs::exists(AGENT).unwrap_or(false)
}

/// The port, as soon as the driver has found it.
fn port() -> Result<PathBuf> {
    loop {
        for entry in fs::read_dir("/dev").at("read /dev")? {
            let entry = entry.at("read /dev")?;
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(PORT.as_bytes())
            {
                return Ok(entry.path());
            }
        }
        sleep(Duration::from_millis(200));
    }
}

/// Runs it. It does not end.
pub(super) fn run() -> Result<()> {
    let mut agent = Command::new(LOADER);
    agent.args(["--library-path", LIBRARIES, AGENT]);
    agent.args(["--method", "virtio-serial", "--statedir", "/tmp", "--path"]);
    let status = agent.arg(port()?).status().at("start the guest agent")?;
    Err(Failure::new(format!("the guest agent has ended: {status}")))
}
