// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A service that preserves data during live updates, with `LUOSession=` in its unit:
//!
//! ```text
//! [Service]
//! Type=notify
//! LUOSession=cache
//! FileDescriptorStoreMax=20
//! FileDescriptorStorePreserve=yes
//! ```
//!
//! Its data is a memfd with the number of updates. Under the same name, systemd passes a new
//! session at first, and after each update the session with the data.

use liveupdate::{
    systemd::{Inherited, Manager, Session},
    Device, IncomingSession, OutgoingSession,
};
use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    thread,
    time::Duration,
};

/// The name of the session in systemd.
const NAME: &str = "cache";

/// The token of the memfd.
const DATA: u64 = 1;

const SIZE: usize = 4 << 20;

fn content(generation: u64) -> Vec<u8> {
    let words = (0..SIZE as u64 / 8).map(|word| word.wrapping_mul(31).wrapping_add(generation));
    words.flat_map(u64::to_le_bytes).collect()
}

/// Returns a new session, if systemd has not passed one.
fn create() -> io::Result<OutgoingSession> {
    // systemd opens the device for short times.
    for _ in 0..100 {
        match Device::open() {
            Err(error) if liveupdate::errno(&error) == Some(16) => {
                thread::sleep(Duration::from_millis(50));
            }
            device => return device?.create_session(NAME),
        }
    }
    Device::open()?.create_session(NAME)
}

/// Retrieves the data of the last instance; [`None`] if that instance had finished the session,
/// and ended before systemd was told.
fn retrieve(session: &IncomingSession) -> io::Result<Option<File>> {
    match session.retrieve(DATA) {
        Ok(file) => Ok(Some(file.into())),
        Err(error) if liveupdate::errno(&error) == Some(2) => Ok(None),
        Err(error) => Err(error),
    }
}

fn new_data() -> io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut data = File::from(rustix::fs::memfd_create(NAME, flags)?);
    data.write_all(&content(1))?;
    Ok(data)
}

fn main() -> io::Result<()> {
    let manager = Manager::from_env()?;
    let mut inherited = Inherited::take()?;
    let (session, data) = match inherited.session(NAME) {
        Some(Session::Incoming(old)) => {
            let data = retrieve(&old)?.map_or_else(new_data, Ok)?;
            let mut first = [0; 8];
            data.read_exact_at(&mut first, 0)?;
            let generation = u64::from_le_bytes(first);
            let mut all = vec![0; SIZE];
            data.read_exact_at(&mut all, 0)?;
            if all != content(generation) {
                return Err(io::Error::other("the data has changed"));
            }
            println!("verified generation {generation}");
            // All steps that can fail precede the finish.
            let session = create()?;
            manager.finish(NAME, old)?;
            data.write_all_at(&content(generation + 1), 0)?;
            if let Err(error) = manager.store(NAME, &session) {
                eprintln!("the next update will be without this service: {error}");
            }
            (session, data)
        }
        Some(Session::Outgoing(session)) => {
            println!("a new session");
            (session, new_data()?)
        }
        None => return Err(io::Error::other("systemd has no session for this service")),
    };
    session.preserve(&data, DATA)?;
    manager.notify("READY=1")?;
    manager.barrier()?;
    loop {
        thread::park();
    }
}
