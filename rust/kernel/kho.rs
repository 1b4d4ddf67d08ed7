// SPDX-License-Identifier: GPL-2.0

//! Kexec Handover (KHO): memory that is preserved across kexec.
//!
//! The running kernel *preserves* memory, whose contents the next kernel finds unchanged after a
//! kexec. The next kernel keeps this memory out of the page allocator until it is *claimed*. Both
//! kinds of memory have an owner here:
//!
//! | in this kernel                                           | in the next one                   |
//! |----------------------------------------------------------|-----------------------------------|
//! | [`Preserved<T>`]: dropping it takes the preservation back | [`Claimed<T>`]: dropping it frees |
//! | [`Subtree<T>`]: the same, and it can be found by a name   | [`ClaimedFolio::subtree`]         |
//! | [`vmalloc::PreservedArray`]                               | [`vmalloc::ClaimedArray`]         |
//!
//! Unclaimed memory can be handed over again: [`carry::CarriedOver`].
//!
//! An address from another kernel is only a number ([`PhysAddr`]). Its memory can only be accessed
//! after a claim, which succeeds just once, and only if the previous kernel has preserved the
//! memory at this address. Wrong numbers and lists with cycles therefore cause errors, and never an
//! access to other memory. The contents of claimed memory must be checked: they can have any value.
//!
//! C header: [`include/linux/kexec_handover.h`](srctree/include/linux/kexec_handover.h)

pub mod carry;
#[cfg(CONFIG_LIVEUPDATE_ERROR_INJECTION)]
pub mod damage;
pub mod list;
pub mod shared;
pub mod vmalloc;

use crate::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    num::NonZeroU64,
    ops::{
        Deref,
        DerefMut, //
    },
    ptr::NonNull, //
};
use zerocopy::{
    Immutable,
    KnownLayout, //
};

/// Returns whether KHO is enabled (`kho=on`), so that memory can be preserved.
///
/// May be called in any context after early parameters were parsed.
#[inline]
pub fn is_enabled() -> bool {
    // SAFETY: Always safe to call.
    unsafe { bindings::kho_is_enabled() }
}

/// Returns whether the image that `kernel_kexec()` is about to start takes over preserved memory.
///
/// Crash kernels do not, nor do images that were loaded by `kexec_load()` or while KHO was disabled:
/// all preserved memory is lost when one of them starts.
///
/// # Context
///
/// Only valid in the path of `kernel_kexec()`, where the kexec lock is held: without it, the image
/// can be replaced at any time, and the result is arbitrary. Does not sleep.
pub fn loaded_image_carries_handover() -> bool {
    loaded_image() == LoadedImage::WithHandover
}

/// The image that `kernel_kexec()` would start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadedImage {
    /// No image is loaded.
    None,
    /// An image that takes over preserved memory.
    WithHandover,
    /// An image that does not.
    WithoutHandover,
}

/// Returns the kind of the image that `kernel_kexec()` would start.
///
/// # Context
///
/// See [`loaded_image_carries_handover`]. In other contexts, this is only a hint for callers which
/// know that no image is loaded at the same time. Does not sleep.
pub fn loaded_image() -> LoadedImage {
    let mut fdt: bindings::phys_addr_t = 0;

    // SAFETY: The pointer variable is valid for reading; it may change at any time.
    let image = unsafe { (&raw const bindings::kexec_image).read_volatile() };
    if image.is_null() {
        return LoadedImage::None;
    }
    // The image could be freed in other contexts: do not create a reference, and use an access that
    // may fail.
    let src = image
        .cast::<u8>()
        .wrapping_add(core::mem::offset_of!(bindings::kimage, kho.fdt));
    // SAFETY: `fdt` is valid for writing, and any value is fine; the source may be any address.
    let ret = unsafe {
        bindings::copy_from_kernel_nofault((&raw mut fdt).cast(), src.cast(), size_of_val(&fdt))
    };
    if ret == 0 && fdt != 0 {
        LoadedImage::WithHandover
    } else {
        LoadedImage::WithoutHandover
    }
}

/// A physical address that was handed over: an unchecked number. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct PhysAddr(NonZeroU64);

impl PhysAddr {
    /// Converts a number that was handed over; [`None`] for 0, which means that there is no memory.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::kho::PhysAddr;
    ///
    /// assert!(PhysAddr::new(0).is_none());
    /// assert_eq!(PhysAddr::new(4096).map(PhysAddr::get), Some(4096));
    /// ```
    #[inline]
    pub const fn new(raw: u64) -> Option<Self> {
        // Not `map()`, which is not `const`.
        match NonZeroU64::new(raw) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// Returns the number to hand over.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// Plain data that can be handed over: any bytes are a valid value, and there is no padding.
///
/// Implemented for all types to which this applies; derive the four traits of `zerocopy`.
pub trait Handover: FromBytes + IntoBytes + Immutable + KnownLayout {}
impl<T: FromBytes + IntoBytes + Immutable + KnownLayout> Handover for T {}

/// A `T` in memory that is preserved for the next kernel.
///
/// Allocates a power-of-two number of pages. The `T` may be changed as long as this kernel runs;
/// the next kernel finds the last value. Dropping the object unpreserves and frees the memory, and
/// may sleep. To preserve the memory, the object must live until the kexec.
///
/// # Invariants
///
/// - `ptr` was returned by `kho_alloc_preserve()` for at least `size_of::<T>()` bytes, which
///   contain a valid `T`, and it has no other owner.
/// - `phys` is the physical address of the memory.
///
/// # Examples
///
/// ```
/// use kernel::kho::{self, Preserved};
///
/// if kho::is_enabled() {
///     let mut value = Preserved::<[u64; 600]>::new_zeroed()?;
///     assert!(value.iter().all(|&x| x == 0));
///     value[599] = 42;
///     assert_eq!(value[599], 42);
///
///     // The address to hand over to the next kernel.
///     let pa = value.phys().get();
///     assert_eq!(pa % 4096, 0);
/// }
/// # Ok::<(), Error>(())
/// ```
pub struct Preserved<T> {
    ptr: NonNull<T>,
    phys: PhysAddr,
    _owns: PhantomData<T>,
}

// SAFETY: The object owns its `T`, and the memory may be freed on any thread.
unsafe impl<T: Send> Send for Preserved<T> {}
// SAFETY: Shared references only give out `&T`, and an address that does not change.
unsafe impl<T: Sync> Sync for Preserved<T> {}
// The `T` does not move with the object.
impl<T> Unpin for Preserved<T> {}

impl<T: Handover> Preserved<T> {
    /// Allocates and preserves memory for a `T`, which is zeroed.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], or [`E2BIG`] if `T` is larger than the largest folio.
    ///
    /// # Context
    ///
    /// May sleep.
    pub fn new_zeroed() -> Result<Self> {
        const_assert!(align_of::<T>() <= PAGE_SIZE);
        // An empty `T` also needs an address.
        let size = size_of::<T>().max(1);
        // SAFETY: Always safe to call.
        let mem = from_err_ptr(unsafe { bindings::kho_alloc_preserve(size) })?;
        // SAFETY: The memory that was just returned is in the direct map.
        let phys = unsafe { bindings::virt_to_phys(mem) };
        match (NonNull::new(mem.cast()), PhysAddr::new(phys)) {
            // INVARIANT: `ptr` and `phys` are those of the allocation, and all zeroes are a valid
            // `T`, since it is `FromBytes`.
            (Some(ptr), Some(phys)) => Ok(Self {
                ptr,
                phys,
                _owns: PhantomData,
            }),
            // Page 0 is never allocated, and could not be handed over.
            _ => {
                // SAFETY: As returned by `kho_alloc_preserve()`, and not used any more.
                unsafe { bindings::kho_unpreserve_free(mem) };
                Err(ENOMEM)
            }
        }
    }

    /// The address to hand over.
    #[inline]
    pub fn phys(&self) -> PhysAddr {
        self.phys
    }

    /// Adds the memory as an entry to the tree for the next kernel.
    ///
    /// From now on, root can read the memory through debugfs, also while it is being changed.
    ///
    /// # Errors
    ///
    /// [`EEXIST`] if there is an entry of this name, [`ENOMEM`] if there is no room for another
    /// one. The memory is freed then.
    ///
    /// # Context
    ///
    /// May sleep.
    pub fn publish(self, name: &'static CStr) -> Result<Subtree<T>> {
        // SAFETY: The name is null-terminated; the memory is preserved by the type invariant, and
        // stays until `Subtree::drop` has removed the entry.
        to_result(unsafe {
            bindings::kho_add_subtree(name.as_char_ptr(), self.ptr.as_ptr().cast(), size_of::<T>())
        })?;
        // INVARIANT: The entry was just added.
        Ok(Subtree(self))
    }
}

impl<T> Deref for Preserved<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant, there is a valid `T`, which is borrowed with `self`.
        unsafe { self.ptr.as_ref() }
    }
}

impl<T> DerefMut for Preserved<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant, there is a valid `T`, which is borrowed with `self`.
        unsafe { self.ptr.as_mut() }
    }
}

impl<T> Drop for Preserved<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; the memory is not used any more. A `T` of plain data needs
        // no drop.
        unsafe { bindings::kho_unpreserve_free(self.ptr.as_ptr().cast()) };
    }
}

/// Preserved memory that the next kernel finds by its name, see [`ClaimedFolio::subtree`].
///
/// Dropping it also removes the name.
///
/// # Invariants
///
/// The memory is an entry of the outgoing KHO tree.
pub struct Subtree<T>(Preserved<T>);

impl<T: Handover> Subtree<T> {
    /// The address of the memory for the next kernel.
    #[inline]
    pub fn phys(&self) -> PhysAddr {
        self.0.phys()
    }
}

impl<T> Deref for Subtree<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Subtree<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Subtree<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; the memory is freed after that.
        unsafe { bindings::kho_remove_subtree(self.0.ptr.as_ptr().cast()) };
    }
}

/// Copies memory that may change at the same time, byte by byte; the copy can contain anything then.
///
/// # Safety
///
/// The `to.len()` bytes from `from` on must be mapped memory that stays.
unsafe fn copy_volatile(from: *const u8, to: &mut [u8]) {
    for (n, to) in to.iter_mut().enumerate() {
        // SAFETY: By the safety requirements. Nothing is assumed about the value, and the access is
        // neither repeated nor left out if it changes.
        *to = unsafe { from.add(n).read_volatile() };
    }
}

/// Copies a part of a page that the previous kernel preserved as a folio of its own, and that was not
/// claimed. It can still be claimed.
///
/// If it is claimed at the same time, the copy can contain anything.
///
/// # Errors
///
/// [`EINVAL`] if the previous kernel preserved no such page at `pa`, the page was claimed, or the part
/// exceeds the page.
///
/// # Context
///
/// May sleep. Possible as soon as `kho_memory_init_early()` has run, even if memory cannot be
/// allocated yet.
pub fn look_at(pa: PhysAddr, to: &mut [u8]) -> Result {
    let pa = pa.get();
    let offset = pa % PAGE_SIZE as u64;
    // CAST: Less than a page.
    let room = PAGE_SIZE.saturating_sub(offset as usize);
    let page = pa.saturating_sub(offset);
    // SAFETY: The callee checks the address.
    if to.len() > room || !unsafe { bindings::kho_is_restorable(page) } {
        return Err(EINVAL);
    }
    // SAFETY: Preserved memory is in the direct map.
    let from = unsafe { bindings::phys_to_virt(pa) };
    // SAFETY: `to` is valid for writing. The callee copes with a page that is claimed, freed and unmapped
    // at the same time.
    let result = unsafe {
        bindings::copy_from_kernel_nofault(to.as_mut_ptr().cast(), from.cast_const(), to.len())
    };
    // CAST: Not negative if it is no error.
    to_result(result as c_int).map_err(|_| EINVAL)
}

/// Finds the memory that the previous kernel [published](Preserved::publish) as `name`.
///
/// Returns the address and the size in the entry, which are unchecked.
///
/// # Errors
///
/// [`ENOENT`] if there is no such entry, or no data was handed over; [`EINVAL`] if the entry is
/// malformed.
///
/// # Context
///
/// Does not sleep. Possible as soon as `kho_memory_init_early()` has run, even if memory cannot be
/// allocated yet.
pub fn find_subtree(name: &CStr) -> Result<(PhysAddr, usize)> {
    let mut phys = 0;
    let mut size = 0;
    // SAFETY: The name is null-terminated, and the other pointers are valid for writing.
    to_result(unsafe { bindings::kho_retrieve_subtree(name.as_char_ptr(), &mut phys, &mut size) })?;
    Ok((PhysAddr::new(phys).ok_or(EINVAL)?, size))
}

/// Memory that the previous kernel preserved and that is now owned by this kernel.
///
/// Dropping it frees the memory to the page allocator.
///
/// # Invariants
///
/// - `folio` is a folio of `size` bytes in the direct map.
/// - The object owns the only reference to the folio, and the memory is not written to.
///
/// # Examples
///
/// ```
/// use kernel::kho::{ClaimedFolio, PhysAddr};
///
/// // No folio starts there.
/// let pa = PhysAddr::new(4097).ok_or(EINVAL)?;
/// assert_eq!(ClaimedFolio::new(pa).err(), Some(EINVAL));
///
/// // There is no such entry.
/// assert_eq!(ClaimedFolio::subtree(c"rust-doctest").err(), Some(ENOENT));
/// # Ok::<(), Error>(())
/// ```
pub struct ClaimedFolio {
    folio: NonNull<bindings::folio>,
    size: usize,
}

// SAFETY: A folio may be used and freed on any thread.
unsafe impl Send for ClaimedFolio {}
// SAFETY: Shared references only return shared references to memory that is not written to.
unsafe impl Sync for ClaimedFolio {}

impl ClaimedFolio {
    /// Claims the folio at `pa`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if no preserved folio starts at `pa`, or if it was claimed before. The kernel
    /// warns once if there is other memory at `pa`.
    ///
    /// # Context
    ///
    /// May sleep. Possible from the early initcalls on.
    pub fn new(pa: PhysAddr) -> Result<Self> {
        // KHO only uses the page frame number.
        if pa.get() % PAGE_SIZE as u64 != 0 {
            return Err(EINVAL);
        }
        // SAFETY: The callee checks the address, and returns a folio to a single caller only.
        let folio = NonNull::new(unsafe { bindings::kho_restore_folio(pa.get()) });
        // SAFETY: KHO transfers its only reference to the caller.
        Ok(unsafe { Self::from_raw(folio.ok_or(EINVAL)?) })
    }

    /// Takes over a folio that was restored.
    ///
    /// # Safety
    ///
    /// The folio must be valid, and its only reference must belong to the caller.
    unsafe fn from_raw(folio: NonNull<bindings::folio>) -> Self {
        // SAFETY: The folio is valid.
        let size = unsafe { bindings::folio_size(folio.as_ptr()) };
        // INVARIANT: By the safety requirements. KHO only supports architectures where all memory is
        // in the direct map.
        Self { folio, size }
    }

    /// The address of the folio in the direct map.
    fn addr(&self) -> *const u8 {
        // SAFETY: By the type invariant, the folio is valid.
        unsafe { bindings::folio_address(self.folio.as_ptr()) }.cast()
    }

    /// Claims the folio that the previous kernel [published](Preserved::publish) as `name`.
    ///
    /// The second value is the size in the entry, which is unchecked and may exceed the folio.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if there is no such entry, or no data was handed over; [`EINVAL`] if the entry is
    /// malformed, and the errors of [`Self::new`].
    ///
    /// # Context
    ///
    /// May sleep. Possible from the early initcalls on.
    pub fn subtree(name: &CStr) -> Result<(Self, usize)> {
        let (phys, size) = find_subtree(name)?;
        Ok((Self::new(phys)?, size))
    }

    /// The contents of the whole folio.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: By the type invariant, these are `size` initialised bytes that are not written
        // to.
        unsafe { core::slice::from_raw_parts(self.addr(), self.size) }
    }

    /// The size of the folio in bytes: a power of two, and at least a page.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the raw pointer.
    #[inline]
    pub fn as_raw(&self) -> NonNull<bindings::folio> {
        self.folio
    }

    /// Transfers the reference to the folio to the caller.
    ///
    /// The caller must drop it by `folio_put()`.
    #[inline]
    pub fn into_raw(self) -> NonNull<bindings::folio> {
        ManuallyDrop::new(self).folio
    }

    /// Keeps the memory reserved for as long as this kernel runs.
    ///
    /// For memory in an unknown format, or memory that is still in use elsewhere.
    #[inline]
    pub fn leak(self) {
        core::mem::forget(self);
    }
}

impl Drop for ClaimedFolio {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the reference belongs to this object.
        unsafe { bindings::folio_put(self.folio.as_ptr()) };
    }
}

/// A `T` that the previous kernel preserved: the counterpart of [`Preserved<T>`].
///
/// Any value is possible. Dropping the object frees the memory.
///
/// # Invariants
///
/// The folio has at least `size_of::<T>()` bytes, and any bytes are a valid `T`.
pub struct Claimed<T> {
    folio: ClaimedFolio,
    _owns: PhantomData<T>,
}

impl<T: Handover> Claimed<T> {
    /// Claims the `T` at `pa`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`], as for [`ClaimedFolio::new`], and if the folio is too small for a `T`. In the
    /// latter case, it contains other data, and stays reserved.
    ///
    /// # Context
    ///
    /// May sleep. Possible from the early initcalls on.
    pub fn new(pa: PhysAddr) -> Result<Self> {
        ClaimedFolio::new(pa)?.try_into()
    }

    /// Keeps the memory reserved for as long as this kernel runs.
    #[inline]
    pub fn leak(self) {
        self.folio.leak();
    }
}

/// Fails, like [`Claimed::new`], with [`EINVAL`] if the folio is too small, which stays reserved.
impl<T: Handover> TryFrom<ClaimedFolio> for Claimed<T> {
    type Error = Error;

    fn try_from(folio: ClaimedFolio) -> Result<Self> {
        const_assert!(align_of::<T>() <= PAGE_SIZE);
        if folio.size() < size_of::<T>() {
            folio.leak();
            return Err(EINVAL);
        }
        // INVARIANT: Just checked; and `T` is `FromBytes`.
        Ok(Self {
            folio,
            _owns: PhantomData,
        })
    }
}

impl<T> Deref for Claimed<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant. Folios are aligned to pages, and `T` to at most a page;
        // the memory is not written to.
        unsafe { &*self.folio.addr().cast() }
    }
}
