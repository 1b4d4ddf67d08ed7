// SPDX-License-Identifier: GPL-2.0

//! Fault injection: makes the kernel fail at the Nth possible place.

use crate::support::{
    error::{ensure, At, Failure, Result},
    registry::Stage,
};
use liveupdate::IncomingSession;
use rustix::io::Errno;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

const DEBUGFS: &str = "/sys/kernel/debug";

/// The settings with which all allocations of this thread can fail, without messages.
const KNOBS: [(&str, &str); 7] = [
    ("failslab/ignore-gfp-wait", "N"),
    ("failslab/cache-filter", "N"),
    ("failslab/verbose", "0"),
    ("fail_page_alloc/ignore-gfp-wait", "N"),
    ("fail_page_alloc/ignore-gfp-highmem", "N"),
    ("fail_page_alloc/min-order", "0"),
    ("fail_page_alloc/verbose", "0"),
];

/// Failures of this thread's system calls.
pub struct Faults {
    /// Opened in advance, since opening it could fail as well.
    nth: File,
}

/// The result of a call with an injected failure.
pub struct Outcome<T> {
    pub result: io::Result<T>,
    /// Whether a failure was injected.
    pub failed: bool,
}

impl Faults {
    /// Skips the test if the kernel does not support fault injection.
    pub fn new() -> Result<Self> {
        for (knob, value) in KNOBS {
            let path = format!("{DEBUGFS}/{knob}");
            match fs::write(&path, value) {
                // The filter needs another configuration.
                Err(_) if knob.ends_with("cache-filter") => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Failure::skip(
                        "this kernel does not support fault injection",
                    ))
                }
                result => result.at(path)?,
            }
        }
        // Steps that allocate no memory; only our kernels have fault points for them.
        let _ = fs::write(format!("{DEBUGFS}/fail_liveupdate/verbose"), "0");
        let path = "/proc/thread-self/fail-nth";
        let nth = File::options().read(true).write(true).open(path).at(path)?;
        Ok(Self { nth })
    }

    fn remaining(&self) -> Result<u64> {
        let mut text = [0; 16];
        let len = self.nth.read_at(&mut text, 0).at("read fail-nth")?;
        let text = String::from_utf8_lossy(text.get(..len).unwrap_or_default());
        Ok(text.trim().parse()?)
    }

    /// Makes one system call with a failure at the `nth` possible place.
    pub fn call<T>(&self, nth: u64, act: impl FnOnce() -> io::Result<T>) -> Result<Outcome<T>> {
        let order = nth.to_string();
        self.nth.write_all_at(order.as_bytes(), 0).at("fail-nth")?;
        let result = act();
        let failed = self.remaining()? == 0;
        self.nth.write_all_at(b"0", 0).at("fail-nth")?;
        Ok(Outcome { result, failed })
    }

    /// Makes one system call in which each allocation fails with a probability of `percent`, so
    /// that the retry of an allocation can fail as well.
    pub fn call_with_chance<T>(
        &self,
        percent: u32,
        act: impl FnOnce() -> io::Result<T>,
    ) -> Result<io::Result<T>> {
        const SELF: &str = "/proc/thread-self/make-it-fail";
        let this = File::options().write(true).open(SELF).at(SELF)?;
        let percent = percent.to_string();
        let settings = [
            ("task-filter", "Y"),
            ("times", "-1"),
            ("probability", &percent),
        ];
        for class in ["failslab", "fail_page_alloc"] {
            for (knob, value) in settings {
                let path = format!("{DEBUGFS}/{class}/{knob}");
                fs::write(&path, value).at(path)?;
            }
        }
        this.write_all_at(b"1", 0).at(SELF)?;
        let result = act();
        this.write_all_at(b"0", 0).at(SELF)?;
        for class in ["failslab", "fail_page_alloc"] {
            let path = format!("{DEBUGFS}/{class}/probability");
            fs::write(&path, "0").at(path)?;
        }
        Ok(result)
    }
}

/// Calls `act` with the numbers of places, until no failure was injected. Returns the number of
/// failures.
///
/// `act` makes one system call with [`Faults::call`], checks its result, and returns whether a failure
/// was injected.
pub fn sweep(mut act: impl FnMut(u64) -> Result<bool>) -> Result<u64> {
    /// Exceeds the number of places at which any of the operations can fail.
    const LIMIT: u64 = 400;

    for nth in 1..LIMIT {
        if !act(nth).at(format_args!("failure {nth}"))? {
            return Ok(nth - 1);
        }
    }
    Err(Failure::new("there is no end of failures"))
}

/// Retrieves a file, after RETRIEVE_FD has failed at each place once. `check` is called after each
/// failure.
pub fn sweep_retrieve(
    stage: &Stage<'_>,
    session: &IncomingSession,
    token: u64,
    mut check: impl FnMut() -> Result,
) -> Result<File> {
    let faults = Faults::new()?;
    let mut found = None;
    let places = sweep(|nth| {
        let outcome = faults.call(nth, || session.retrieve(token))?;
        match outcome.result {
            Ok(file) => {
                // It may have succeeded in spite of a failure.
                found = Some(file);
                Ok(false)
            }
            Err(error) => {
                let errno = liveupdate::errno(&error).map(Errno::from_raw_os_error);
                // Without memory for its inode, creating a memfd fails with ENOSPC.
                let expected = [Some(Errno::NOMEM), Some(Errno::NOSPC)].contains(&errno);
                ensure!(expected, "it leads to {error}");
                check()?;
                Ok(true)
            }
        }
    })?;
    stage.note(format_args!("RETRIEVE_FD: {places} places to fail"));
    ensure!(places != 0, "no place could be made to fail");
    found.map(File::from).at("there is no file")
}
