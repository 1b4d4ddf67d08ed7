// SPDX-License-Identifier: GPL-2.0

//! Sessions: names, numbers, and closing.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    memfd,
    pattern::{Pattern, Random},
    registry::{Case, Suite},
    sessions::{create, expect_errno, hold_files, retrieve},
};
use liveupdate::{Device, NAME_MAX};
use rustix::{
    fs::{FallocateFlags, SealFlags},
    io::Errno,
};
use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
};

const MANY_FILES: u64 = 300;

/// Tokens and contents of many files.
fn many_files() -> Vec<(u64, Pattern)> {
    let mut random = Random::new(600);
    (0..MANY_FILES)
        .map(|i| (random.number(), Pattern::new(1000 + i, i * 37 % 9001)))
        .collect()
}

/// Many files are retrieved in another order than that of their preservation.
fn any_order() -> Case {
    Case::two(
        "300_files_in_any_order",
        |stage| {
            let session = create("sessions-order")?;
            for (token, pattern) in many_files() {
                let file = memfd::with(pattern)?;
                session.preserve(&file, token)?;
                stage.hold(file);
            }
            stage.hold(session);
            Ok(())
        },
        |_| {
            let session = retrieve("sessions-order")?;
            let mut files = many_files();
            Random::new(601).shuffle(&mut files);
            for (token, pattern) in files {
                memfd::check(session.retrieve(token)?, pattern)
                    .at(format_args!("file {token:#x}"))?;
            }
            Ok(session.finish()?)
        },
    )
}

/// Only some of the files are retrieved.
fn some_files() -> Case {
    let pattern = |token| Pattern::new(2000 + token, 10_000);
    Case::two(
        "finish_without_retrieving_all",
        move |stage| hold_files(stage, "sessions-some", 0..10, pattern),
        move |_| {
            let session = retrieve("sessions-some")?;
            let files = [3, 8].map(|token| session.retrieve(token).map(|fd| (token, fd)));
            session.finish()?;
            // Files that were retrieved are independent of their session.
            for file in files {
                let (token, fd) = file?;
                memfd::check(fd, pattern(token))?;
            }
            Ok(())
        },
    )
}

/// Retrieving twice returns the same file.
fn retrieved_twice() -> Case {
    let pattern = Pattern::new(602, 5000);
    Case::two(
        "file_retrieved_twice",
        move |stage| {
            let session = create("sessions-twice")?;
            let file = memfd::with(pattern)?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("sessions-twice")?;
            let first = memfd::check(session.retrieve(1)?, pattern)?;
            let second = memfd::check(session.retrieve(1)?, pattern)?;
            memfd::seek(&first, 7)?;
            ensure_eq!(
                memfd::position(&second)?,
                7,
                "the position by the other descriptor"
            );
            Ok(session.finish()?)
        },
    )
}

fn empty() -> Case {
    Case::two(
        "session_without_files",
        |stage| {
            stage.hold(create("sessions-empty")?);
            Ok(())
        },
        |_| {
            let session = retrieve("sessions-empty")?;
            expect_errno(session.retrieve(0), Errno::NOENT, "RETRIEVE_FD")?;
            Ok(session.finish()?)
        },
    )
}

/// Closing a session unpreserves its files.
fn unpreserve_on_close() -> Case {
    Case::two(
        "unpreserve_on_close",
        |stage| {
            let pattern = Pattern::new(603, 20_000);
            let file = memfd::with(pattern)?;
            let session = create("sessions-close")?;
            session.preserve(&file, 1)?;
            drop(session);
            pattern.check(&file, 0)?;
            file.set_len(40_000).at("grow")?;
            file.set_len(10_000).at("shrink")?;
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 10_000, 50_000)
                .at("fallocate")?;
            pattern.write(&file, 100_000).at("write beyond the end")?;
            // The same name and the same token can be used again.
            let session = create("sessions-close")?;
            session.preserve(&file, 1)?;
            drop(session);
            memfd::seal(&file, SealFlags::WRITE)?;
            let session = create("sessions-close-2")?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        |_| {
            let gone = Device::open()?.retrieve_session("sessions-close");
            expect_errno(gone, Errno::NOENT, "retrieving the closed session")?;
            let session = retrieve("sessions-close-2")?;
            let file = session.retrieve(1)?.into();
            ensure_eq!(memfd::len(&file)?, 120_000, "the size");
            Pattern::new(603, 20_000).check(&file, 100_000)?;
            ensure_eq!(memfd::seals(&file)?, SealFlags::WRITE, "the set of seals");
            Ok(session.finish()?)
        },
    )
}

/// A file whose descriptors are all closed stays preserved.
fn file_closed() -> Case {
    let pattern = Pattern::new(604, 77_777);
    Case::two(
        "file_closed_after_preserve",
        move |stage| {
            let session = create("sessions-file-closed")?;
            session.preserve(memfd::with(pattern)?, 1)?;
            stage.hold(session);
            Ok(())
        },
        move |_| {
            let session = retrieve("sessions-file-closed")?;
            memfd::check(session.retrieve(1)?, pattern)?;
            Ok(session.finish()?)
        },
    )
}

/// A file cannot be preserved twice.
fn duplicates() -> Case {
    Case::one("duplicate_file", |_| {
        let file = memfd::with(Pattern::new(605, 100))?;
        let reopened = fs::File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .at("open the memfd again")?;
        let (session, other) = (create("sessions-dup-1")?, create("sessions-dup-2")?);
        session.preserve(&file, 1)?;
        expect_errno(
            session.preserve(&file, 2),
            Errno::BUSY,
            "again, same session",
        )?;
        expect_errno(
            other.preserve(&file, 1),
            Errno::BUSY,
            "again, another session",
        )?;
        expect_errno(
            other.preserve(file.try_clone()?, 1),
            Errno::BUSY,
            "a duplicate",
        )?;
        expect_errno(other.preserve(&reopened, 1), Errno::BUSY, "the same inode")?;
        drop(session);
        Ok(other.preserve(&reopened, 1)?)
    })
}

fn many_names() -> impl Iterator<Item = String> {
    // As long as possible, and different in the last bytes only.
    (0..200).map(|i| format!("{}{i:03}", "n".repeat(NAME_MAX - 3)))
}

/// Many sessions, each with one file.
fn many_sessions() -> Case {
    Case::two(
        "200_sessions_with_long_names",
        |stage| {
            for (i, name) in many_names().enumerate() {
                let session = create(&name)?;
                ensure_eq!(session.name()?, name.as_bytes(), "the name");
                let file = memfd::with(Pattern::new(3000 + i as u64, 100))?;
                session.preserve(&file, 0)?;
                stage.hold((session, file));
            }
            Ok(())
        },
        |_| {
            let mut names: Vec<_> = many_names().enumerate().collect();
            Random::new(606).shuffle(&mut names);
            let mut sessions = Vec::new();
            for (i, name) in names {
                let session = retrieve(&name)?;
                ensure_eq!(session.name()?, name.as_bytes(), "the name");
                memfd::check(session.retrieve(0)?, Pattern::new(3000 + i as u64, 100))?;
                sessions.push(session);
            }
            for session in sessions {
                session.finish()?;
            }
            Ok(())
        },
    )
}

/// Names that are not text.
const ODD_NAMES: [&[u8]; 4] = [b"a b\n\x01", b"\xff\xfe\x80", b"/../", b"%s%n"];

fn odd_names() -> Case {
    Case::two(
        "names_with_odd_bytes",
        |stage| {
            for name in ODD_NAMES {
                stage.hold(Device::open()?.create_session(name)?);
            }
            Ok(())
        },
        |_| {
            for name in ODD_NAMES {
                let session = Device::open()?.retrieve_session(name)?;
                ensure_eq!(session.name()?, name, "the name");
                session.finish()?;
            }
            Ok(())
        },
    )
}

/// The link by which other programs recognize a session.
fn link() -> Case {
    let check = |session: &dyn Fn() -> Result<std::os::fd::OwnedFd>, name: &str| -> Result {
        let session = session()?;
        let path = format!("/proc/self/fd/{}", session.as_fd().as_raw_fd());
        let link = fs::read_link(&path).at(path)?;
        let wanted = format!("anon_inode:[luo_session] {name}");
        ensure_eq!(link.to_string_lossy(), wanted, "the link");
        let flags = rustix::io::fcntl_getfd(&session).at("F_GETFD")?;
        ensure!(
            flags.contains(rustix::io::FdFlags::CLOEXEC),
            "the descriptor outlives an exec"
        );
        Ok(())
    };
    Case::two(
        "link_and_close_on_exec",
        move |stage| {
            check(
                &|| Ok(create("sessions-link-closed")?.into()),
                "sessions-link-closed",
            )?;
            let session = create("sessions-link")?;
            session.preserve(memfd::new()?, 1)?;
            stage.hold(session);
            Ok(())
        },
        move |_| {
            check(&|| Ok(retrieve("sessions-link")?.into()), "sessions-link")?;
            let session = retrieve("sessions-link")?;
            let flags = rustix::io::fcntl_getfd(session.retrieve(1)?).at("F_GETFD")?;
            ensure!(
                flags.contains(rustix::io::FdFlags::CLOEXEC),
                "the file outlives an exec"
            );
            Ok(session.finish()?)
        },
    )
}

/// An incoming and an outgoing session can have the same name, while the former is open.
fn same_name() -> Case {
    Case::two(
        "same_name_in_both_directions",
        |stage| {
            let session = create("sessions-same")?;
            session.preserve(memfd::with(Pattern::new(607, 10))?, 1)?;
            stage.hold(session);
            Ok(())
        },
        |_| {
            expect_errno(
                Device::open()?.create_session("sessions-same"),
                Errno::EXIST,
                "creating it while the incoming one is not open",
            )?;
            let incoming = retrieve("sessions-same")?;
            let outgoing = create("sessions-same")?;
            let file = memfd::check(incoming.retrieve(1)?, Pattern::new(607, 10))?;
            incoming.finish()?;
            Ok(outgoing.preserve(&file, 1)?)
        },
    )
}

pub fn suite() -> Suite {
    let cases = vec![
        any_order(),
        some_files(),
        retrieved_twice(),
        empty(),
        unpreserve_on_close(),
        file_closed(),
        duplicates(),
        many_sessions(),
        odd_names(),
        link(),
        same_name(),
    ];
    Suite::new("sessions", cases)
}
