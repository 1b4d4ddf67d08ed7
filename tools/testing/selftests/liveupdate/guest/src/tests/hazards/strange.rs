// SPDX-License-Identifier: GPL-2.0

//! The next kernel has no handler for a file.

use crate::support::{
    error::{ensure, At, Result},
    kernel_log::kernel_log,
    kexec, memfd,
    pattern::Pattern,
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno},
    test_device::TestDevice,
};
use liveupdate::Device;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

const MEMORY: Pattern = Pattern {
    seed: 1300,
    len: 40_000,
};

/// A file whose handler the next kernel does not have. The kernel in C has only one handler.
fn stranger() -> Result<OwnedFd> {
    let (file, init) = match TestDevice::open(TestDevice::C) {
        Ok(device) => (device.as_fd().try_clone_to_owned(), "luo_test_init"),
        Err(_) => (
            memfd::with(MEMORY)?.as_fd().try_clone_to_owned(),
            "memfd_luo_init",
        ),
    };
    kexec::add_param(&format!("initcall_blacklist={init}"))?;
    file.at("dup")
}

fn preserve(stage: &mut Stage<'_>, name: &str) -> Result {
    let (stranger, memory) = (stranger()?, memfd::with(MEMORY)?);
    let session = create(name)?;
    session.preserve(&stranger, 1)?;
    session.preserve(&memory, 2)?;
    stage.hold((session, stranger, memory));
    Ok(())
}

/// Only that file is lost.
fn one_file_only() -> Case {
    const NAME: &str = "strange";
    Case::two(
        "costs_one_file_only",
        |stage| preserve(stage, NAME),
        |_| {
            let device = Device::open().at("open the device")?;
            let session = device.retrieve_session(NAME)?;
            for _ in 0..2 {
                expect_errno(session.retrieve(1), Errno::OPNOTSUPP, "RETRIEVE_FD")?;
            }
            memfd::check(session.retrieve(2)?, MEMORY).at("the other file")?;
            session.finish()?;
            drop(device.create_session(NAME)?);
            Ok(())
        },
    )
    .hazard("1A.5")
}

/// The kernel logs it, and user data cannot forge log lines.
fn forged_line() -> Case {
    const NAME: &str = "strange\nforged";
    Case::two(
        "names_cannot_forge_log_lines",
        |stage| preserve(stage, NAME),
        |_| {
            let session = Device::open().and_then(|device| device.retrieve_session(NAME));
            if let Ok(session) = &session {
                expect_errno(session.retrieve(1), Errno::OPNOTSUPP, "RETRIEVE_FD")?;
            }
            let log = kernel_log()?;
            ensure!(log.contains("handler"), "the kernel log has no such line");
            // The escape sequence of a newline in a message.
            ensure!(
                !log.contains("\\x0aforged"),
                "a name with a newline is logged without escaping"
            );
            Ok(session?.finish()?)
        },
    )
    .hazard("1B.6")
}

pub fn suite() -> Suite {
    Suite::new("strange", vec![one_file_only(), forged_line()])
}
