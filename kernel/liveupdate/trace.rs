// SPDX-License-Identifier: GPL-2.0

//! Tracepoints: the steps of a live update, with their results and durations.
//!
//! A step whose tracepoint is disabled costs a static branch, and does not read the clock.
//!
//! C header: [`include/trace/events/liveupdate.h`](srctree/include/trace/events/liveupdate.h)

#[expect(unsafe_code, reason = "calls tracepoints of C")]
mod ops;

use crate::abi::{
    Compatible,
    Name, //
};
use kernel::{
    prelude::*,
    str::BStr,
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// The name of a session as text, for messages and for steps, which need its length only if they are
/// traced.
impl AsRef<BStr> for Name {
    fn as_ref(&self) -> &BStr {
        BStr::from_bytes(self.as_bytes())
    }
}

/// A step that can be traced.
pub(crate) trait Event: Copy {
    /// Whether the tracepoint of the step is enabled.
    fn is_enabled(self) -> bool;

    /// Begins the step.
    #[inline(always)]
    fn begin(self) -> Step<Self> {
        Step {
            event: self,
            start: self.is_enabled().then(Instant::now),
        }
    }
}

/// A step that has begun. It is recorded when it [ends](Step::end), if its tracepoint was enabled
/// when it began.
#[must_use = "the step is not recorded without its end"]
pub(crate) struct Step<E> {
    event: E,
    start: Option<Instant<Monotonic>>,
}

impl<E> Step<E> {
    /// Whether the step will be recorded.
    #[inline(always)]
    pub(crate) fn is_traced(&self) -> bool {
        self.start.is_some()
    }
}

/// A step of one file.
#[derive(Clone, Copy)]
pub(crate) enum FileEvent {
    Preserve,
    Unpreserve,
    Freeze,
    Unfreeze,
    Retrieve,
    Finish,
}

impl Step<FileEvent> {
    /// Ends the step. `handler` is [`None`] if no handler is known.
    #[inline(always)]
    pub(crate) fn end<T>(
        self,
        session: impl AsRef<BStr>,
        token: u64,
        handler: Option<&Compatible>,
        result: &Result<T>,
    ) {
        if let Some(start) = self.start {
            let outcome = Outcome::new(result, start);
            ops::file(self.event, session.as_ref(), token, handler, outcome);
        }
    }
}

/// A step of an incoming session.
#[derive(Clone, Copy)]
pub(crate) enum SessionEvent {
    /// The session is opened.
    Claim,
    Finish,
}

impl Step<SessionEvent> {
    /// Ends the step. `files` is the number of files in the session.
    #[inline(always)]
    pub(crate) fn end<T>(self, session: impl AsRef<BStr>, files: u64, result: &Result<T>) {
        if let Some(start) = self.start {
            let outcome = Outcome::new(result, start);
            ops::session(self.event, session.as_ref(), files, outcome);
        }
    }
}

/// All sessions are frozen and serialized.
#[derive(Clone, Copy)]
pub(crate) struct Serialize;

impl Step<Serialize> {
    /// Ends the step. `result` has the numbers of sessions and of files.
    #[inline(always)]
    pub(crate) fn end(self, result: &Result<(u64, u64)>) {
        if let Some(start) = self.start {
            let (sessions, files) = result.unwrap_or_default();
            ops::serialize(sessions, files, Outcome::new(result, start));
        }
    }
}

/// How a step has ended.
struct Outcome {
    /// 0, or a negative error number.
    errno: c_int,
    /// In nanoseconds.
    duration: u64,
}

impl Outcome {
    fn new<T>(result: &Result<T>, start: Instant<Monotonic>) -> Self {
        Self {
            errno: result.as_ref().map_or_else(|err| err.to_errno(), |_| 0),
            duration: start.elapsed().as_nanos().try_into().unwrap_or(0),
        }
    }
}
