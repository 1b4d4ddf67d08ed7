// SPDX-License-Identifier: GPL-2.0

//! Text files in a directory of `/sys/kernel`.
//!
//! C header: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use crate::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    fmt,
    page::PAGE_SIZE,
    prelude::*,
    str::RawFormatter,
    types::Opaque, //
};
use core::ptr::NonNull;

#[cfg(CONFIG_SYSFS)]
use bindings::sysfs_create_file_ns;

/// Without `CONFIG_SYSFS`, the C function is inline. Never called, since there is no [`Dir`].
///
/// # Safety
///
/// Always safe to call.
#[cfg(not(CONFIG_SYSFS))]
unsafe fn sysfs_create_file_ns(
    _kobj: *mut bindings::kobject,
    _attr: *const bindings::attribute,
    _ns: *const c_void,
) -> c_int {
    0
}

/// The contents of a file.
pub trait Show {
    /// The name of the file.
    const NAME: &'static CStr;

    /// Whether only root may read it.
    const ROOT_ONLY: bool = false;

    /// Returns the current contents of the file. Called for each read, in process context.
    ///
    /// # Errors
    ///
    /// Are returned to the reader. [`EFBIG`] is returned if the text is longer than a page, the
    /// limit of files in sysfs, so that a truncated text is never returned.
    fn show() -> Result<impl fmt::Display>;
}

/// Handles writes to a file.
pub trait Store: Show {
    /// Gets the written text, without surrounding white space. Called in process context.
    ///
    /// # Errors
    ///
    /// Are returned to the writer.
    fn store(text: &[u8]) -> Result;
}

/// A file in sysfs.
pub struct Attribute(Opaque<bindings::kobj_attribute>);

// SAFETY: Only the kernel's sysfs code accesses it, with its own locking.
unsafe impl Sync for Attribute {}

impl Attribute {
    /// Creates the file that `S` describes. Must be stored in a `static`.
    pub const fn new<S: Show>() -> Self {
        let mut raw: bindings::kobj_attribute = pin_init::zeroed();
        raw.attr.name = crate::str::as_char_ptr_in_const_context(S::NAME);
        raw.attr.mode = if S::ROOT_ONLY { 0o400 } else { 0o444 };
        raw.__bindgen_anon_1.show = Some(show::<S>);
        Self(Opaque::new(raw))
    }

    /// Like [`Self::new`], for a file to which root may write.
    pub const fn writable<S: Store>() -> Self {
        let mut raw: bindings::kobj_attribute = pin_init::zeroed();
        raw.attr.name = crate::str::as_char_ptr_in_const_context(S::NAME);
        raw.attr.mode = if S::ROOT_ONLY { 0o600 } else { 0o644 };
        raw.__bindgen_anon_1.show = Some(show::<S>);
        raw.__bindgen_anon_2.store = Some(store::<S>);
        Self(Opaque::new(raw))
    }
}

/// # Safety
///
/// `buf` must be a writable page.
unsafe extern "C" fn show<S: Show>(
    _kobj: *mut bindings::kobject,
    _attr: *mut bindings::kobj_attribute,
    buf: *mut c_char,
) -> isize {
    from_result(|| {
        let text = S::show()?;
        // SAFETY: By the safety requirements.
        let mut out = unsafe { RawFormatter::from_buffer(buf.cast(), PAGE_SIZE) };
        fmt::Write::write_fmt(&mut out, fmt!("{}", text)).map_err(|_| EIO)?;
        let len = out.bytes_written();
        if len >= PAGE_SIZE {
            return Err(EFBIG);
        }
        Ok(len as isize)
    })
}

/// # Safety
///
/// `buf` must be valid for reading `count` bytes.
unsafe extern "C" fn store<S: Store>(
    _kobj: *mut bindings::kobject,
    _attr: *mut bindings::kobj_attribute,
    buf: *const c_char,
    count: usize,
) -> isize {
    from_result(|| {
        // SAFETY: By the safety requirements; the buffer has no other users during the call.
        let text = unsafe { core::slice::from_raw_parts(buf.cast::<u8>(), count) };
        S::store(text.trim_ascii())?;
        // CAST: At most a page is written at once.
        Ok(count as isize)
    })
}

/// A directory in `/sys/kernel`. Dropping it removes it.
///
/// # Invariants
///
/// The pointer is valid, and this object owns a reference.
pub struct Dir(NonNull<bindings::kobject>);

// SAFETY: Directories may be used from any thread.
unsafe impl Send for Dir {}
// SAFETY: A shared reference to a directory gives no access to the kobject.
unsafe impl Sync for Dir {}

impl Dir {
    /// Creates the directory.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], also if the name is in use; [`EOPNOTSUPP`] without `CONFIG_SYSFS`.
    ///
    /// # Context
    ///
    /// May sleep. From the core initcalls on.
    #[cfg(CONFIG_SYSFS)]
    pub fn new(name: &CStr) -> Result<Self> {
        // SAFETY: The name is copied; the parent exists since before the initcalls.
        let raw =
            unsafe { bindings::kobject_create_and_add(name.as_char_ptr(), bindings::kernel_kobj) };
        // INVARIANT: The function returned a reference.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    /// Fails with [`EOPNOTSUPP`], since there is no sysfs.
    #[cfg(not(CONFIG_SYSFS))]
    pub fn new(_name: &CStr) -> Result<Self> {
        Err(EOPNOTSUPP)
    }

    /// Creates a file in the directory.
    ///
    /// # Errors
    ///
    /// [`EEXIST`] or [`ENOMEM`].
    pub fn add(&self, attribute: &'static Attribute) -> Result {
        let attr = attribute.0.get().cast::<bindings::attribute>();
        // SAFETY: The directory is valid by the type invariant; the attribute, whose first field
        // is `attr`, is static, and has the type that the operations of directories of
        // `kobject_create_and_add()` expect.
        to_result(unsafe { sysfs_create_file_ns(self.0.as_ptr(), attr, core::ptr::null()) })
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kobject_put(self.0.as_ptr()) };
    }
}
