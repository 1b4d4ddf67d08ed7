// SPDX-License-Identifier: GPL-2.0

//! Programs of Debian that set the clock of the guest: QEMU's guest agent, and chrony.

use crate::support::error::{At, Failure, Result};
use std::{fs, path::PathBuf, process::Command, thread::sleep, time::Duration};

/// The programs, their loader, and the directory with their libraries.
const AGENT: &str = "/bin/qemu-ga";
const CHRONY: &str = "/bin/chronyd";
const LOADER: &str = "/lib/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "/lib";

/// The beginning of the name of the port to the host. The guest has no other port; the number in
/// the name is that of the virtio device.
const PORT: &str = "vport";

/// The configuration of chrony: the first two lines are those that the documentation recommends.
const CONFIGURATION: [&str; 5] = [
    "refclock PHC /dev/ptp0 poll 2",
    "makestep 0.1 -1",
    "cmdport 0",
    "bindcmdaddress /",
    "pidfile /tmp/chronyd.pid",
];

/// Whether the guest has an agent.
pub(super) fn has_agent() -> bool {
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

/// Runs a program, which is expected not to end.
fn run(program: &str, arguments: impl FnOnce(&mut Command)) -> Result<()> {
    let mut command = Command::new(LOADER);
    command.args(["--library-path", LIBRARIES, program]);
    arguments(&mut command);
    let status = command.status().at("start a program")?;
    Err(Failure::new(format!("{program} has ended: {status}")))
}

/// Runs the guest agent.
pub(super) fn run_agent() -> Result<()> {
    let port = port()?;
    run(AGENT, |agent| {
        agent.args(["--method", "virtio-serial", "--statedir", "/tmp", "--path"]);
        agent.arg(port);
    })
}

/// Runs chrony, which follows the clock of the host.
pub(super) fn run_chrony() -> Result<()> {
    // chrony looks up its user.
    fs::create_dir_all("/etc").at("make /etc")?;
    fs::write("/etc/passwd", "root:x:0:0::/:\n").at("write /etc/passwd")?;
    run(CHRONY, |chrony| {
        chrony.args(["-d", "-u", "root"]).args(CONFIGURATION);
    })
}
