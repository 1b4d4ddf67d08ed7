// SPDX-License-Identifier: GPL-2.0

//! Locked memory of users, and its limit.
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

/// The maximum number of pages that the current task may lock, together with all others of its
/// user.
///
/// [`None`] if there is no limit.
fn limit() -> Option<isize> {
    // CAST: A small constant.
    // SAFETY: FFI call without safety requirements.
    if unsafe { bindings::capable(bindings::CAP_IPC_LOCK as c_int) } {
        return None;
    }
    // SAFETY: FFI call without safety requirements.
    let bytes = unsafe { bindings::rlimit(bindings::RLIMIT_MEMLOCK) };
    // `RLIM_INFINITY` has all bits set.
    (bytes != c_ulong::MAX).then(|| isize::try_from(bytes >> PAGE_SHIFT).unwrap_or(isize::MAX))
}

/// A user whose locked pages are limited.
///
/// # Invariants
///
/// `user` is a reference that belongs to this object.
struct LimitedUser {
    user: NonNull<bindings::user_struct>,
    /// The maximum number of pages that may be locked.
    limit: isize,
}

// SAFETY: A user and its counters may be used on any thread.
unsafe impl Send for LimitedUser {}
// SAFETY: Nothing is changed through a shared reference but atomic counters.
unsafe impl Sync for LimitedUser {}

impl LimitedUser {
    /// The user who runs the current task.
    fn current(limit: isize) -> Result<Self> {
        // SAFETY: The current task has a user; the callee returns a new reference.
        let user = unsafe { bindings::get_current_user() };
        // INVARIANT: This object owns the reference.
        Ok(Self {
            user: NonNull::new(user).ok_or(EINVAL)?,
            limit,
        })
    }

    /// The locked pages of the user.
    fn counter(&self) -> &Atomic<isize> {
        // SAFETY: By the type invariant, the user is valid as long as this object. The counter is
        // an `atomic_long_t`, which has the size of an `isize`; C accesses it atomically only.
        unsafe { Atomic::from_ptr((&raw mut (*self.user.as_ptr()).locked_vm.counter).cast()) }
    }
}

impl Clone for LimitedUser {
    fn clone(&self) -> Self {
        // SAFETY: By the type invariant, the user is valid.
        unsafe { bindings::get_uid(self.user.as_ptr()) };
        // INVARIANT: The callee has got a new reference.
        Self {
            user: self.user,
            limit: self.limit,
        }
    }
}

impl Drop for LimitedUser {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the reference belongs to this object.
        unsafe { bindings::free_uid(self.user.as_ptr()) };
    }
}

/// Pages that are counted as locked, as those with long-term pins are.
///
/// They count against the `RLIMIT_MEMLOCK` of the user whose task has made this object, unless that
/// task has no limit: it must not reduce the limit of other tasks. They are counted for the user,
/// not for a process, since they may outlive it. Dropping the object ends the count.
///
/// # Invariants
///
/// If there is a `user`, `pages` of its locked pages belong to this object.
pub struct LockedPages {
    user: Option<LimitedUser>,
    pages: u64,
}

impl LockedPages {
    /// Starts to count for the current task.
    ///
    /// There is no limit if it has `CAP_IPC_LOCK`, as kernel threads do.
    pub fn new() -> Result<Self> {
        // INVARIANT: There are no pages.
        Ok(Self {
            user: limit().map(LimitedUser::current).transpose()?,
            pages: 0,
        })
    }

    /// Starts to count for the same user, with the same limit.
    pub fn another(&self) -> Self {
        // INVARIANT: There are no pages.
        Self {
            user: self.user.clone(),
            pages: 0,
        }
    }

    /// Adds pages if that keeps within the limit.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if the limit is exceeded.
    pub fn add(&mut self, pages: u64) -> Result {
        if let Some(user) = &self.user {
            let nr = isize::try_from(pages).map_err(|_| ENOMEM)?;
            let counter = user.counter();
            let mut old = counter.load(Relaxed);
            loop {
                let new = old
                    .checked_add(nr)
                    .filter(|&new| new <= user.limit)
                    .ok_or(ENOMEM)?;
                match counter.cmpxchg(old, new, Full) {
                    Ok(_) => break,
                    Err(now) => old = now,
                }
            }
        }
        // INVARIANT: They were just added.
        self.pages = self.pages.saturating_add(pages);
        Ok(())
    }

    /// Adds pages, even beyond the limit: for pages that cannot be refused any more.
    pub fn force_add(&mut self, pages: u64) {
        if let Some(user) = &self.user {
            // CAST: No machine has more pages than fit.
            user.counter().add(pages as isize, Relaxed);
        }
        // INVARIANT: They were just added.
        self.pages = self.pages.saturating_add(pages);
    }

    /// The number of added pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        if let Some(user) = &self.user {
            // CAST: They were added as an `isize`.
            let _ = user.counter().fetch_sub(self.pages as isize, Relaxed);
        }
    }
}
