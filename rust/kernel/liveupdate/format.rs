// SPDX-License-Identifier: GPL-2.0

//! The list of supported formats in the image of this kernel.
//!
//! Programs must be able to check before a live update whether the next kernel supports the
//! formats to be handed over. Every image therefore has a section `.liveupdate_versions`, which
//! begins with a magic number and a version (the linker writes them), followed by one [`Format`]
//! for each format. A module has an alias for each of its formats instead, see [`Alias`].
//!
//! C counterpart: `LIVEUPDATE_FORMAT()` in
//! [`include/linux/liveupdate.h`](srctree/include/linux/liveupdate.h)

use crate::{
    bindings,
    prelude::*, //
};

/// The name of a format in the list.
#[repr(C, align(8))]
pub struct Format([u8; Format::LEN]);

impl Format {
    const LEN: usize = 48;

    /// Creates an entry of the list. Fails to compile if the length of `name` is not between 1
    /// and 47 bytes.
    pub const fn new(name: &CStr) -> Self {
        let name = name.to_bytes();
        assert!(
            !name.is_empty() && name.len() < Self::LEN,
            "the name of a format has 1 to 47 bytes"
        );
        let mut field = [0; Self::LEN];
        let mut i = 0;
        while i < name.len() {
            field[i] = name[i];
            i += 1;
        }
        Self(field)
    }

    /// The name, without padding.
    pub fn name(&self) -> &[u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or(&[])
    }
}

static_assert!(size_of::<Format>() == size_of::<bindings::liveupdate_format>());
static_assert!(align_of::<Format>() == align_of::<bindings::liveupdate_format>());

/// The alias of a module that supports a format, `liveupdate:` and the name, as a string of the
/// section
/// `.modinfo`.
#[repr(transparent)]
pub struct Alias([u8; Alias::LEN]);

impl Alias {
    const PREFIX: &'static [u8] = b"alias=liveupdate:";
    const LEN: usize = Self::PREFIX.len() + Format::LEN;

    /// Creates an alias. Fails to compile if the length of `name` is not between 1 and 47 bytes.
    pub const fn new(name: &CStr) -> Self {
        let Format(name) = Format::new(name);
        let mut text = [0; Self::LEN];
        let mut i = 0;
        while i < text.len() {
            text[i] = if i < Self::PREFIX.len() {
                Self::PREFIX[i]
            } else {
                name[i - Self::PREFIX.len()]
            };
            i += 1;
        }
        Self(text)
    }
}

/// The list of formats in the image of this kernel.
///
/// It does not include formats of modules.
pub fn supported() -> &'static [Format] {
    let start = (&raw const bindings::__start_liveupdate_versions).cast::<Format>();
    let stop = (&raw const bindings::__stop_liveupdate_versions).cast::<Format>();
    let count = stop.addr().saturating_sub(start.addr()) / size_of::<Format>();
    // SAFETY: The linker placed all entries, which have the layout of `Format`, between the two
    // symbols. They are never written to.
    unsafe { core::slice::from_raw_parts(start, count) }
}

/// Adds the name of a format to the list in the image, or to the aliases of a module.
///
/// Use it next to the implementation of [`FileHandler`](super::FileHandler) or
/// [`Flb`](super::flb::Flb) with this name.
///
/// # Examples
///
/// ```ignore
/// kernel::declare_compatible!(<Handler as FileHandler>::COMPATIBLE);
/// ```
#[macro_export]
macro_rules! declare_compatible {
    ($name:expr) => {
        const _: () = {
            #[cfg(not(MODULE))]
            #[link_section = ".liveupdate_versions"]
            #[used(compiler)]
            static FORMAT: $crate::liveupdate::format::Format =
                $crate::liveupdate::format::Format::new($name);

            #[cfg(MODULE)]
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static ALIAS: $crate::liveupdate::format::Alias =
                $crate::liveupdate::format::Alias::new($name);
        };
    };
}
