// SPDX-License-Identifier: GPL-2.0

//! Fault injection for steps of a live update that need no memory.

use kernel::prelude::*;

/// Fails with [`ENOMEM`] if fault injection asks for it; see `lib/tests/liveupdate_fault.c`.
///
/// Must be called where a step could fail for another reason than a lack of memory, before or
/// after that step. The caller must undo all previous steps. Without
/// `CONFIG_LIVEUPDATE_ERROR_INJECTION`, this does nothing.
#[inline]
pub(crate) fn point() -> Result {
    #[cfg(CONFIG_LIVEUPDATE_ERROR_INJECTION)]
    if crate::ops::should_fail() {
        return Err(ENOMEM);
    }
    Ok(())
}
