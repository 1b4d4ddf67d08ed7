// SPDX-License-Identifier: GPL-2.0

//! Interruption of long operations.

use kernel::{
    liveupdate,
    prelude::*,
    sched::resched_or_killed, //
};

/// Lets other tasks run, and returns an error if the operation must stop. May sleep.
///
/// Must be called between batches of folios.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed, [`EBUSY`] if a kexec waits for the operation to end. The
/// latter never happens while a file is being frozen.
pub(crate) fn checkpoint() -> Result {
    resched_or_killed()?;
    liveupdate::give_way()
}
