// SPDX-License-Identifier: GPL-2.0

//! Every error of every ioctl, as the documentation lists them.

pub mod arg;
mod device;
mod general;
mod late;
mod memory;
mod session;
mod table;

use super::common::{create, expect_errno, retrieve, TestDevice};
use crate::{
    ensure,
    error::Result,
    memfd,
    pattern::Pattern,
    registry::{Case, Suite},
};
use liveupdate::{Device, IncomingSession, OutgoingSession};
use rustix::io::Errno;
use table::Row;

/// The file in an incoming session of these tests, and its token.
const FILE: Pattern = Pattern {
    seed: 900,
    len: 5000,
};
const TOKEN: u64 = 1;

/// How a row of the table is tested.
enum Check {
    /// With the device; there are no sessions.
    Device(fn(&Device) -> Result),
    /// With an empty session.
    Outgoing(fn(&OutgoingSession) -> Result),
    /// With a session that has one file. The name is that of the session.
    Incoming(fn(IncomingSession, &str) -> Result),
    /// As before, but the session is still to be retrieved.
    Waiting(fn(&str) -> Result),
    /// With a file of the test handler that was prepared by a line of text.
    Handler(&'static str, fn(IncomingSession) -> Result),
    /// Another suite does it; or KUnit, where half a million of something would be needed.
    Elsewhere,
}

/// A row of the table with its test.
struct Test {
    ioctl: &'static str,
    errno: &'static str,
    when: &'static str,
    check: Check,
    /// What C gets wrong here.
    hazard: Option<&'static str>,
}

fn test(ioctl: &'static str, errno: &'static str, when: &'static str, check: Check) -> Test {
    Test {
        ioctl,
        errno,
        when,
        check,
        hazard: None,
    }
}

impl Test {
    fn hazard(mut self, item: &'static str) -> Self {
        self.hazard = Some(item);
        self
    }

    fn is_for(&self, row: &Row) -> bool {
        (self.ioctl, self.errno, self.when) == (&row.ioctl, &row.errno, &row.when)
    }

    /// A name without anything that could confuse readers of results.
    fn name(&self) -> String {
        let text = format!("{} {} {}", self.ioctl, self.errno, self.when).to_lowercase();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        words.join("_")
    }

    fn into_case(self, number: usize) -> Option<Case> {
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

fn session_with_file(name: &str) -> Result<OutgoingSession> {
    let session = create(name)?;
    session.preserve(memfd::with(FILE)?, TOKEN)?;
    Ok(session)
}

/// Shows that a session is as good as new.
fn is_intact(session: IncomingSession) -> Result {
    memfd::check(session.retrieve(TOKEN)?, FILE)?;
    Ok(session.finish()?)
}

fn tests() -> Vec<Test> {
    let mut tests = vec![
        test(
            "open",
            "EBUSY",
            "the device is open already",
            Check::Device(|_| expect_errno(Device::open(), Errno::BUSY, "a second open")),
        ),
        test(
            "open",
            "ENOENT",
            "the kernel was started without liveupdate=on",
            Check::Elsewhere,
        ),
    ];
    tests.extend(general::tests());
    tests.extend(device::tests());
    tests.extend(session::tests());
    tests
}

/// Every row has a test, every test a row, and there are no two of either.
fn complete() -> Result {
    let (rows, tests) = (table::rows(), tests());
    ensure!(!rows.is_empty(), "there is no table");
    for row in &rows {
        let count = tests.iter().filter(|test| test.is_for(row)).count();
        ensure!(count == 1, "the row '{row}' has {count} tests");
    }
    for test in &tests {
        let count = rows.iter().filter(|row| test.is_for(row)).count();
        ensure!(count == 1, "the test {} has {count} rows", test.name());
    }
    Ok(())
}

pub fn suite() -> Suite {
    let mut cases = vec![Case::one("table_is_complete", |_| complete())];
    let of_rows = tests().into_iter().enumerate();
    cases.extend(of_rows.filter_map(|(number, test)| test.into_case(number)));
    cases.extend(general::good_cases());
    Suite::new("errno", cases)
}

/// What fails when everything is serialized already.
pub fn late_suite() -> Suite {
    Suite::new("late", vec![late::case()])
}

/// A kernel that was started without us.
pub fn off_suite() -> Suite {
    let no_device = Case::one("open_enoent", |_| {
        expect_errno(Device::open(), Errno::NOENT, "opening the device")
    });
    Suite {
        cmdline: "liveupdate=off",
        ..Suite::new("off", vec![no_device])
    }
}

#[cfg(test)]
mod unit {
    #[test]
    fn table_is_complete() {
        super::complete().unwrap();
    }
}
