// SPDX-License-Identifier: GPL-2.0

//! What luod needs of the machine that it runs on.

use liveupdate::{Device, IncomingSession};
use luod_protocol::Stamp;
use std::{io, os::fd::BorrowedFd};

/// What luod asks of the service manager, which can take long to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether it keeps everything that it was given by [`World::keep`], and gives it to the next
    /// kernel. Nothing depends on it if luod starts the next kernel itself, by the system call,
    /// unless the service manager is on its way (`handover`). The error is a sentence that says
    /// what would be lost, and what to do.
    IsKept {
        /// Whether the service manager is on its way to the next kernel.
        handover: bool,
    },
    /// Whether it is on its way to the next kernel.
    KexecUnderWay,
    /// To read everything that it was given by [`World::keep`].
    Settle,
    /// To start the next kernel, if luod does not do that itself. That it is done means that
    /// somebody else is going to do it.
    Kexec,
}

/// Tells a question from those before it.
pub type QuestionId = u64;

/// The outside world, as far as it concerns the decisions of luod.
pub trait World {
    /// What time it is.
    fn now(&self) -> Stamp;

    /// For how long this kernel has been running, in microseconds.
    fn uptime_us(&self) -> u64;

    /// How fast the time-stamp counter runs, in kHz, if that is known by now.
    fn tsc_khz(&self) -> Option<u64>;

    /// What tells this boot from others.
    fn boot_id(&self) -> String;

    /// The release of the running kernel.
    fn release(&self) -> String;

    /// Opens `/dev/liveupdate`, once.
    ///
    /// # Errors
    ///
    /// `EBUSY` if somebody has it open, `ENOENT` if there is none.
    fn open(&mut self) -> io::Result<Device>;

    /// Whether a kernel is loaded, if that can be found out.
    fn image_loaded(&self) -> Option<bool>;

    /// Why the loaded kernel cannot take over what is preserved now, if that is known.
    fn objection(&self) -> Option<String>;

    /// Asks the service manager something, without waiting for the answer.
    fn ask(&mut self, question: Question) -> QuestionId;

    /// Finishes a session, without waiting until what is in it is freed, which can take long. The
    /// answer comes as that to a question.
    fn finish(&mut self, session: IncomingSession) -> QuestionId;

    /// Returns an answer that has come. The time for each of them is limited, but for that of
    /// [`Self::finish`].
    fn answer(&mut self) -> Option<(QuestionId, io::Result<bool>)>;

    /// Waits until all answers are there.
    fn wait_for_answers(&mut self);

    /// Begins to write out all file systems, where nobody else does that before the next kernel
    /// starts. False if there is nothing to wait for.
    ///
    /// # Errors
    ///
    /// If that is impossible.
    fn start_sync(&mut self) -> io::Result<bool>;

    /// Whether that is done.
    ///
    /// # Errors
    ///
    /// If it has failed.
    fn is_synced(&mut self) -> io::Result<bool>;

    /// Whether there is such a process.
    fn is_alive(&self, pid: i32) -> bool;

    /// Closes sessions, which can take a time that nobody should have to wait for.
    fn close(&mut self, sessions: Box<dyn Send>);

    /// Gives a descriptor to the service manager to keep, if there is one.
    fn keep(&mut self, name: &str, fd: BorrowedFd<'_>);

    /// Takes back what was given to [`Self::keep`].
    fn forget(&mut self, name: &str);

    /// Remembers a text until this kernel ends, also if luod is started again.
    fn remember(&mut self, text: &str);

    /// Returns what was remembered last.
    fn recall(&self) -> Option<String>;

    /// Tells the service manager what is going on.
    fn status(&mut self, text: &str);
}
