// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The functions for clients of luod, with a luod on a fake machine.

use liveupdate_c::{
    liveupdate_error, liveupdate_join, liveupdate_leave, liveupdate_member, liveupdate_participant,
    liveupdate_poll_fd, liveupdate_poll_timeout, liveupdate_preserve, liveupdate_retrieve,
    liveupdate_step,
};
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::{Channel, Event, Request};
use rustix::fs::{memfd_create, MemfdFlags};
use std::{
    cell::{Cell, RefCell},
    ffi::{c_char, c_int, c_void, CStr, CString},
    fs::File,
    mem::offset_of,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
    ptr::{null, null_mut},
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(20);
const TOKEN: u64 = 5;

/// A program in C. Its callbacks share it with the function of the library that calls them.
struct Program {
    file: RefCell<OwnedFd>,
    member: Cell<*mut liveupdate_member>,
    calls: RefCell<Vec<String>>,
    /// The value that `liveupdate_leave` has returned in a callback.
    left: Cell<Option<c_int>>,
}

impl Program {
    fn new() -> Box<Self> {
        Box::new(Self {
            file: RefCell::new(memfd_create("test", MemfdFlags::CLOEXEC).unwrap()),
            member: Cell::new(null_mut()),
            calls: RefCell::default(),
            left: Cell::new(None),
        })
    }

    fn inode(&self) -> u64 {
        let file = File::from(self.file.borrow().try_clone().unwrap());
        file.metadata().unwrap().ino()
    }

    fn note(&self, call: impl Into<String>) {
        self.calls.borrow_mut().push(call.into());
    }

    fn participant(&self) -> liveupdate_participant {
        liveupdate_participant {
            size: size_of::<liveupdate_participant>(),
            data: (&raw const *self).cast_mut().cast(),
            preserve: Some(preserve),
            cancelled: Some(cancelled),
            restore: Some(restore),
            prepare: None,
            frozen: Some(frozen),
            pause: None,
        }
    }

    fn join(&self, path: &Path, participant: &liveupdate_participant) -> c_int {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        let ids = [c"a".as_ptr()];
        let mut member = null_mut();
        // SAFETY: All pointers are valid, and the program lives until it has left.
        let result = unsafe {
            liveupdate_join(
                path.as_ptr(),
                c"test".as_ptr(),
                ids.as_ptr(),
                ids.len(),
                participant,
                20_000,
                &mut member,
            )
        };
        self.member.set(member);
        result
    }

    fn step_until(&self, call: &str) {
        let start = Instant::now();
        let called = || {
            let calls = self.calls.borrow();
            calls.iter().any(|known| known.starts_with(call))
        };
        while !called() {
            assert!(start.elapsed() < SOON, "{:?}", self.calls);
            // SAFETY: The member is from `join`.
            assert_eq!(unsafe { liveupdate_step(self.member.get(), 50) }, 0);
        }
    }

    fn leave(&self) {
        // SAFETY: The member is from `join`, and is not used again.
        assert_eq!(unsafe { liveupdate_leave(self.member.get()) }, 0);
    }
}

/// The program of a callback.
fn program<'a>(data: *mut c_void) -> &'a Program {
    // SAFETY: It is the data of `Program::participant`, and the program lives longer than the
    // member.
    unsafe { &*data.cast::<Program>() }
}

unsafe extern "C" fn preserve(data: *mut c_void, id: *const c_char, session: c_int) -> c_int {
    let program = program(data);
    // SAFETY: The name is a string.
    let id = unsafe { CStr::from_ptr(id) };
    program.note(format!("preserve {id:?}"));
    // SAFETY: The member is from `join`.
    let left = unsafe { liveupdate_leave(program.member.get()) };
    program.left.set(Some(left));
    let fd = program.file.borrow().as_raw_fd();
    liveupdate_preserve(session, fd, TOKEN)
}

unsafe extern "C" fn cancelled(data: *mut c_void, _: *const c_char, reason: *const c_char) {
    // SAFETY: The reason is a string.
    let reason = unsafe { CStr::from_ptr(reason) };
    let reason = reason.to_string_lossy();
    program(data).note(format!("cancelled {reason}"));
}

unsafe extern "C" fn restore(data: *mut c_void, _: *const c_char, session: c_int) -> c_int {
    let fd = liveupdate_retrieve(session, TOKEN);
    if fd < 0 {
        return fd;
    }
    let program = program(data);
    // SAFETY: The descriptor is new.
    program.file.replace(unsafe { OwnedFd::from_raw_fd(fd) });
    program.note("restore");
    0
}

unsafe extern "C" fn frozen(data: *mut c_void, _: *const c_char) {
    program(data).note("frozen");
}

fn update(luod: &Luod) -> Channel {
    let mut channel = Channel::connect(luod.path()).unwrap();
    let request = Request::Update {
        timeout_ms: None,
        dry_run: false,
        force: false,
        expect: None,
    };
    let (answer, _) = channel.call(&request, Some(SOON)).unwrap();
    assert!(matches!(answer, Event::Ok { .. }), "{answer:?}");
    channel
}

fn last_error() -> String {
    // SAFETY: It is a string.
    let text = unsafe { CStr::from_ptr(liveupdate_error()) };
    text.to_string_lossy().into_owned()
}

#[test]
fn an_update() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let path = luod.path().to_owned();
    let first = Program::new();
    let participant = first.participant();
    assert_eq!(first.join(&path, &participant), 0, "{}", last_error());
    // SAFETY: The member is from `join`.
    unsafe {
        assert!(liveupdate_poll_fd(first.member.get()) >= 0);
        assert_eq!(liveupdate_poll_timeout(first.member.get()), -1);
    }
    let _operator = update(&luod);
    first.step_until("frozen");
    assert_eq!(first.calls.borrow()[0], r#"preserve "a""#);
    // Not in a callback: the library is still using the member.
    assert_eq!(first.left.get(), Some(-16));
    luod.wait();
    // SAFETY: The member is from `join`.
    let stepped = unsafe { liveupdate_step(first.member.get(), 0) };
    assert_eq!(stepped, 0);
    // SAFETY: The member is from `join`.
    let polled = unsafe { liveupdate_poll_fd(first.member.get()) };
    assert_eq!(polled, -1);
    // SAFETY: The member is from `join`.
    assert!(unsafe { liveupdate_poll_timeout(first.member.get()) } > 0);
    first.leave();

    let _luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let second = Program::new();
    let participant = second.participant();
    assert_eq!(second.join(&path, &participant), 0, "{}", last_error());
    assert_eq!(*second.calls.borrow(), ["restore"]);
    assert_eq!(second.inode(), first.inode());
    second.leave();
}

/// The work of a program ends when all others are ready.
#[test]
fn a_program_works_until_it_is_told_to_stop() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let program = Program::new();
    let mut participant = program.participant();
    unsafe extern "C" fn pause(data: *mut c_void, _: *const c_char, session: c_int) -> c_int {
        self::program(data).note("pause");
        let file = memfd_create("rest", MemfdFlags::CLOEXEC).unwrap();
        liveupdate_preserve(session, file.as_raw_fd(), TOKEN + 1)
    }
    participant.pause = Some(pause);
    assert_eq!(program.join(luod.path(), &participant), 0);
    let _operator = update(&luod);
    program.step_until("frozen");
    let calls = program.calls.borrow().clone();
    assert_eq!(calls, [r#"preserve "a""#, "pause", "frozen"]);
    luod.wait();
    program.leave();
}

/// The structure of a program that was compiled with an older header.
#[test]
fn a_program_without_later_functions() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let program = Program::new();
    let mut participant = program.participant();
    unsafe extern "C" fn unknown(_: *mut c_void, _: *const c_char, _: c_int) -> c_int {
        unreachable!("the field is not part of the structure")
    }
    participant.pause = Some(unknown);
    participant.size = offset_of!(liveupdate_participant, pause);
    assert_eq!(program.join(luod.path(), &participant), 0);
    let _operator = update(&luod);
    program.step_until("frozen");
    luod.wait();
    program.leave();
}

/// The operator sees the error of the function that has failed.
#[test]
fn a_failure_aborts_the_update() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let program = Program::new();
    let mut participant = program.participant();
    unsafe extern "C" fn fails(_: *mut c_void, _: *const c_char, session: c_int) -> c_int {
        liveupdate_preserve(session, -1, TOKEN)
    }
    participant.preserve = Some(fails);
    assert_eq!(program.join(luod.path(), &participant), 0);
    let mut operator = update(&luod);
    program.step_until("cancelled");
    assert!(program.calls.borrow()[0].contains("Bad file descriptor"));
    let report = loop {
        let (message, _) = operator.receive(Some(SOON)).unwrap().unwrap();
        if let Event::Result(report) = message.body {
            break report;
        }
    };
    let reason = report.reason.unwrap_or_default();
    assert!(reason.contains("Bad file descriptor"), "{reason}");
    program.leave();
}

#[test]
fn wrong_arguments() {
    let program = Program::new();
    let mut participant = program.participant();
    let nowhere = Path::new("/nonexistent/sock");
    assert_eq!(program.join(nowhere, &participant), -2);
    assert!(last_error().contains("cannot connect to luod"));
    let size = participant.size;
    participant.size = offset_of!(liveupdate_participant, pause) - 1;
    assert_eq!(program.join(nowhere, &participant), -22);
    participant.size = size;
    participant.restore = None;
    assert_eq!(program.join(nowhere, &participant), -22);
    // SAFETY: Null pointers are refused.
    unsafe {
        assert_eq!(liveupdate_step(null_mut(), 0), -14);
        assert_eq!(liveupdate_poll_fd(null()), -1);
        assert_eq!(liveupdate_leave(null_mut()), 0);
    }
}
