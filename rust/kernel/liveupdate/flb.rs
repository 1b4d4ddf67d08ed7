// SPDX-License-Identifier: GPL-2.0

//! File-lifecycle-bound (FLB) data: state that several preserved files share.
//!
//! Several files may depend on the same state, e.g. on a translation table for all devices of a
//! bus. Such an FLB is preserved before the first file that depends on it, and handed over once for
//! all of them.
//!
//! An FLB is a type that implements [`Flb`], with one static [`Instance`], to which handlers are
//! attached.

use super::{
    compatible,
    FileHandler,
    NotUnderstood,
    Registration, //
};
use crate::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    kho::{
        self,
        Claimed,
        Handover,
        PhysAddr,
        Preserved, //
    },
    module::this_module,
    prelude::*,
    sync::{
        new_mutex,
        Mutex, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};
use zerocopy::{
    FromZeros,
    IntoBytes, //
};

/// State that files of one or more handlers share.
///
/// All operations are called in process context and may sleep. For each direction, they are not
/// called concurrently.
#[vtable]
pub trait Flb: Sized + 'static {
    /// Names the FLB and the format of [`Self::Ser`]. At most 47 bytes.
    const COMPATIBLE: &'static CStr;

    /// The policy of a kernel that does not understand the data, for instance because
    /// [`Self::retrieve`] fails. Must be [`NotUnderstood::Kept`] in a module.
    const NOT_UNDERSTOOD: NotUnderstood = NotUnderstood::Kept;

    /// The data that is handed over, in preserved memory.
    type Ser: Handover + Send + Sync;

    /// The FLB while files depend on it; dropping it undoes [`Self::preserve`].
    type Outgoing: Send + Sync;

    /// The FLB in the next kernel; dropped when the last file that depends on it is finished.
    type Incoming: Send + Sync;

    /// Saves the state for the next kernel, before the first file is preserved.
    ///
    /// `ser` is initially zeroed. An error is returned to user space, and the file is not
    /// preserved.
    fn preserve(ser: &mut Self::Ser) -> Result<Self::Outgoing>;

    /// Restores the FLB at its first use. An error is permanent.
    fn retrieve(ser: Claimed<Self::Ser>) -> Result<Self::Incoming>;
}

/// The target of the object of a preserved FLB; dropped in this order.
#[pin_data]
struct OutgoingObject<F: Flb> {
    outgoing: F::Outgoing,
    #[pin]
    ser: Mutex<Preserved<F::Ser>>,
}

/// The registered `struct liveupdate_flb` of an [`Flb`].
///
/// # Examples
///
/// ```ignore
/// static GENERATION: Instance<Generation> = Instance::new();
///
/// kernel::builtin_file_handler!(Handler, flbs: [GENERATION]);
/// ```
///
/// In a module, see [`Registration`].
pub struct Instance<F: Flb> {
    inner: Opaque<bindings::liveupdate_flb>,
    _flb: PhantomData<fn() -> F>,
}

// SAFETY: `inner` is only accessed through functions that may be called from any thread.
unsafe impl<F: Flb> Send for Instance<F> {}
// SAFETY: The functions that access `inner` may be called by several threads at once.
unsafe impl<F: Flb> Sync for Instance<F> {}

impl<F: Flb> Default for Instance<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Flb> Instance<F> {
    /// Creates the object. It is not used until a handler is attached.
    pub const fn new() -> Self {
        Self {
            inner: Opaque::new(Table::<F>::FLB),
            _flb: PhantomData,
        }
    }

    /// Makes all files of a handler depend on the FLB.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if live updates are not possible, [`EEXIST`] if it is already attached or
    /// there is another FLB of the same name, [`EINVAL`] if this is [vital](Flb::NOT_UNDERSTOOD) data
    /// of a module, [`ENOSPC`] if there are too many, [`ENOMEM`].
    pub fn attach<H: FileHandler>(&'static self, registration: Pin<&Registration<H>>) -> Result {
        // SAFETY: Both are initialised. `self` is borrowed for `'static`, so that it is never moved
        // or dropped; the pinned registration is not moved either, and detaches the FLB on drop.
        to_result(unsafe {
            bindings::liveupdate_register_flb(registration.as_raw(), self.inner.get())
        })
    }

    /// As [`Self::attach`], for a handler that is given by C.
    ///
    /// # Errors
    ///
    /// Those of [`Self::attach`].
    ///
    /// # Safety
    ///
    /// `handler` must be null, or point to a handler that stays valid as long as it is registered.
    pub unsafe fn attach_raw(
        &'static self,
        handler: *mut bindings::liveupdate_file_handler,
    ) -> Result {
        // SAFETY: By the safety requirements; `inner` is initialised and static.
        to_result(unsafe { bindings::liveupdate_register_flb(handler, self.inner.get()) })
    }

    /// Returns a reference to the FLB that is handed over to the next kernel.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if no file that depends on it is preserved, [`EOPNOTSUPP`] if live updates are
    /// not possible.
    pub fn outgoing(&'static self) -> Result<OutgoingRef<F>> {
        let mut object = core::ptr::null_mut();
        // SAFETY: `inner` is initialised, and `object` valid for writing.
        to_result(unsafe { bindings::liveupdate_flb_get_outgoing(self.inner.get(), &mut object) })?;
        Ok(OutgoingRef {
            instance: self,
            // INVARIANT: Stored by `Table::preserve`; the reference is held until it is put.
            object: NonNull::new(object.cast()).ok_or(ENOENT)?,
        })
    }

    /// Copies the data that the previous kernel handed over, without retrieving the FLB.
    ///
    /// For data that is needed before memory can be allocated and handlers can be registered.
    ///
    /// # Errors
    ///
    /// [`ENODATA`] or [`ENOENT`] if the FLB was not handed over, [`EOPNOTSUPP`] if live updates are
    /// not possible, [`EINVAL`] if its data was not preserved or is larger than a page, [`EBUSY`]
    /// from the early initcalls on, after which the FLB can be retrieved.
    ///
    /// # Context
    ///
    /// Only before the early initcalls, and after `kho_memory_init_early()`.
    pub fn look_at_incoming(&'static self) -> Result<F::Ser> {
        let mut data = 0;
        // SAFETY: `inner` is initialised and static, and `data` is valid for writing.
        to_result(unsafe { bindings::liveupdate_flb_incoming_data(self.inner.get(), &mut data) })?;
        let mut ser = F::Ser::new_zeroed();
        kho::look_at(PhysAddr::new(data).ok_or(EINVAL)?, ser.as_mut_bytes())?;
        Ok(ser)
    }

    /// Returns a reference to the FLB that the previous kernel handed over.
    ///
    /// # Errors
    ///
    /// [`ENODATA`] or [`ENOENT`] if the FLB was not handed over or is finished, [`EEXIST`] if
    /// another [`Instance`] with the same name has retrieved it, [`EOPNOTSUPP`] if live updates are
    /// not possible, or the error of [`Flb::retrieve`].
    pub fn incoming(&'static self) -> Result<IncomingRef<F>> {
        let mut object = core::ptr::null_mut();
        // SAFETY: `inner` is initialised and static, and `object` is valid for writing.
        to_result(unsafe { bindings::liveupdate_flb_get_incoming(self.inner.get(), &mut object) })?;
        Ok(IncomingRef {
            instance: self,
            // INVARIANT: Stored by `Table::retrieve`; the reference is held until it is put.
            object: NonNull::new(object.cast()).ok_or(ENOENT)?,
        })
    }
}

/// A reference to an outgoing FLB, which stays preserved while this exists.
///
/// # Invariants
///
/// `object` is the live object of the outgoing FLB, of which this holds a reference.
pub struct OutgoingRef<F: Flb> {
    instance: &'static Instance<F>,
    object: NonNull<OutgoingObject<F>>,
}

// SAFETY: Gives shared access to an object that is `Send` and `Sync`.
unsafe impl<F: Flb> Send for OutgoingRef<F> {}
// SAFETY: A shared reference gives no more than that, and the object is `Sync`.
unsafe impl<F: Flb> Sync for OutgoingRef<F> {}

impl<F: Flb> OutgoingRef<F> {
    /// Changes the data that is handed over. May sleep.
    ///
    /// Not a method, so that it does not hide one of the object.
    pub fn update<R>(this: &Self, change: impl FnOnce(&mut F::Ser) -> R) -> R {
        // SAFETY: By the type invariant.
        let object = unsafe { this.object.as_ref() };
        change(&mut object.ser.lock())
    }
}

impl<F: Flb> Deref for OutgoingRef<F> {
    type Target = F::Outgoing;

    fn deref(&self) -> &F::Outgoing {
        // SAFETY: By the type invariant.
        unsafe { &self.object.as_ref().outgoing }
    }
}

impl<F: Flb> Drop for OutgoingRef<F> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, this holds a reference.
        unsafe { bindings::liveupdate_flb_put_outgoing(self.instance.inner.get()) };
    }
}

/// A reference to an incoming FLB, which is not finished while this exists.
///
/// # Invariants
///
/// `object` is the live object of the incoming FLB, of which this holds a reference.
pub struct IncomingRef<F: Flb> {
    instance: &'static Instance<F>,
    object: NonNull<F::Incoming>,
}

// SAFETY: Gives shared access to an object that is `Send` and `Sync`.
unsafe impl<F: Flb> Send for IncomingRef<F> {}
// SAFETY: A shared reference gives no more than that, and the object is `Sync`.
unsafe impl<F: Flb> Sync for IncomingRef<F> {}

impl<F: Flb> Deref for IncomingRef<F> {
    type Target = F::Incoming;

    fn deref(&self) -> &F::Incoming {
        // SAFETY: By the type invariant.
        unsafe { self.object.as_ref() }
    }
}

impl<F: Flb> Drop for IncomingRef<F> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, this holds a reference.
        unsafe { bindings::liveupdate_flb_put_incoming(self.instance.inner.get()) };
    }
}

struct Table<F: Flb>(PhantomData<F>);

impl<F: Flb> Table<F> {
    const FLB: bindings::liveupdate_flb = {
        let mut raw: bindings::liveupdate_flb = pin_init::zeroed();
        raw.compatible = compatible(F::COMPATIBLE);
        raw.ops = &Self::OPS;
        raw
    };

    const OPS: bindings::liveupdate_flb_ops = bindings::liveupdate_flb_ops {
        preserve: Some(Self::preserve),
        unpreserve: Some(Self::unpreserve),
        retrieve: Some(Self::retrieve),
        finish: Some(Self::finish),
        owner: this_module::<F::OwnerModule>().as_ptr(),
        flags: F::NOT_UNDERSTOOD.flags(),
    };

    /// # Safety
    ///
    /// `args` must be valid for writing.
    unsafe extern "C" fn preserve(args: *mut bindings::liveupdate_flb_op_args) -> c_int {
        from_result(|| {
            let mut ser = Preserved::<F::Ser>::new_zeroed()?;
            let outgoing = F::preserve(&mut ser)?;
            let data = ser.phys().get();
            let state = KBox::pin_init(
                pin_init!(OutgoingObject::<F> {
                    outgoing,
                    ser <- new_mutex!(ser, "luo_flb_ser"),
                }),
                GFP_KERNEL,
            )?;
            // SAFETY: By the safety requirements.
            unsafe {
                (*args).data = data;
                (*args).obj = state.into_foreign();
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `args` must be valid, with an object of `Self::preserve` that is not used any more.
    unsafe extern "C" fn unpreserve(args: *mut bindings::liveupdate_flb_op_args) {
        // SAFETY: By the safety requirements.
        drop(unsafe { Pin::<KBox<OutgoingObject<F>>>::from_foreign((*args).obj) });
    }

    /// # Safety
    ///
    /// `args` must be valid for reading and writing.
    unsafe extern "C" fn retrieve(args: *mut bindings::liveupdate_flb_op_args) -> c_int {
        // SAFETY: By the safety requirements.
        let data = unsafe { (*args).data };
        from_result(|| {
            // No data was claimed yet, so that it can be tried again.
            let slot = KBox::new_uninit(GFP_KERNEL)?;
            let state = PhysAddr::new(data)
                .ok_or(EINVAL)
                .and_then(Claimed::new)
                .and_then(F::retrieve)
                .inspect_err(|err| {
                    // SAFETY: By the safety requirements.
                    unsafe { (*args).retrieve_status = err.to_errno() }
                })?;
            // SAFETY: By the safety requirements.
            unsafe { (*args).obj = KBox::into_raw(KBox::write(slot, state)).cast() };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `args` must be valid, with an object of `Self::retrieve` that is not used any more.
    unsafe extern "C" fn finish(args: *mut bindings::liveupdate_flb_op_args) {
        // SAFETY: By the safety requirements.
        drop(unsafe { KBox::<F::Incoming>::from_raw((*args).obj.cast()) });
    }
}
