// SPDX-License-Identifier: GPL-2.0

//! What several suites need.

use crate::{
    ensure, ensure_eq,
    error::{At, Failure, Result},
};
use liveupdate::{Device, IncomingSession, OutgoingSession};
use rustix::io::Errno;
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd},
    thread::sleep,
    time::{Duration, Instant},
};

/// Creates a session, with the device open only as long as that takes.
pub fn create(name: &str) -> Result<OutgoingSession> {
    Ok(Device::open()?.create_session(name)?)
}

/// Retrieves a session, with the device open only as long as that takes.
pub fn retrieve(name: &str) -> Result<IncomingSession> {
    Ok(Device::open()?.retrieve_session(name)?)
}

/// Fails unless `result` is the error `errno`.
pub fn expect_errno<T>(result: io::Result<T>, errno: Errno, what: &str) -> Result {
    match result {
        Ok(_) => Err(Failure::new(format!("{what} worked instead of {errno:?}"))),
        Err(error) => match liveupdate::errno(&error) {
            Some(found) => {
                ensure_eq!(
                    Errno::from_raw_os_error(found),
                    errno,
                    "the error of {what}"
                );
                Ok(())
            }
            None => Err(Failure::new(format!("{what}: {error}"))),
        },
    }
}

/// The lines of a session's fdinfo that are ours, as key and value.
pub fn fdinfo(session: &impl AsFd) -> Result<Vec<(String, String)>> {
    let path = format!("/proc/self/fdinfo/{}", session.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(&path).at(path)?;
    Ok(report_lines(&text))
}

/// The lines of a report about sessions.
pub fn report_lines(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.split_once(":\t"))
        .filter(|(key, _)| key.starts_with("luo-"))
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

/// Why C cannot show what only a handler that fails on request can bring about.
pub const NO_HANDLER: &str =
    "it takes a handler that fails on request, which the kernel in C does not have";

/// Opens a character device that was made for tests; skips the test if the kernel was built without.
pub fn open_test_device(path: &str) -> Result<File> {
    match File::options().read(true).write(true).open(path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::skip(format!("there is no {path}")))
        }
        Err(error) => Err(error).at(format_args!("open {path}")),
    }
}

/// The character device of a handler that was made for tests.
pub struct TestDevice(File);

impl TestDevice {
    /// The handler in C; it can be told to fail.
    pub const C: &'static str = "/dev/luo_test";
    /// The sample handler in Rust.
    pub const RUST: &'static str = "/dev/rust_liveupdate";

    /// Opens it; skips the test if the kernel was built without.
    pub fn open(path: &str) -> Result<Self> {
        Ok(Self(open_test_device(path)?))
    }

    /// Sets the value, or gives an order.
    pub fn write(&self, text: &str) -> Result {
        let text = format!("{text}\n");
        (&self.0)
            .write_all(text.as_bytes())
            .at(format_args!("write '{}'", text.trim()))
    }

    pub fn value(&self) -> Result<u64> {
        let mut bytes = [0; 32];
        let len = (&self.0).read(&mut bytes).at("read a value")?;
        let text = String::from_utf8_lossy(bytes.get(..len).unwrap_or_default());
        Ok(text.trim().parse()?)
    }
}

impl AsFd for TestDevice {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<std::os::fd::OwnedFd> for TestDevice {
    fn from(fd: std::os::fd::OwnedFd) -> Self {
        Self(fd.into())
    }
}

/// All that the kernel has logged so far.
pub fn kernel_log() -> Result<String> {
    use std::os::unix::fs::OpenOptionsExt;

    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .at("open /dev/kmsg")?;
    let mut log = String::new();
    let mut record = vec![0; 8192];
    // At the end there is nothing to read for now.
    while let Ok(len) = file.read(&mut record) {
        log.push_str(&String::from_utf8_lossy(
            record.get(..len).unwrap_or_default(),
        ));
    }
    Ok(log)
}

/// Waits until something is true: freed memory may be in the books for a little while.
pub fn eventually(what: &str, mut test: impl FnMut() -> Result<bool>) -> Result {
    let end = Instant::now() + Duration::from_secs(20);
    while !test()? {
        ensure!(Instant::now() < end, "{what}, and that does not change");
        sleep(Duration::from_millis(100));
    }
    Ok(())
}
