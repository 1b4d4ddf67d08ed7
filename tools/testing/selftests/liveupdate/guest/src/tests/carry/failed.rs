// SPDX-License-Identifier: GPL-2.0

//! Files that could not be retrieved, and their handling in the next kexec.
//!
//! A suite of its own, since a file with a temporary failure may abort a kexec.

use crate::support::{
    cgroup::Cgroup,
    error::ensure_eq,
    memfd,
    pattern::Pattern,
    process::{Child, End},
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
    Case::chain(
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
    Case::chain(
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

/// A file that could not be retrieved for lack of memory is retrieved for the kexec. It is not charged to
/// the process that starts the next kernel.
///
/// Must be the last case, since it changes that process.
fn caller_in_cgroup() -> Case {
    const NAME: &str = "carry-cgroup";
    const LARGE: Pattern = Pattern {
        seed: 850,
        len: 192 << 20,
    };
    Case::chain(
        "caller_in_cgroup",
        [
            |stage| {
                let session = create(NAME)?;
                session.preserve(memfd::with(LARGE)?, 1)?;
                stage.hold(session);
                Ok(())
            },
            |stage| {
                let group = Cgroup::new("carry")?;
                // Enough for the next kernel, which this process loads.
                group.limit(LARGE.len / 3 * 2)?;
                let session = retrieve(NAME)?;
                let child = Child::start(|| {
                    group.enter()?;
                    session.retrieve(1).map(drop)
                })?;
                ensure_eq!(child.wait()?, End::Error(Errno::NOMEM), "RETRIEVE_FD");
                group.enter()?;
                stage.hold((session, group));
                Ok(())
            },
            |_| {
                let session = retrieve(NAME)?;
                memfd::check(session.retrieve(1)?, LARGE)?;
                Ok(session.finish()?)
            },
        ],
    )
    .hazard("5.5")
}

pub fn suite() -> Suite {
    Suite::new("carry_failed", vec![once(), for_good(), caller_in_cgroup()])
}
