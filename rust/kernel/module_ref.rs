// SPDX-License-Identifier: GPL-2.0

//! References to modules.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h)

use crate::bindings;

/// A reference that prevents the unloading of a module.
///
/// Callers of functions of a module need one. Built-in code has no module (`THIS_MODULE` is
/// null): it is never unloaded, so that references to it always succeed and are not counted.
///
/// # Invariants
///
/// `module` is null, or a module of which the object owns a reference.
pub struct ModuleRef {
    module: *mut bindings::module,
}

// SAFETY: Module references are counted atomically, and do not belong to a thread.
unsafe impl Send for ModuleRef {}
// SAFETY: A shared reference to the object gives no access.
unsafe impl Sync for ModuleRef {}

impl ModuleRef {
    /// Gets a reference to `module`; [`None`] if it is about to be unloaded.
    ///
    /// Equivalent to `try_module_get()`. Does not sleep.
    ///
    /// # Safety
    ///
    /// `module` must be null, or a valid pointer during this call: the caller must prevent
    /// the module from being freed, for example by a lock that its exit function takes.
    pub unsafe fn try_get(module: *mut bindings::module) -> Option<Self> {
        // SAFETY: By the safety requirements; null means built-in code.
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
