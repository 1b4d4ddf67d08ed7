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

/// What a file contains.
pub trait Show {
    /// The name of the file.
    const NAME: &'static CStr;

    /// Whether only root may read it.
    const ROOT_ONLY: bool = false;

    /// Returns what the file contains now. Called for each read, in process context.
    ///
    /// # Errors
    ///
    /// Reach the reader. The same goes for [`EFBIG`] if the text is longer than a page: files in
    /// sysfs cannot be longer, and a part could be taken for the whole.
    fn show() -> Result<impl fmt::Display>;
}

/// What happens when a file is written to.
pub trait Store: Show {
    /// Gets what was written, without white space around it. Called in process context.
    ///
    /// # Errors
    ///
    /// Reach the writer.
    fn store(text: &[u8]) -> Result;
}

/// A file in sysfs.
pub struct Attribute(Opaque<bindings::kobj_attribute>);

// SAFETY: Only the kernel's sysfs code accesses it, with its own locking.
unsafe impl Sync for Attribute {}

impl Attribute {
    /// Makes the file that `S` describes. Has to become a `static`.
    pub const fn new<S: Show>() -> Self {
        let mut raw: bindings::kobj_attribute = pin_init::zeroed();
        raw.attr.name = crate::str::as_char_ptr_in_const_context(S::NAME);
        raw.attr.mode = if S::ROOT_ONLY { 0o400 } else { 0o444 };
        raw.__bindgen_anon_1.show = Some(show::<S>);
        Self(Opaque::new(raw))
    }

    /// As [`Self::new`], for a file that root may write to.
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
/// `buf` has to be a page that may be written to.
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
/// `buf` has to be valid for reading `count` bytes.
unsafe extern "C" fn store<S: Store>(
    _kobj: *mut bindings::kobject,
    _attr: *mut bindings::kobj_attribute,
    buf: *const c_char,
    count: usize,
) -> isize {
    from_result(|| {
        // SAFETY: By the safety requirements; nobody else has the buffer during the call.
        let text = unsafe { core::slice::from_raw_parts(buf.cast::<u8>(), count) };
        S::store(text.trim_ascii())?;
        // CAST: No more than a page is written at once.
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
    /// [`ENOMEM`], also if the name is taken.
    ///
    /// # Context
    ///
    /// May sleep. From the core initcalls on.
    pub fn new(name: &CStr) -> Result<Self> {
        // SAFETY: The name is copied; the parent exists since before the initcalls.
        let raw =
            unsafe { bindings::kobject_create_and_add(name.as_char_ptr(), bindings::kernel_kobj) };
        // INVARIANT: The function returned a reference.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    /// Creates a file in the directory.
    ///
    /// # Errors
    ///
    /// [`EEXIST`] or [`ENOMEM`].
    pub fn add(&self, attribute: &'static Attribute) -> Result {
        let attr = attribute.0.get().cast::<bindings::attribute>();
        // SAFETY: The directory is valid by the type invariant; the attribute, whose first field
        // `attr` is, stays for ever, and has the type that the operations of directories made by
        // `kobject_create_and_add()` expect.
        to_result(unsafe {
            bindings::sysfs_create_file_ns(self.0.as_ptr(), attr, core::ptr::null())
        })
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kobject_put(self.0.as_ptr()) };
    }
}
