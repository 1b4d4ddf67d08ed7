// SPDX-License-Identifier: GPL-2.0

//! The gate between operations that change the data to be handed over and the kexec that ends all
//! changes.
//!
//! An operation must not delay a kexec for long: the kexec asks operations inside the gate to stop,
//! keeps others out, and fails if one does not leave in time. Operations that have stopped for a
//! kexec are retried if it fails, without a return to user space.

use kernel::{
    alloc::AllocError,
    prelude::*,
    sync::{
        atomic::{
            ordering::{
                Acquire,
                Relaxed,
                Release, //
            },
            Atomic, //
        },
        new_rwsem,
        RwSemReadGuard,
        RwSemWriteGuard,
        RwSemaphore, //
    },
    time::{
        Delta,
        Msecs, //
    }, //
};

/// How long a kexec waits for operations that were asked to stop, and for an operation that it
/// calls itself.
pub(crate) const KEXEC_TIMEOUT: Msecs = 1000;

/// Whether the data to be handed over may still change.
#[derive(PartialEq, Eq)]
enum State {
    Open,
    /// Everything is serialized and the next kernel is about to start. This cannot be undone.
    Sealed,
}

/// Why a change was not made.
pub(crate) enum Stopped {
    /// An operation of a handler or an FLB returned [`EBUSY`]: it has stopped if a kexec waits for
    /// it.
    GaveWay,
    /// Any other error, including [`EBUSY`] of this crate.
    Failed(Error),
}

impl Stopped {
    /// Interprets the result of an operation of a handler or an FLB.
    pub(crate) fn by_operation(err: Error) -> Self {
        if err == EBUSY {
            Self::GaveWay
        } else {
            Self::Failed(err)
        }
    }

    /// The error for user space.
    pub(crate) fn error(&self) -> Error {
        match *self {
            Self::GaveWay => EBUSY,
            Self::Failed(err) => err,
        }
    }
}

impl From<Error> for Stopped {
    fn from(err: Error) -> Self {
        Self::Failed(err)
    }
}

impl From<AllocError> for Stopped {
    fn from(err: AllocError) -> Self {
        Self::Failed(err.into())
    }
}

impl From<Stopped> for Error {
    fn from(stopped: Stopped) -> Self {
        stopped.error()
    }
}

/// See the module's documentation.
#[pin_data]
pub(crate) struct Gate {
    /// Held for reading by operations while they enter, and for writing by a kexec to keep them out.
    #[pin]
    entrance: RwSemaphore<()>,
    /// Held for reading by operations inside.
    #[pin]
    inside: RwSemaphore<State>,
    /// Whether a kexec waits for operations inside to leave.
    kexec_waiting: Atomic<bool>,
    /// The number of kexecs that have asked operations inside to leave.
    requests: Atomic<usize>,
}

/// The right to change the data to be handed over. While it exists, no kexec starts.
pub(crate) struct Mutating<'a> {
    _inside: RwSemReadGuard<'a, State>,
}

impl<'a> Mutating<'a> {
    fn new(inside: RwSemReadGuard<'a, State>) -> Result<Self> {
        match *inside {
            State::Open => Ok(Self { _inside: inside }),
            State::Sealed => Err(EBUSY),
        }
    }
}

impl Gate {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            entrance <- new_rwsem!((), "luo_gate_entrance"),
            inside <- new_rwsem!(State::Open, "luo_gate_inside"),
            kexec_waiting: Atomic::new(false),
            requests: Atomic::new(0),
        })
    }

    /// Calls `change` while no kexec can start, and again if it stopped for a kexec that failed.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if the kexec is in progress, [`EINTR`] if the task was killed while it waited, and
    /// the errors of `change`.
    pub(crate) fn mutate<R>(&self, mut change: impl FnMut() -> Result<R, Stopped>) -> Result<R> {
        loop {
            let (mutating, requests) = {
                let _entrance = self.entrance.read_killable()?;
                let mutating = Mutating::new(self.inside.read_killable()?)?;
                // The request of a kexec that comes later is not counted: it is made with the
                // entrance held for writing.
                (mutating, self.requests.load(Relaxed))
            };
            let result = change();
            drop(mutating);
            match result {
                // Waits at the entrance until the kexec has failed or sealed the gate.
                Err(Stopped::GaveWay) if self.requests.load(Relaxed) != requests => {}
                result => return Ok(result?),
            }
        }
    }

    /// Enters uninterruptibly, for callers that cannot return [`EINTR`] (release).
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if the kexec is under way.
    pub(crate) fn mutate_uninterruptible(&self) -> Result<Mutating<'_>> {
        let _entrance = self.entrance.read();
        Mutating::new(self.inside.read())
    }

    /// Enters if that is possible without waiting.
    pub(crate) fn try_mutate(&self) -> Option<Mutating<'_>> {
        let _entrance = self.entrance.try_read()?;
        Mutating::new(self.inside.try_read()?).ok()
    }

    /// Whether a kexec waits for operations inside.
    ///
    /// Does not sleep.
    pub(crate) fn kexec_waiting(&self) -> bool {
        // An operation that sees the flag must see the request in `mutate` as well.
        self.kexec_waiting.load(Acquire)
    }

    /// Whether everything is serialized. False while a kexec is still serializing.
    pub(crate) fn is_sealed(&self) -> bool {
        self.inside
            .try_read()
            .is_some_and(|state| *state == State::Sealed)
    }

    /// Keeps all operations out.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if an operation inside does not leave, or another kexec is in progress; [`EINTR`]
    /// if the task was killed while it waited.
    pub(crate) fn close(&self) -> Result<Closed<'_>> {
        let entrance = self.entrance.write_killable()?;
        self.requests.fetch_add(1, Relaxed);
        self.kexec_waiting.store(true, Release);
        let patience = Delta::from_millis(KEXEC_TIMEOUT.into());
        let inside = self.inside.write_killable_timeout(patience);
        self.kexec_waiting.store(false, Relaxed);

        let inside = inside.map_err(|err| if err == ETIMEDOUT { EBUSY } else { err })?;
        match *inside {
            State::Open => Ok(Closed {
                inside,
                _entrance: entrance,
            }),
            State::Sealed => Err(EBUSY),
        }
    }
}

/// A closed gate. Dropping this opens it again.
pub(crate) struct Closed<'a> {
    inside: RwSemWriteGuard<'a, State>,
    _entrance: RwSemWriteGuard<'a, ()>,
}

impl Closed<'_> {
    /// Makes all later operations fail with [`EBUSY`].
    pub(crate) fn seal(mut self) {
        *self.inside = State::Sealed;
    }
}
