// SPDX-License-Identifier: GPL-2.0

//! Memory that user space has locked, and the limit for that.
//!
//! C header: [`include/linux/sched/user.h`](srctree/include/linux/sched/user.h)

use crate::{
    bindings,
    prelude::*, //
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

    /// Adds pages if that keeps within the limit of the current task, or if it has `CAP_IPC_LOCK`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if the limit is exceeded.
    pub fn add(&mut self, pages: u64) -> Result {
        // SAFETY: By the type invariant, the user is valid.
        if !unsafe { bindings::user_lock_pages(self.user.as_ptr(), pages as c_ulong) } {
            return Err(ENOMEM);
        }
        // INVARIANT: They were just added.
        self.pages = self.pages.saturating_add(pages);
        Ok(())
    }

    /// Adds pages, even beyond the limit: for what cannot be refused any more.
    pub fn force_add(&mut self, pages: u64) {
        // SAFETY: By the type invariant, the user is valid.
        unsafe { bindings::user_force_lock_pages(self.user.as_ptr(), pages as c_ulong) };
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
        // SAFETY: By the type invariant, the pages are ours, and so is the reference.
        unsafe {
            bindings::user_unlock_pages(self.user.as_ptr(), self.pages as c_ulong);
            bindings::free_uid(self.user.as_ptr());
        }
    }
}
