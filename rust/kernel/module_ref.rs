// SPDX-License-Identifier: GPL-2.0

//! References to modules.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h)

use crate::bindings;

/// A reference that keeps a module loaded.
///
/// Somebody who calls functions of a module needs one. Code that is built into the kernel has no
/// module (`THIS_MODULE` is null): it never goes away, so that a reference to it is always there,
/// and nothing is counted.
///
/// # Invariants
///
/// `module` is null, or a module of which the object owns a reference.
pub struct ModuleRef {
    module: *mut bindings::module,
}

// SAFETY: Module references are counted atomically, and do not belong to a thread.
unsafe impl Send for ModuleRef {}
// SAFETY: A shared reference to the object gives access to nothing.
unsafe impl Sync for ModuleRef {}

impl ModuleRef {
    /// Gets a reference to `module`; [`None`] if it is about to be unloaded.
    ///
    /// Equivalent to `try_module_get()`. Does not sleep.
    ///
    /// # Safety
    ///
    /// `module` has to be null, or a valid pointer during this call: the caller must keep the
    /// module from being freed, for example by a lock that its exit function takes.
    pub unsafe fn try_get(module: *mut bindings::module) -> Option<Self> {
        // SAFETY: By the safety requirements; null stands for built-in code.
        let alive = unsafe { bindings::try_module_get(module) };
        // INVARIANT: If there is a module, `try_module_get()` took a reference to it.
        alive.then(|| Self { module })
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; null is ignored.
        unsafe { bindings::module_put(self.module) };
    }
}
