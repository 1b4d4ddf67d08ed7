// SPDX-License-Identifier: GPL-2.0

//! All errors of all ioctls in the documentation.

mod device;
mod general;
mod late;
mod memory;
mod row;
mod session;
mod table;

use self::row::{test, Check, Test};
use crate::support::{
    error::{ensure, Result},
    registry::{Case, Suite},
    sessions::expect_errno,
};
use liveupdate::Device;
use rustix::io::Errno;

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

/// Each row has a test and each test has a row, without duplicates.
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

/// Operations that fail when everything is serialized.
pub fn late_suite() -> Suite {
    Suite::new("late", vec![late::case()])
}

/// A kernel that was started without live updates.
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
