// SPDX-License-Identifier: GPL-2.0

//! Handing over unclaimed memory again.

use crate::{
    bindings,
    error::to_result,
    prelude::*,
    sync::atomic::{
        ordering::{
            Acquire,
            Release, //
        },
        Atomic, //
    }, //
};

/// Whether a [`CarriedOver`] exists.
static CARRYING: Atomic<bool> = Atomic::new(false);

/// All unclaimed memory of the previous kernel, preserved again.
///
/// It cannot be claimed while this exists. Dropping the object undoes the preservation, and may
/// sleep. The memory has the same addresses in the next kernel, which the caller must hand over.
/// Entries that the previous kernel [published](super::Preserved::publish) by name are not carried
/// over.
///
/// # Invariants
///
/// [`CARRYING`] is set, by this object, and `kho_carry_over()` has succeeded.
pub struct CarriedOver {
    pages: usize,
}

impl CarriedOver {
    /// Preserves all unclaimed memory.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if it is already preserved, [`ENOMEM`], [`EIO`] if the preserved memory of the
    /// previous kernel is not known any more.
    ///
    /// # Context
    ///
    /// May sleep.
    pub fn new() -> Result<Self> {
        if CARRYING.cmpxchg(false, true, Acquire).is_err() {
            return Err(EBUSY);
        }
        let mut pages = 0;
        // SAFETY: `pages` is valid for writing. There are no concurrent calls, since the flag was
        // just set.
        let res = to_result(unsafe { bindings::kho_carry_over(&mut pages) });
        if let Err(err) = res {
            CARRYING.store(false, Release);
            return Err(err);
        }
        // INVARIANT: Just checked and called.
        Ok(Self { pages })
    }

    /// The number of pages.
    pub fn pages(&self) -> usize {
        self.pages
    }
}

impl Drop for CarriedOver {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kho_undo_carry_over() };
        CARRYING.store(false, Release);
    }
}
