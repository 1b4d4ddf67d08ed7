// SPDX-License-Identifier: GPL-2.0

//! Rescheduling in long loops.
//!
//! C header: [`include/linux/sched.h`](srctree/include/linux/sched.h)

use crate::{
    bindings,
    prelude::*,
    task::Task, //
};

/// Lets other tasks run if the scheduler has requested it.
///
/// # Context
///
/// May sleep.
#[inline]
pub fn cond_resched() {
    // SAFETY: FFI call without safety requirements.
    unsafe { bindings::cond_resched() };
}

/// Like [`cond_resched`], for loops that end early if the task is being killed.
///
/// # Errors
///
/// [`EINTR`] if a fatal signal is pending.
///
/// # Context
///
/// May sleep.
///
/// # Examples
///
/// ```
/// for _ in 0..3 {
///     kernel::sched::resched_or_killed()?;
/// }
/// # Ok::<(), Error>(())
/// ```
pub fn resched_or_killed() -> Result {
    cond_resched();
    // SAFETY: The current task is valid.
    if unsafe { bindings::fatal_signal_pending(Task::current_raw()) } != 0 {
        return Err(EINTR);
    }
    Ok(())
}
