// SPDX-License-Identifier: GPL-2.0

//! The parts of the cases in each kernel.

use crate::support::{
    error::{At, Result},
    kexec, memfd,
    pattern::Pattern,
    registry::Stage,
    sessions::{create, expect_errno, retrieve},
};
use liveupdate::Device;
use rustix::io::Errno;

/// The files of each session.
pub const FILES: [(u64, Pattern); 4] = [
    (
        1,
        Pattern {
            seed: 800,
            len: 70_000,
        },
    ),
    (2, Pattern { seed: 801, len: 0 }),
    (
        9,
        Pattern {
            seed: 802,
            len: 3_000_000,
        },
    ),
    (u64::MAX, Pattern { seed: 803, len: 1 }),
];
pub const NEW: Pattern = Pattern {
    seed: 804,
    len: 70_000,
};

pub fn fill(stage: &mut Stage<'_>, name: &str) -> Result {
    let session = create(name)?;
    for (token, pattern) in FILES {
        let file = memfd::with(pattern)?;
        session.preserve(&file, token)?;
        stage.hold(file);
    }
    stage.hold(session);
    Ok(())
}

/// Retrieves all files and finishes the session.
pub fn take(name: &str) -> Result {
    let session = retrieve(name)?;
    for (token, pattern) in FILES {
        memfd::check(session.retrieve(token).at(token)?, pattern).at(token)?;
    }
    Ok(session.finish()?)
}

pub fn gone(name: &str) -> Result {
    expect_errno(
        Device::open()?.retrieve_session(name),
        Errno::NOENT,
        "retrieving a session that was finished",
    )
}

/// Tries to start the next kernel, which must be refused.
pub fn refused(errno: Errno) -> Result {
    expect_errno(Err::<(), _>(kexec::try_jump()), errno, "reboot(KEXEC)")
}
