// SPDX-License-Identifier: GPL-2.0

//! The interface of luod to the system that it runs on.

use crate::{
    config::{Identity, Memlock},
    hooks::Input,
};
use liveupdate::{Device, IncomingSession};
use luo_check::Verdict;
use luod_protocol::Stamp;
use std::{io, os::fd::BorrowedFd};

/// Questions to the service manager, which can take long to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether it keeps all descriptors of [`World::keep`], and hands them over to the next
    /// kernel. Not needed if luod starts the next kernel itself, by the system call, unless the
    /// service manager starts it (`handover`). The error is a sentence that names the possible
    /// loss and the solution.
    IsKept {
        /// Whether a handover by the service manager is running.
        handover: bool,
    },
    /// Whether a program inhibits the shutdown. The error is a sentence that names it.
    Inhibited,
    /// Whether it is starting the next kernel.
    KexecUnderWay,
    /// Asks it to read all descriptors of [`World::keep`].
    Settle,
    /// Starts the next kernel, or asks the service manager to start it. Success means that the
    /// service manager is going to start it.
    Kexec,
}

/// Distinguishes a question from earlier ones.
pub type QuestionId = u64;

/// The system, as far as the decisions of luod depend on it.
pub trait World {
    /// The current time.
    fn now(&self) -> Stamp;

    /// The time since the start of this kernel, in microseconds.
    fn uptime_us(&self) -> u64;

    /// The frequency of the time-stamp counter, in kHz, if it is known yet.
    fn tsc_khz(&self) -> Option<u64>;

    /// The identifier of this boot.
    fn boot_id(&self) -> String;

    /// The release of the running kernel.
    fn release(&self) -> String;

    /// Opens `/dev/liveupdate`, once.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is already open, `ENOENT` if it does not exist.
    fn open(&mut self) -> io::Result<Device>;

    /// Whether a kernel is loaded, if this is known.
    fn image_loaded(&self) -> Option<bool>;

    /// Why the loaded kernel cannot take over the preserved files, if this is known.
    /// `minimum` is the worst verdict of a check that is no objection.
    fn objection(&self, minimum: Verdict) -> Option<String>;

    /// Sends a question to the service manager, without waiting for the answer.
    fn ask(&mut self, question: Question) -> QuestionId;

    /// Starts the hooks of a stage, after those that were started before. The result is returned
    /// like the answer to a question; the error is a sentence. Failures of hooks that do not run
    /// before an update are logged.
    fn run_hooks(&mut self, input: Input) -> QuestionId;

    /// Finishes a session, without waiting until its memory is freed, which can take long. The
    /// result is returned like the answer to a question.
    fn finish(&mut self, session: IncomingSession) -> QuestionId;

    /// Returns an answer, if there is one. The time for each answer is limited, except for
    /// [`Self::finish`].
    fn answer(&mut self) -> Option<(QuestionId, io::Result<bool>)>;

    /// Waits for all answers.
    fn wait_for_answers(&mut self);

    /// Begins to sync all file systems, if no other program does that before the next kernel
    /// starts. Returns false if no sync was started.
    ///
    /// # Errors
    ///
    /// If the sync cannot be started.
    fn start_sync(&mut self) -> io::Result<bool>;

    /// Returns whether the sync is complete.
    ///
    /// # Errors
    ///
    /// If it has failed.
    fn is_synced(&mut self) -> io::Result<bool>;

    /// Returns whether a process exists.
    fn is_alive(&self, pid: i32) -> bool;

    /// Sets or removes the limit for locked memory of the process of a peer.
    ///
    /// # Errors
    ///
    /// If that is not permitted, or the process has ended: another one may have its number.
    fn limit_memlock(&mut self, who: &Identity, limit: Memlock) -> io::Result<()>;

    /// Closes sessions without waiting, since closing can take long.
    fn close(&mut self, sessions: Box<dyn Send>);

    /// Stores a descriptor in the service manager, if there is one.
    fn keep(&mut self, name: &str, fd: BorrowedFd<'_>);

    /// Removes a descriptor that [`Self::keep`] has stored.
    fn forget(&mut self, name: &str);

    /// Saves a text until the end of this kernel, also if luod is restarted.
    fn remember(&mut self, text: &str);

    /// Returns the text that was saved last.
    fn recall(&self) -> Option<String>;

    /// Sends a status text to the service manager.
    fn status(&mut self, text: &str);
}
