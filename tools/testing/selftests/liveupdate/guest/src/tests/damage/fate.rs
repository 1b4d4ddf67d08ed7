// SPDX-License-Identifier: GPL-2.0

//! Requests of damage, and the expected results.

use crate::support::{
    error::{ensure, At, Failure, Result},
    kernel_log::kernel_log,
    memfd,
    pattern::Pattern,
    registry::Stage,
    sessions::{create, expect_errno, fdinfo},
};
use liveupdate::IncomingSession;
use rustix::io::Errno;
use std::{fs, fs::File, io};

pub const DAMAGE: &str = "/sys/kernel/debug/liveupdate/damage";

/// The damaged file, and the undamaged one.
pub const BAD: Pattern = Pattern {
    seed: 600,
    len: 20_000,
};
pub const GOOD: Pattern = Pattern {
    seed: 601,
    len: 30_000,
};

/// An address without memory on all test machines.
pub const NOWHERE: &str = "0x7f0000001000";

/// Requests damage; `@` is replaced by the session.
pub fn damage(session: &str, lines: &[&str]) -> Result {
    for line in lines {
        let line = line.replace('@', session);
        match fs::write(DAMAGE, &line) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::skip("this kernel cannot damage data"))
            }
            result => result.at(format_args!("{DAMAGE}: '{line}'"))?,
        }
    }
    Ok(())
}

/// The device works.
pub fn healthy(name: &str) -> Result {
    let name = format!("{name}-new");
    let session = create(&name)?;
    let file = memfd::with(GOOD)?;
    session.preserve(&file, 1).at("preserve a file")
}

/// Fails unless the kernel has logged an error about the session, or about anything.
pub fn reported(words: &[&str]) -> Result {
    let log = kernel_log()?;
    let found = log
        .lines()
        .any(|line| words.iter().all(|word| line.contains(word)));
    ensure!(found, "the kernel log has no line with {words:?}");
    Ok(())
}

/// A session whose file 1 will be damaged.
pub fn preserve(stage: &mut Stage<'_>, name: &str, bad: File) -> Result {
    let good = memfd::with(GOOD)?;
    let session = create(name)?;
    session.preserve(&bad, 1)?;
    session.preserve(&good, 2)?;
    stage.hold((session, bad, good));
    Ok(())
}

/// The state of file 1 in the report of the session.
pub fn file_line(session: &IncomingSession) -> Result<String> {
    fdinfo(session)?
        .into_iter()
        .find(|(key, value)| key == "luo-file" && value.starts_with("token 1 "))
        .map(|(_, value)| value)
        .at("fdinfo has no line for file 1")
}

/// The expected result for the damaged file.
#[derive(Clone, Copy)]
pub enum Fate {
    /// It can never be retrieved, with this error, which is in fdinfo.
    Fails(Errno),
    /// This kernel does not know what is in its description, and leaves it to another one.
    NotUnderstood,
    /// It cannot be retrieved as long as no handler for it is registered.
    NoHandler,
    /// It can be retrieved.
    Intact,
}

pub fn check_fate(session: &IncomingSession, fate: Fate) -> Result {
    match fate {
        Fate::Fails(errno) => {
            expect_errno(session.retrieve(1), errno, "the first RETRIEVE_FD")?;
            expect_errno(session.retrieve(1), errno, "the second RETRIEVE_FD")?;
            let line = file_line(session)?;
            let wanted = format!("state failed error -{}", errno.raw_os_error());
            ensure!(line.ends_with(&wanted), "fdinfo says: {line}");
        }
        Fate::NotUnderstood => {
            for _ in 0..2 {
                expect_errno(session.retrieve(1), Errno::OPNOTSUPP, "RETRIEVE_FD")?;
            }
            let line = file_line(session)?;
            ensure!(line.ends_with("state incoming"), "fdinfo says: {line}");
            reported(&["does not understand the file with token 1"])?;
        }
        Fate::NoHandler => {
            for _ in 0..2 {
                expect_errno(session.retrieve(1), Errno::OPNOTSUPP, "RETRIEVE_FD")?;
            }
            reported(&["no file handler"])?;
        }
        Fate::Intact => {
            memfd::check(session.retrieve(1)?, BAD).at("the file")?;
        }
    }
    Ok(())
}
