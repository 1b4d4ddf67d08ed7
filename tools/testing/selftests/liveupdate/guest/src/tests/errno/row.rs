// SPDX-License-Identifier: GPL-2.0

//! A row of the table of errors, and its case.

use super::table::Row;
use crate::support::{
    error::Result,
    memfd,
    pattern::Pattern,
    registry::Case,
    sessions::{create, retrieve},
    test_device::TestDevice,
};
use liveupdate::{Device, IncomingSession, OutgoingSession};

/// The file in an incoming session of these tests, and its token.
pub const FILE: Pattern = Pattern {
    seed: 900,
    len: 5000,
};
pub const TOKEN: u64 = 1;

/// The test of a row.
pub enum Check {
    /// With the device; there are no sessions.
    Device(fn(&Device) -> Result),
    /// With an empty session.
    Outgoing(fn(&OutgoingSession) -> Result),
    /// With a session that has one file. The name is that of the session.
    Incoming(fn(IncomingSession, &str) -> Result),
    /// The same, but the session is not retrieved yet.
    Waiting(fn(&str) -> Result),
    /// With a file of the test handler to which a command was written.
    Handler(&'static str, fn(IncomingSession) -> Result),
    /// Tested by another suite, or by KUnit if half a million objects would be needed.
    Elsewhere,
}

/// A row of the table with its test.
pub struct Test {
    ioctl: &'static str,
    errno: &'static str,
    when: &'static str,
    check: Check,
    /// The fault of C.
    hazard: Option<&'static str>,
}

pub fn test(ioctl: &'static str, errno: &'static str, when: &'static str, check: Check) -> Test {
    Test {
        ioctl,
        errno,
        when,
        check,
        hazard: None,
    }
}

impl Test {
    pub fn hazard(mut self, item: &'static str) -> Self {
        self.hazard = Some(item);
        self
    }

    pub fn is_for(&self, row: &Row) -> bool {
        (self.ioctl, self.errno, self.when) == (&row.ioctl, &row.errno, &row.when)
    }

    /// A name without special characters.
    pub fn name(&self) -> String {
        let text = format!("{} {} {}", self.ioctl, self.errno, self.when).to_lowercase();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        words.join("_")
    }

    pub fn into_case(self, number: usize) -> Option<Case> {
        let name = self.name();
        let session = format!("errno-{number}");
        let new = session.clone();
        let case = match self.check {
            Check::Device(check) => Case::one(name, move |_| check(&Device::open()?)),
            Check::Outgoing(check) => Case::one(name, move |_| check(&create(&session)?)),
            Check::Incoming(check) => Case::two(
                name,
                move |stage| {
                    stage.hold(session_with_file(&new)?);
                    Ok(())
                },
                move |_| check(retrieve(&session)?, &session),
            ),
            Check::Waiting(check) => Case::two(
                name,
                move |stage| {
                    stage.hold(session_with_file(&new)?);
                    Ok(())
                },
                move |_| check(&session),
            ),
            Check::Handler(order, check) => Case::two(
                name,
                move |stage| {
                    let device = TestDevice::open(TestDevice::C)?;
                    device.write(order)?;
                    let outgoing = create(&new)?;
                    outgoing.preserve(&device, TOKEN)?;
                    stage.hold((outgoing, device));
                    Ok(())
                },
                move |_| check(retrieve(&session)?),
            ),
            Check::Elsewhere => return None,
        };
        Some(match self.hazard {
            Some(item) => case.hazard(item),
            None => case,
        })
    }
}

pub fn session_with_file(name: &str) -> Result<OutgoingSession> {
    let session = create(name)?;
    session.preserve(memfd::with(FILE)?, TOKEN)?;
    Ok(session)
}

/// Checks that a session is unchanged.
pub fn is_intact(session: IncomingSession) -> Result {
    memfd::check(session.retrieve(TOKEN)?, FILE)?;
    Ok(session.finish()?)
}
