// SPDX-License-Identifier: GPL-2.0

//! Handing over once more what nobody claimed.

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

/// Whether there is a [`CarriedOver`].
static CARRYING: Atomic<bool> = Atomic::new(false);

/// All memory that the previous kernel preserved and that nobody claimed, preserved once more.
///
/// It cannot be claimed while this exists. Dropping the object takes that back, and may sleep. The
/// next kernel finds the memory at the same addresses, which somebody has to tell it. What the
/// previous kernel [published](super::Preserved::publish) by name stays behind.
///
/// # Invariants
///
/// [`CARRYING`] is set, by this object, and `kho_carry_over()` has succeeded.
pub struct CarriedOver {
    pages: usize,
}

impl CarriedOver {
    /// Preserves what nobody claimed.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if that was done already, [`ENOMEM`], [`EIO`] if what the previous kernel
    /// preserved is not known any more.
    ///
    /// # Context
    ///
    /// May sleep.
    pub fn new() -> Result<Self> {
        if CARRYING.cmpxchg(false, true, Acquire).is_err() {
            return Err(EBUSY);
        }
        let mut pages = 0;
        // SAFETY: `pages` is valid for writing. Nobody else calls this, since we have just set the
        // flag.
        let res = to_result(unsafe { bindings::kho_carry_over(&mut pages) });
        if let Err(err) = res {
            CARRYING.store(false, Release);
            return Err(err);
        }
        // INVARIANT: Just checked and called.
        Ok(Self { pages })
    }

    /// How many pages that is.
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
