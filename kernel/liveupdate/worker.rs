// SPDX-License-Identifier: GPL-2.0

//! Work that goes on when the process that waits for it is killed.

use kernel::{
    prelude::*,
    sync::{
        Arc,
        Completion,
        SetOnce, //
    },
    workqueue, //
};

/// What a process waits for.
#[pin_data]
struct Job {
    result: SetOnce<Result>,
    #[pin]
    done: Completion,
}

/// Lets a worker do `work`, waits for it, and returns its result.
///
/// For work that takes long and cannot be interrupted. Without memory for a worker, the caller does
/// it.
///
/// # Errors
///
/// [`EINTR`] if the task was killed while it waited: `work` goes on. Otherwise, those of `work`.
///
/// # Context
///
/// May sleep. `work` runs in the context of a kernel thread, which cannot be killed.
pub(crate) fn run(work: impl Fn() -> Result + Clone + Send + 'static) -> Result {
    let job = pin_init!(Job {
        result: SetOnce::new(),
        done <- Completion::new(),
    });
    let Ok(job) = Arc::pin_init(job, GFP_KERNEL) else {
        return work();
    };
    let theirs = job.clone();
    let act = work.clone();
    let started = workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
        theirs.result.populate(act());
        theirs.done.complete_all();
    });
    if started.is_err() {
        return work();
    }
    job.done.wait_for_completion_killable()?;
    job.result.copy().unwrap_or(Err(EINTR))
}
