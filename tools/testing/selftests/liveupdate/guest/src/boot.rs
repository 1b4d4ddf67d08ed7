// SPDX-License-Identifier: GPL-2.0

//! Process 1.

use crate::{
    cli,
    support::{
        args::Args,
        error::{At, Result},
    },
};
use rustix::{
    mount::MountFlags,
    process::{Resource, Rlimit},
    system::RebootCommand,
};
use std::{
    convert::Infallible,
    fs,
    io::{self, Write},
    os::fd::AsFd,
    panic,
    process::ExitCode,
};

/// File systems, and where they are mounted. Not every kernel has those in directories of sysfs.
const MOUNTS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
    ("debugfs", "/sys/kernel/debug"),
    ("tracefs", "/sys/kernel/tracing"),
];

fn mount_all() -> Result {
    for (fs_type, target) in MOUNTS {
        if target.starts_with("/sys/kernel/") && !fs::exists(target).unwrap_or(false) {
            continue;
        }
        // It exists unless the image was built without it.
        let _ = fs::create_dir(target);
        rustix::mount::mount(fs_type, target, fs_type, MountFlags::empty(), None)
            .at(format_args!("mount {target}"))?;
    }
    Ok(())
}

/// Connects the standard descriptors with the console.
///
/// The kernel does this only if there is a device node in the image.
fn open_console() -> Result {
    let console = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/console")
        .at("open /dev/console")?;
    rustix::stdio::dup2_stdin(console.as_fd())?;
    rustix::stdio::dup2_stdout(console.as_fd())?;
    rustix::stdio::dup2_stderr(console.as_fd())?;
    Ok(())
}

fn set_up() -> Result {
    mount_all()?;
    open_console()?;
    // Hundreds of sessions and files are open at a time.
    let limit = Rlimit {
        current: Some(4096),
        maximum: Some(4096),
    };
    rustix::process::setrlimit(Resource::Nofile, limit).at("raise the limit of descriptors")
}

/// Sets up the system, runs the command, and turns the machine off. Never returns.
pub fn init(args: &Args) -> ExitCode {
    let status = match set_up() {
        // The kernel panics if process 1 exits.
        Ok(()) => panic::catch_unwind(panic::AssertUnwindSafe(|| cli::status(args))).unwrap_or(101),
        Err(error) => {
            println!("# set-up failed: {error}");
            1
        }
    };
    println!("luo-guest: exit {status}");
    let _ = io::stdout().flush();
    match reboot() {
        Ok(never) => match never {},
        Err(error) => println!("# reboot: {error}"),
    }
    // Process 1 has no alternative.
    loop {
        std::thread::park();
    }
}

/// Restarts the machine, upon which QEMU exits.
fn reboot() -> io::Result<Infallible> {
    rustix::fs::sync();
    rustix::system::reboot(RebootCommand::Restart)?;
    Err(io::Error::other("the machine did not restart"))
}
