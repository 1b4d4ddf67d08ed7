// SPDX-License-Identifier: GPL-2.0

//! The socket: only one luod has it, and a group can own it.

use super::super::{listen, restrict};
use super::{config, is_alive, luod, socket_path};
use crate::fake::{FakeWorld, Luod};

#[test]
fn a_socket_is_taken() {
    let world = FakeWorld::new();
    let luod = luod(&world);
    let error = Luod::start_at(&world, config(), luod.path()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    is_alive(&luod);
}

/// Several luods start at the same time with a remaining socket: one of them gets it.
#[test]
fn only_one_listens() {
    let path = socket_path("one");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    // A child of another test inherits the descriptor of the lock until its exec(), during which none
    // of the four may get it.
    let mut rounds = 0;
    while rounds < 50 {
        let _ = std::fs::remove_file(&path);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let barrier = std::sync::Barrier::new(4);
        let start = || {
            barrier.wait();
            let socket = listen(&path);
            barrier.wait();
            socket.is_ok()
        };
        let listening = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(start));
            let ends = threads.map(|thread| thread.join().unwrap());
            ends.into_iter().filter(|listens| *listens).count()
        });
        assert!(listening <= 1, "{listening}");
        rounds += listening;
    }
    // Another luod has the lock, and does not listen yet.
    let _ = std::fs::remove_file(&path);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let lock = std::fs::File::open(path.with_extension("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = listen(&path).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(path.exists());
    drop(lock);
    while listen(&path).is_err() {
        std::thread::yield_now();
    }
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_group_for_the_socket() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let path = socket_path("group");
    let _socket = listen(&path).unwrap();
    let gid = rustix::process::getgid().as_raw();
    for (group, mode) in [(None, 0o666), (Some(gid), 0o660), (None, 0o666)] {
        restrict(&path, group).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, mode);
        assert_eq!(meta.gid(), gid);
    }
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}
