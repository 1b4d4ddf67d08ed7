// SPDX-License-Identifier: GPL-2.0

//! Work that continues when the task that waits for it is killed, or stops waiting.

use kernel::{
    prelude::*,
    sync::{
        new_mutex,
        Arc,
        Completion,
        Mutex,
        SetOnce, //
    },
    time::{
        msecs_to_jiffies,
        Msecs, //
    },
    workqueue, //
};

/// The result of the work.
#[pin_data]
struct Job {
    result: SetOnce<Result>,
    #[pin]
    done: Completion,
}

/// Runs `work` in a worker, waits for it, and returns its result.
///
/// For work that takes long and cannot be interrupted. Without memory for a worker, it runs in the
/// caller.
///
/// # Errors
///
/// [`EINTR`] if the task was killed while it waited: `work` continues. Otherwise, the errors of
/// `work`.
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

/// Work for which a task waits that may stop waiting.
#[pin_data]
struct Attempt<T> {
    #[pin]
    outcome: Mutex<Outcome<T>>,
    #[pin]
    done: Completion,
}

enum Outcome<T> {
    Unknown,
    Known(Result<T>),
    /// The task has stopped waiting.
    Taken,
}

impl<T: Unpin> Attempt<T> {
    /// Replaces the outcome, and returns what it was.
    fn set(&self, outcome: Outcome<T>) -> Outcome<T> {
        core::mem::replace(&mut *self.outcome.lock(), outcome)
    }

    /// Stores the result. If the task has stopped waiting, the result is dropped with the attempt.
    fn end(&self, result: Result<T>) {
        self.set(Outcome::Known(result));
        self.done.complete_all();
    }
}

/// Runs `work` in a worker, and waits for its result, but not longer than `patience`.
///
/// # Errors
///
/// [`EBUSY`] if it takes longer and [`EINTR`] if the task is killed: `work` continues, and its
/// result is dropped. [`ENOMEM`] if there is no memory for a worker. Otherwise, those of `work`.
///
/// # Context
///
/// May sleep. `work` runs in the context of a kernel thread, which cannot be killed.
pub(crate) fn run_within<T: Send + Unpin + 'static>(
    patience: Msecs,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let attempt = pin_init!(Attempt {
        outcome <- new_mutex!(Outcome::Unknown, "luo_attempt"),
        done <- Completion::new(),
    });
    let attempt: Arc<Attempt<T>> = Arc::pin_init(attempt, GFP_KERNEL)?;
    let theirs = attempt.clone();
    workqueue::system_unbound().try_spawn(GFP_KERNEL, move || theirs.end(work()))?;

    let waited = attempt
        .done
        .wait_for_completion_killable_timeout(msecs_to_jiffies(patience));
    match (attempt.set(Outcome::Taken), waited) {
        (Outcome::Known(result), _) => result,
        (_, Err(EINTR)) => Err(EINTR),
        _ => Err(EBUSY),
    }
}
