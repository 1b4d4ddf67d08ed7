// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a program does in a live update.

use super::SessionName;
use crate::{IncomingSession, OutgoingSession};
use std::{error::Error, time::Duration};

/// The result of a [`Participant`], with any type of error.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The part of a program in a live update.
pub trait Participant {
    /// Preserves all files of a session. From then on, until [`Self::cancelled`] is called, the program
    /// must not change the files in a way that its next instance cannot handle.
    ///
    /// If [`Self::pauses`] returns true, this only preserves the files whose contents may still
    /// change, and the program works until [`Self::pause`] is called.
    ///
    /// # Errors
    ///
    /// Any error aborts the update and is shown to the operator.
    fn preserve(&mut self, id: &SessionName, session: &OutgoingSession) -> Result;

    /// Returns whether [`Self::pause`] does a part of the work. The program can then work until all
    /// other programs are ready.
    fn pauses(&self) -> bool {
        false
    }

    /// Stops the work of the program until [`Self::cancelled`] is called, and preserves the rest of
    /// its files. Called when all other programs are ready or are paused as well, or directly after
    /// [`Self::preserve`] if luod is too old for this.
    ///
    /// # Errors
    ///
    /// See [`Self::preserve`].
    fn pause(&mut self, id: &SessionName, session: &OutgoingSession) -> Result {
        let _ = (id, session);
        Ok(())
    }

    /// Called when the update was aborted: the program continues its work. Also called if
    /// [`Self::preserve`] or [`Self::pause`] has failed.
    fn cancelled(&mut self, id: &SessionName, reason: &str);

    /// Retrieves the files that the last instance of the program has preserved.
    ///
    /// The sessions are finished after this has succeeded for all of them. From then on,
    /// [`Member::join`](super::Member::join) ignores errors of luod.
    ///
    /// # Errors
    ///
    /// All sessions are kept, and can be claimed again.
    fn restore(&mut self, id: &SessionName, session: &IncomingSession) -> Result;

    /// Called when an update begins. [`Self::preserve`] is called next, unless this returns an
    /// error, which aborts the update.
    ///
    /// # Errors
    ///
    /// See [`Self::preserve`].
    fn prepare(&mut self, id: &SessionName, deadline: Duration) -> Result {
        let _ = (id, deadline);
        Ok(())
    }

    /// Called before the next kernel is started. The program may exit.
    fn frozen(&mut self, id: &SessionName) {
        let _ = id;
    }
}
