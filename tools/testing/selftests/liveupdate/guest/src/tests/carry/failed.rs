// SPDX-License-Identifier: GPL-2.0

//! Files that could not be retrieved, and their handling in the next kexec.
//!
//! A suite of its own, since a file with a temporary failure may abort a kexec.

use super::steps::chain;
use crate::support::{
    error::ensure_eq,
    memfd,
    pattern::Pattern,
    registry::{Case, Suite},
    sessions::{create, expect_errno, retrieve},
    test_device::TestDevice,
};
use rustix::io::Errno;

const FINE: Pattern = Pattern {
    seed: 820,
    len: 300_001,
};

/// A file that failed temporarily is carried over, and can be retrieved.
fn once() -> Case {
    const NAME: &str = "carry-failed-once";
    chain(
        "for_the_moment",
        [
            |stage| {
                let session = create(NAME)?;
                for (token, value, knob) in [(1, "61", "fail-retrieve-once 12"), (2, "62", "")] {
                    let device = TestDevice::open(TestDevice::C)?;
                    device.write(value)?;
                    if !knob.is_empty() {
                        device.write(knob)?;
                    }
                    session.preserve(&device, token)?;
                    stage.hold(device);
                }
                stage.hold(session);
                Ok(())
            },
            |_| {
                let session = retrieve(NAME)?;
                expect_errno(session.retrieve(1), Errno::NOMEM, "RETRIEVE_FD")
            },
            |_| {
                let session = retrieve(NAME)?;
                for token in 1..=2 {
                    let device = TestDevice::from(session.retrieve(token)?);
                    ensure_eq!(device.value()?, 60 + token, "the value");
                }
                Ok(session.finish()?)
            },
        ],
    )
}

/// A lost file does not prevent the others from being carried over.
fn for_good() -> Case {
    const NAME: &str = "carry-failed";
    chain(
        "for_good",
        [
            |stage| {
                let bad = TestDevice::open(TestDevice::C)?;
                bad.write("fail-retrieve 5")?;
                let file = memfd::with(FINE)?;
                let session = create(NAME)?;
                session.preserve(&bad, 1)?;
                session.preserve(&file, 2)?;
                stage.hold((session, bad, file));
                Ok(())
            },
            |_| {
                let session = retrieve(NAME)?;
                expect_errno(session.retrieve(1), Errno::IO, "RETRIEVE_FD")
            },
            |_| {
                let session = retrieve(NAME)?;
                expect_errno(session.retrieve(1), Errno::NOENT, "RETRIEVE_FD")?;
                memfd::check(session.retrieve(2)?, FINE)?;
                Ok(session.finish()?)
            },
        ],
    )
}

pub fn suite() -> Suite {
    Suite::new("carry_failed", vec![once(), for_good()])
}
