// SPDX-License-Identifier: GPL-2.0

//! Character devices of test handlers.

use crate::support::{
    error::{At, Failure, Result},
    modules,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
};

/// The reason why cases that need a handler that fails on request cannot be tested on C.
pub const NO_HANDLER: &str =
    "this needs a handler that fails on request, which the kernel in C does not have";

/// The handlers that can be modules, and the beginnings of the names of their devices.
const MODULES: [(&str, &str); 2] = [
    ("/dev/luo_shared", modules::SHARED),
    (TestDevice::RUST, modules::RUST),
];

/// Loads the handler of files of a character device, if it is a module.
pub fn load_handler(path: &str) -> Result {
    let module = MODULES.iter().find(|(device, _)| path.starts_with(device));
    match module.filter(|(_, module)| modules::exists(module)) {
        Some((_, module)) => modules::load(module, ""),
        None => Ok(()),
    }
}

/// Opens the character device of a test handler, which is loaded if it is a module; skips the test if
/// the kernel was built without it.
pub fn open_test_device(path: &str) -> Result<File> {
    load_handler(path)?;
    match File::options().read(true).write(true).open(path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::skip(format!("there is no {path}")))
        }
        Err(error) => Err(error).at(format_args!("open {path}")),
    }
}

/// The character device of a test handler.
pub struct TestDevice(File);

impl TestDevice {
    /// The handler in C, which can fail on request.
    pub const C: &'static str = "/dev/luo_test";
    /// The sample handler in Rust.
    pub const RUST: &'static str = "/dev/rust_liveupdate";

    /// Opens it; skips the test if the kernel was built without it.
    pub fn open(path: &str) -> Result<Self> {
        Ok(Self(open_test_device(path)?))
    }

    /// Sets the value, or writes a command.
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
