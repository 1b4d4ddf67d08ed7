// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Clients of luod.

use crate::ffi::{error, run, string, take_message, EBUSY, EFAULT, EINVAL};
use liveupdate::{
    luod::{Member, Participant, Result, SessionName, SOCKET_PATH},
    IncomingSession, OutgoingSession,
};
use std::{
    cell::{RefCell, RefMut},
    ffi::{c_char, c_int, c_void, CString, OsStr},
    io,
    mem::{offset_of, MaybeUninit},
    os::{
        fd::{AsFd, AsRawFd},
        unix::ffi::OsStrExt,
    },
    time::Duration,
};

/// The part of a program in a live update. All functions get @data and the name
/// of a session, which is valid until they return. Those that return a value
/// return 0, or a negative error number, which the operator sees with the text
/// of liveupdate_error(), if that is their last call. They must not call
/// liveupdate_step() or liveupdate_leave().
#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
#[repr(C)]
pub struct liveupdate_participant {
    /// sizeof(struct liveupdate_participant). Later versions add fields.
    pub size: usize,
    /// Passed to all functions.
    pub data: *mut c_void,
    /// Preserves all files of @session, a descriptor that belongs to the library.
    /// From then on, or from @pause on if there is one, until @cancelled is called,
    /// the program must not change the files in a way that its next instance cannot
    /// handle. An error aborts the update.
    pub preserve:
        Option<unsafe extern "C" fn(data: *mut c_void, id: *const c_char, session: c_int) -> c_int>,
    /// The update was aborted, also because @preserve or @pause has failed: the
    /// program continues its work.
    pub cancelled:
        Option<unsafe extern "C" fn(data: *mut c_void, id: *const c_char, reason: *const c_char)>,
    /// Retrieves the files that the last instance of the program has preserved.
    /// If it succeeds for all sessions, the library finishes them; otherwise they
    /// can be claimed again. @session belongs to the library.
    pub restore:
        Option<unsafe extern "C" fn(data: *mut c_void, id: *const c_char, session: c_int) -> c_int>,
    /// An update begins; @preserve is called next. NULL if there is nothing to do.
    pub prepare: Option<
        unsafe extern "C" fn(data: *mut c_void, id: *const c_char, deadline_ms: u64) -> c_int,
    >,
    /// The next kernel is started now. NULL if there is nothing to do.
    pub frozen: Option<unsafe extern "C" fn(data: *mut c_void, id: *const c_char)>,
    /// Stops the work of the program until @cancelled is called, and preserves the
    /// rest of its files; an error aborts the update. Called when all other programs
    /// are ready or are paused as well, or directly after @preserve if luod is too
    /// old for this. NULL if @preserve does all of this.
    pub pause:
        Option<unsafe extern "C" fn(data: *mut c_void, id: *const c_char, session: c_int) -> c_int>,
}

/// The size of the structure without the fields that were added later.
const OLDEST_PARTICIPANT: usize = offset_of!(liveupdate_participant, pause);

/// The functions of a program in C.
struct Callbacks(liveupdate_participant);

/// The text of an error that a function of the program has returned.
fn check(result: c_int) -> Result {
    if result == 0 {
        return Ok(());
    }
    let text = take_message();
    if text.is_empty() {
        Err(error(result.saturating_neg()).into())
    } else {
        Err(text.into())
    }
}

/// A name for C. Names of sessions have no null bytes.
fn name(id: &SessionName) -> CString {
    CString::new(id.as_str()).unwrap_or_default()
}

impl Callbacks {
    /// Calls a function that gets a session.
    ///
    /// # Safety
    ///
    /// `function` must be one of this structure.
    unsafe fn call(
        &self,
        function: unsafe extern "C" fn(*mut c_void, *const c_char, c_int) -> c_int,
        id: &SessionName,
        session: &impl AsFd,
    ) -> Result {
        take_message();
        let fd = session.as_fd().as_raw_fd();
        // SAFETY: `liveupdate_join` requires that the functions can be called with `data`; the name
        // is valid during the call.
        check(unsafe { function(self.0.data, name(id).as_ptr(), fd) })
    }
}

impl Participant for Callbacks {
    fn preserve(&mut self, id: &SessionName, session: &OutgoingSession) -> Result {
        let Some(preserve) = self.0.preserve else {
            return Err(error(EINVAL).into());
        };
        // SAFETY: The function is one of this structure.
        unsafe { self.call(preserve, id, session) }
    }

    fn pauses(&self) -> bool {
        self.0.pause.is_some()
    }

    fn pause(&mut self, id: &SessionName, session: &OutgoingSession) -> Result {
        let Some(pause) = self.0.pause else {
            return Ok(());
        };
        // SAFETY: The function is one of this structure.
        unsafe { self.call(pause, id, session) }
    }

    fn cancelled(&mut self, id: &SessionName, reason: &str) {
        let reason = CString::new(reason.replace('\0', "?")).unwrap_or_default();
        if let Some(cancelled) = self.0.cancelled {
            // SAFETY: `liveupdate_join` requires that the function can be called with `data`; both
            // strings are valid during the call.
            unsafe { cancelled(self.0.data, name(id).as_ptr(), reason.as_ptr()) }
        }
    }

    fn restore(&mut self, id: &SessionName, session: &IncomingSession) -> Result {
        let Some(restore) = self.0.restore else {
            return Err(error(EINVAL).into());
        };
        // SAFETY: The function is one of this structure.
        unsafe { self.call(restore, id, session) }
    }

    fn prepare(&mut self, id: &SessionName, deadline: Duration) -> Result {
        let Some(prepare) = self.0.prepare else {
            return Ok(());
        };
        take_message();
        let deadline = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        // SAFETY: `liveupdate_join` requires that the function can be called with `data`.
        check(unsafe { prepare(self.0.data, name(id).as_ptr(), deadline) })
    }

    fn frozen(&mut self, id: &SessionName) {
        if let Some(frozen) = self.0.frozen {
            // SAFETY: `liveupdate_join` requires that the function can be called with `data`.
            unsafe { frozen(self.0.data, name(id).as_ptr()) }
        }
    }
}

/// A client of luod. It may be used by one thread at a time.
#[allow(non_camel_case_types)]
pub struct liveupdate_member(RefCell<Member<Callbacks>>);

impl liveupdate_member {
    /// Fails if a function of the program is being called.
    fn lock(&self) -> io::Result<RefMut<'_, Member<Callbacks>>> {
        self.0.try_borrow_mut().map_err(|_| error(EBUSY))
    }
}

/// The client.
///
/// # Safety
///
/// `member` must be null or from [`liveupdate_join`], and not be freed during `'a`.
unsafe fn client<'a>(member: *const liveupdate_member) -> io::Result<&'a liveupdate_member> {
    // SAFETY: The caller guarantees that it is null or valid. All functions share it: the cell
    // inside permits changes.
    unsafe { member.as_ref() }.ok_or_else(|| error(EFAULT))
}

/// Strings of the caller.
///
/// # Safety
///
/// `strings` must be null or point to `count` strings.
unsafe fn texts<'a>(strings: *const *const c_char, count: usize) -> io::Result<Vec<&'a str>> {
    if strings.is_null() {
        return Err(error(EFAULT));
    }
    // SAFETY: The caller guarantees `count` pointers.
    let strings = unsafe { std::slice::from_raw_parts(strings, count) };
    // SAFETY: The caller guarantees that they are strings.
    let texts = strings.iter().map(|text| unsafe { self::text(*text) });
    texts.collect()
}

/// A string of the caller.
///
/// # Safety
///
/// `text` must be null or a string.
unsafe fn text<'a>(text: *const c_char) -> io::Result<&'a str> {
    // SAFETY: The caller guarantees it.
    std::str::from_utf8(unsafe { string(text) }?).map_err(|_| error(EINVAL))
}

/// Connects to luod at @path, or its usual socket if that is NULL; restores the
/// sessions of the previous kernel, and subscribes for the next update. @name is
/// the name of the program in lists and logs, @ids are the names of @count
/// sessions. @participant is copied; its @data is used until
/// liveupdate_leave().
///
/// Waits for up to @patience_ms milliseconds for a luod that refuses
/// temporarily or is restarted.
///
/// On success, *@member is the client. Otherwise all sessions are unchanged:
/// -ENOENT or -ECONNREFUSED if luod does not run, -EACCES if its configuration
/// does not permit a session to this user, -EBUSY if another client has it,
/// -ETIMEDOUT if luod could not answer whether there is a session, which then
/// may exist.
#[no_mangle]
pub unsafe extern "C" fn liveupdate_join(
    path: *const c_char,
    name: *const c_char,
    ids: *const *const c_char,
    count: usize,
    participant: *const liveupdate_participant,
    patience_ms: u64,
    member: *mut *mut liveupdate_member,
) -> c_int {
    run(|| {
        if participant.is_null() || member.is_null() {
            return Err(error(EFAULT));
        }
        // SAFETY: The caller guarantees that the first field is valid.
        let size = unsafe { (&raw const (*participant).size).read() };
        if size < OLDEST_PARTICIPANT {
            return Err(error(EINVAL));
        }
        let mut copy = MaybeUninit::<liveupdate_participant>::zeroed();
        let known = size.min(size_of::<liveupdate_participant>());
        // SAFETY: The caller guarantees that it is valid, and its size shows which fields it has.
        unsafe {
            participant
                .cast::<u8>()
                .copy_to(copy.as_mut_ptr().cast(), known)
        };
        // SAFETY: The fields that it does not have are null, which is valid for all of them.
        let participant = unsafe { copy.assume_init() };
        if participant.preserve.is_none() || participant.restore.is_none() {
            return Err(error(EINVAL));
        }
        let path = if path.is_null() {
            OsStr::new(SOCKET_PATH)
        } else {
            // SAFETY: The caller guarantees that it is a string.
            OsStr::from_bytes(unsafe { string(path) }?)
        };
        // SAFETY: The caller guarantees that these are strings.
        let (name, ids) = unsafe { (text(name)?, texts(ids, count)?) };
        let patience = Duration::from_millis(patience_ms);
        let joined = Member::join_within(path, name, &ids, Callbacks(participant), patience)?;
        let joined = Box::new(liveupdate_member(RefCell::new(joined)));
        // SAFETY: It is not null, and the caller guarantees that it is valid.
        unsafe { member.write(Box::into_raw(joined)) };
        Ok(0)
    })
}

/// Waits for an event of luod for up to @timeout_ms milliseconds, without a
/// limit if it is negative, and calls the functions of the participant. If the
/// connection is closed, this connects again; luod then first confirms that no
/// session is part of an update. Fails if luod refuses a subscription after it
/// was restarted.
#[no_mangle]
pub unsafe extern "C" fn liveupdate_step(
    member: *mut liveupdate_member,
    timeout_ms: c_int,
) -> c_int {
    run(|| {
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        // SAFETY: The caller guarantees that it is valid.
        unsafe { client(member) }?.lock()?.step(timeout)?;
        Ok(0)
    })
}

/// Returns the descriptor for an event loop: call liveupdate_step() with the
/// timeout 0 when it is readable, or after the time that
/// liveupdate_poll_timeout() returns. It changes, and is -1, which poll(2)
/// ignores, while there is no connection: call both functions before each
/// poll(2).
#[no_mangle]
pub unsafe extern "C" fn liveupdate_poll_fd(member: *const liveupdate_member) -> c_int {
    let fd = run(|| {
        // SAFETY: The caller guarantees that it is valid.
        let member = unsafe { client(member) }?.lock()?;
        Ok(member.poll_fd().map_or(-1, |fd| fd.as_raw_fd()))
    });
    fd.max(-1)
}

/// Returns the timeout for poll(2) in milliseconds; -1 if there is no limit.
#[no_mangle]
pub unsafe extern "C" fn liveupdate_poll_timeout(member: *const liveupdate_member) -> c_int {
    /// How often to try again to connect, in milliseconds.
    const RETRY: c_int = 200;

    let timeout = run(|| {
        // SAFETY: The caller guarantees that it is valid.
        let member = unsafe { client(member) }?.lock()?;
        Ok(match member.poll_fd() {
            _ if member.has_early() => 0,
            None => RETRY,
            Some(_) => -1,
        })
    });
    timeout.max(-1)
}

/// Requests @timeout_ms milliseconds to preserve the files, instead of luod's
/// default. luod has a limit.
#[no_mangle]
pub unsafe extern "C" fn liveupdate_set_timeout(
    member: *mut liveupdate_member,
    timeout_ms: u64,
) -> c_int {
    run(|| {
        // SAFETY: The caller guarantees that it is valid.
        let mut member = unsafe { client(member) }?.lock()?;
        member.set_timeout(Duration::from_millis(timeout_ms))?;
        Ok(0)
    })
}

/// Closes the connection and frees @member, which may be NULL. A running update
/// is aborted, unless the files are preserved. -EBUSY if a function of the
/// participant calls this.
#[no_mangle]
pub unsafe extern "C" fn liveupdate_leave(member: *mut liveupdate_member) -> c_int {
    run(|| {
        if member.is_null() {
            return Ok(0);
        }
        // SAFETY: The caller guarantees that it is valid.
        drop(unsafe { client(member) }?.lock()?);
        // SAFETY: It is from `Box::into_raw`, no function uses it, and the caller guarantees that
        // none will.
        drop(unsafe { Box::from_raw(member) });
        Ok(0)
    })
}
