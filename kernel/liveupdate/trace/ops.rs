// SPDX-License-Identifier: GPL-2.0

//! Wrappers of tracepoints in C.

use super::{
    Event,
    FileEvent,
    Outcome,
    Serialize,
    SessionEvent, //
};
use crate::abi::Compatible;
use kernel::{
    prelude::*,
    str::BStr,
    tracepoint::declare_trace, //
};

// The safety requirements: `session` must be valid for reads of `len` bytes, and `handler` must be
// null or null-terminated.
declare_trace! {
    unsafe fn luo_preserve(session: *const c_char, len: usize, token: u64, handler: *const c_char,
        result: c_int, duration: u64);
    unsafe fn luo_unpreserve(session: *const c_char, len: usize, token: u64, handler: *const c_char,
        result: c_int, duration: u64);
    unsafe fn luo_freeze(session: *const c_char, len: usize, token: u64, handler: *const c_char,
        result: c_int, duration: u64);
    unsafe fn luo_unfreeze(session: *const c_char, len: usize, token: u64, handler: *const c_char,
        result: c_int, duration: u64);
    unsafe fn luo_retrieve(session: *const c_char, len: usize, token: u64, handler: *const c_char,
        result: c_int, duration: u64);
    unsafe fn luo_finish_file(session: *const c_char, len: usize, token: u64,
        handler: *const c_char, result: c_int, duration: u64);
    unsafe fn luo_claim(session: *const c_char, len: usize, files: u64, result: c_int,
        duration: u64);
    unsafe fn luo_finish(session: *const c_char, len: usize, files: u64, result: c_int,
        duration: u64);
    unsafe fn luo_serialize(sessions: u64, files: u64, result: c_int, duration: u64);
}

/// Whether a tracepoint is enabled: a static branch.
#[cfg(CONFIG_TRACEPOINTS)]
macro_rules! is_enabled {
    ($tracepoint:ident) => {
        // SAFETY: The key is that of a tracepoint which C defines.
        unsafe {
            kernel::jump_label::static_branch_unlikely!(
                kernel::bindings::$tracepoint,
                kernel::bindings::tracepoint,
                key
            )
        }
    };
}

/// Whether a tracepoint is enabled: the kernel has none.
#[cfg(not(CONFIG_TRACEPOINTS))]
macro_rules! is_enabled {
    ($tracepoint:ident) => {
        false
    };
}

impl Event for FileEvent {
    #[inline(always)]
    fn is_enabled(self) -> bool {
        match self {
            Self::Preserve => is_enabled!(__tracepoint_luo_preserve),
            Self::Unpreserve => is_enabled!(__tracepoint_luo_unpreserve),
            Self::Freeze => is_enabled!(__tracepoint_luo_freeze),
            Self::Unfreeze => is_enabled!(__tracepoint_luo_unfreeze),
            Self::Retrieve => is_enabled!(__tracepoint_luo_retrieve),
            Self::Finish => is_enabled!(__tracepoint_luo_finish_file),
        }
    }
}

impl Event for SessionEvent {
    #[inline(always)]
    fn is_enabled(self) -> bool {
        match self {
            Self::Claim => is_enabled!(__tracepoint_luo_claim),
            Self::Finish => is_enabled!(__tracepoint_luo_finish),
        }
    }
}

impl Event for Serialize {
    #[inline(always)]
    fn is_enabled(self) -> bool {
        is_enabled!(__tracepoint_luo_serialize)
    }
}

/// Records a step of a file.
#[cold]
pub(super) fn file(
    event: FileEvent,
    session: &BStr,
    token: u64,
    handler: Option<&Compatible>,
    outcome: Outcome,
) {
    let record = match event {
        FileEvent::Preserve => luo_preserve,
        FileEvent::Unpreserve => luo_unpreserve,
        FileEvent::Freeze => luo_freeze,
        FileEvent::Unfreeze => luo_unfreeze,
        FileEvent::Retrieve => luo_retrieve,
        FileEvent::Finish => luo_finish_file,
    };
    let handler = handler.map_or(core::ptr::null(), |name| name.field().as_ptr());
    let Outcome { errno, duration } = outcome;
    // SAFETY: `session` is a slice; `handler` is null or points to the field of a `FixedStr`, which
    // has a terminator. Both live until the call returns, and the tracepoint copies them.
    unsafe {
        record(
            session.as_ptr(),
            session.len(),
            token,
            handler,
            errno,
            duration,
        )
    }
}

/// Records a step of a session.
#[cold]
pub(super) fn session(event: SessionEvent, session: &BStr, files: u64, outcome: Outcome) {
    let record = match event {
        SessionEvent::Claim => luo_claim,
        SessionEvent::Finish => luo_finish,
    };
    let Outcome { errno, duration } = outcome;
    // SAFETY: `session` is a slice that lives until the call returns, and the tracepoint copies it.
    unsafe { record(session.as_ptr(), session.len(), files, errno, duration) }
}

/// Records that all sessions were serialized, or that it failed.
#[cold]
pub(super) fn serialize(sessions: u64, files: u64, outcome: Outcome) {
    let Outcome { errno, duration } = outcome;
    // SAFETY: The tracepoint gets numbers only.
    unsafe { luo_serialize(sessions, files, errno, duration) }
}
