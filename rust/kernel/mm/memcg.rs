// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups.
//!
//! C header: [`include/linux/memcontrol.h`](srctree/include/linux/memcontrol.h)

use crate::types::NotThreadSafe;

#[cfg(CONFIG_MEMCG)]
use crate::bindings;

/// Charges allocations of the current task to the root memory cgroup, which has no limit, until
/// this is dropped.
///
/// For work that a task does on behalf of the whole system.
///
/// # Invariants
///
/// `old` is the memory cgroup to which allocations of the task were charged before, or null for the
/// task's own one; it is valid.
#[must_use = "the memory cgroup of the task is charged again when this is dropped"]
pub struct RootCharge {
    #[cfg(CONFIG_MEMCG)]
    old: *mut bindings::mem_cgroup,
    _not_send: NotThreadSafe,
}

impl RootCharge {
    /// Starts to charge the root memory cgroup.
    ///
    /// # Context
    ///
    /// Process context.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        #[cfg(CONFIG_MEMCG)]
        let old =
            // SAFETY: The root memory cgroup is set up at boot, and exists as long as the kernel runs.
            unsafe { bindings::set_active_memcg((&raw const bindings::root_mem_cgroup).read()) };
        // INVARIANT: The callee returns the old value, which the code that set it keeps valid until
        // the scope of this object ends.
        Self {
            #[cfg(CONFIG_MEMCG)]
            old,
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for RootCharge {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. The task is the same, since this object stays in it.
        #[cfg(CONFIG_MEMCG)]
        unsafe {
            bindings::set_active_memcg(self.old)
        };
    }
}
