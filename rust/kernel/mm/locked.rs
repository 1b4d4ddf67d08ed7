// SPDX-License-Identifier: GPL-2.0

//! Memory that user space has locked, and the limit for that.
//!
//! C header: [`include/linux/sched/user.h`](srctree/include/linux/sched/user.h)

use crate::{
    bindings,
    page::PAGE_SHIFT,
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    }, //
};
use core::ptr::NonNull;

/// Pages that count against the `RLIMIT_MEMLOCK` of a user, as long-term pins do.
///
/// They belong to the user, not to a process, since they may outlive it. Dropping the object gives
/// them back.
///
/// # Invariants
///
/// `user` is a reference that belongs to this object, and so do `pages` of its locked pages.
pub struct LockedPages {
    user: NonNull<bindings::user_struct>,
    pages: u64,
}

// SAFETY: A user and its counters may be used on any thread.
unsafe impl Send for LockedPages {}
// SAFETY: Nothing is changed through a shared reference.
unsafe impl Sync for LockedPages {}

/// The most pages that the current task may lock, together with all others of its user.
fn limit() -> isize {
    // CAST: A small constant.
    // SAFETY: FFI call without safety requirements.
    if unsafe { bindings::capable(bindings::CAP_IPC_LOCK as c_int) } {
        return isize::MAX;
    }
    // SAFETY: FFI call without safety requirements.
    let bytes = unsafe { bindings::rlimit(bindings::RLIMIT_MEMLOCK) };
    isize::try_from(bytes >> PAGE_SHIFT).unwrap_or(isize::MAX)
}

impl LockedPages {
    /// Starts to count for the user who runs the current task.
    pub fn new() -> Result<Self> {
        // SAFETY: The current task has a user; the callee returns a new reference.
        let user = unsafe { bindings::get_current_user() };
        // INVARIANT: The reference is ours, and there are no pages.
        Ok(Self {
            user: NonNull::new(user).ok_or(EINVAL)?,
            pages: 0,
        })
    }

    /// The locked pages of the user.
    fn counter(&self) -> &Atomic<isize> {
        // SAFETY: By the type invariant, the user is valid for as long as this object. The counter is
        // an `atomic_long_t`, which has the size of an `isize`; C accesses it atomically only.
        unsafe { Atomic::from_ptr((&raw mut (*self.user.as_ptr()).locked_vm.counter).cast()) }
    }

    /// Adds pages if that keeps within the limit of the current task, or if it has `CAP_IPC_LOCK`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if the limit is exceeded.
    pub fn add(&mut self, pages: u64) -> Result {
        let limit = limit();
        let nr = isize::try_from(pages).map_err(|_| ENOMEM)?;
        let counter = self.counter();
        let mut old = counter.load(Relaxed);
        loop {
            let new = old
                .checked_add(nr)
                .filter(|&new| new <= limit)
                .ok_or(ENOMEM)?;
            match counter.cmpxchg(old, new, Full) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        // INVARIANT: They were just added.
        self.pages = self.pages.saturating_add(pages);
        Ok(())
    }

    /// Adds pages, even beyond the limit: for what cannot be refused any more.
    pub fn force_add(&mut self, pages: u64) {
        // CAST: No machine has more pages than fit.
        self.counter().add(pages as isize, Relaxed);
        // INVARIANT: They were just added.
        self.pages = self.pages.saturating_add(pages);
    }

    /// How many pages were added.
    pub fn pages(&self) -> u64 {
        self.pages
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        // CAST: They were added as an `isize`.
        let _ = self.counter().fetch_sub(self.pages as isize, Relaxed);
        // SAFETY: By the type invariant, the reference is ours.
        unsafe { bindings::free_uid(self.user.as_ptr()) };
    }
}
