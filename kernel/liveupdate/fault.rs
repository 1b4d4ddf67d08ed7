// SPDX-License-Identifier: GPL-2.0

//! Steps of a live update that need no memory can be made to fail, for tests.

use kernel::prelude::*;

/// Fails with [`ENOMEM`] if somebody wants this step to; see `lib/tests/liveupdate_fault.c`.
///
/// To be placed where a step could fail for another reason than a lack of memory, before or after
/// that step: whatever was done so far has to be taken back. Without
/// `CONFIG_LIVEUPDATE_ERROR_INJECTION`, this is nothing.
#[inline]
pub(crate) fn point() -> Result {
    #[cfg(CONFIG_LIVEUPDATE_ERROR_INJECTION)]
    if crate::ops::should_fail() {
        return Err(ENOMEM);
    }
    Ok(())
}
