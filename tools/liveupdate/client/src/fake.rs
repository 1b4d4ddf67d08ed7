// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An in-process fake kernel, for tests on machines without `/dev/liveupdate`.
//!
//! Requires the feature `fake`. Devices and sessions of a [`Kernel`] have the same types as real
//! ones and can be sent to other threads and through sockets, as long as they stay in the process:
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! let kernel = liveupdate::fake::Kernel::new();
//! let memfd = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC)?;
//! let session = kernel.open()?.create_session("cache")?;
//! session.preserve(&memfd, 1)?;
//! kernel.kexec();
//! let session = kernel.open()?.retrieve_session("cache")?;
//! session.retrieve(1)?;
//! session.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! It implements the rules of names, tokens and directions. When their last descriptor is closed,
//! outgoing sessions end, and incoming ones keep their names. Regular files, including memfds, can
//! be preserved; a retrieved file has the current contents, not those at the time of
//! [`Kernel::kexec`].

pub use crate::transport::fake::Kernel;

use crate::Device;
use std::io;

impl Kernel {
    /// Opens its `/dev/liveupdate`.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is open, or the error that [`Self::break_device`] has set.
    pub fn open(&self) -> io::Result<Device> {
        Ok(Device::from(self.open_device()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno;
    use rustix::{
        fs::{memfd_create, MemfdFlags},
        io::Errno,
    };
    use std::os::fd::OwnedFd;

    fn memfd() -> OwnedFd {
        memfd_create("test", MemfdFlags::CLOEXEC).unwrap()
    }

    fn fails<T: std::fmt::Debug>(result: io::Result<T>, expected: Errno) {
        assert_eq!(errno(&result.unwrap_err()), Some(expected.raw_os_error()));
    }

    #[test]
    fn there_is_one_device() {
        let kernel = Kernel::new();
        let device = kernel.open().unwrap();
        fails(kernel.open(), Errno::BUSY);
        drop(device);
        kernel.open().unwrap();
        kernel.break_device(Some(5));
        fails(kernel.open(), Errno::IO);
    }

    #[test]
    fn rules_of_preserving() {
        let kernel = Kernel::new();
        let device = kernel.open().unwrap();
        let session = device.create_session("a").unwrap();
        assert_eq!(session.name().unwrap(), b"a");
        fails(device.create_session("a"), Errno::EXIST);
        let (one, two) = (memfd(), memfd());
        session.preserve(&one, 1).unwrap();
        fails(session.preserve(&two, 1), Errno::EXIST);
        fails(session.preserve(&one, 2), Errno::BUSY);
        fails(session.preserve(&device, 3), Errno::NOENT);
        assert_eq!(kernel.outgoing()["a"], [1]);
        drop(session);
        assert!(kernel.outgoing().is_empty());
        let session = device.create_session("a").unwrap();
        session.preserve(&one, 2).unwrap();
    }

    #[test]
    fn rules_of_retrieving() {
        let kernel = Kernel::new();
        let session = kernel.open().unwrap().create_session("a").unwrap();
        let lost = kernel.open().unwrap().create_session("lost").unwrap();
        let file = memfd();
        rustix::io::write(&file, b"hello").unwrap();
        session.preserve(&file, 7).unwrap();
        drop(lost);
        kernel.kexec();
        assert_eq!(kernel.incoming(), ["a"]);
        let device = kernel.open().unwrap();
        fails(device.retrieve_session("lost"), Errno::NOENT);
        let session = device.retrieve_session("a").unwrap();
        fails(device.retrieve_session("a"), Errno::BUSY);
        drop(session);
        let session = device.retrieve_session("a").unwrap();
        fails(session.retrieve(8), Errno::NOENT);
        let file = session.retrieve(7).unwrap();
        let mut content = [0; 5];
        rustix::io::pread(&file, &mut content, 0).unwrap();
        assert_eq!(&content, b"hello");
        // A closed session keeps its name; while it is open, a new one can be created.
        let next = device.create_session("a").unwrap();
        assert_eq!(kernel.conflicts(), ["a"]);
        drop((session, next));
        fails(device.create_session("a"), Errno::EXIST);
        let session = device.retrieve_session("a").unwrap();
        session.finish().unwrap();
        device.create_session("a").unwrap();
        fails(device.retrieve_session("a"), Errno::NOENT);
        assert!(kernel.incoming().is_empty());
    }
}
