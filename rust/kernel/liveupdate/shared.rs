// SPDX-License-Identifier: GPL-2.0

//! State that several preserved files share: file-lifecycle-bound (FLB) data.
//!
//! Some files need more than what belongs to them alone, e.g. a translation table for all devices
//! of a bus. Such state is preserved before the first file that depends on it, and handed over once
//! for all of them.

use super::{
    compatible,
    FileHandler,
    Registration, //
};
use crate::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    kho::{
        Claimed,
        Handover,
        PhysAddr,
        Preserved, //
    },
    module::this_module,
    prelude::*,
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};
use pin_init::Wrapper;

/// State that files of one or more handlers share.
///
/// All operations are called in process context and may sleep. For each direction, they are not
/// called concurrently.
#[vtable]
pub trait SharedState: Sized + 'static {
    /// Names the state and the format of [`Self::Ser`]. At most 47 bytes.
    const COMPATIBLE: &'static CStr;

    /// What is handed over. It lives in preserved memory.
    type Ser: Handover + Send + Sync;

    /// The state while files depend on it; dropping it undoes [`Self::preserve`].
    type Outgoing: Send + Sync;

    /// The state in the next kernel; dropped when the last file that depends on it is finished.
    type Incoming: Send + Sync;

    /// Saves what the next kernel needs, before the first file is preserved.
    ///
    /// `ser` is zeroed at first. An error reaches user space, and the file is not preserved.
    fn preserve(ser: &mut Self::Ser) -> Result<Self::Outgoing>;

    /// Restores the state when somebody asks for it for the first time. An error is final.
    fn retrieve(ser: Claimed<Self::Ser>) -> Result<Self::Incoming>;
}

/// What the object of preserved state points to; dropped in this order.
struct OutgoingState<S: SharedState> {
    outgoing: S::Outgoing,
    _ser: Preserved<S::Ser>,
}

/// Something by which handlers and [`SharedState`] are brought together.
#[pin_data]
pub struct Shared<S: SharedState> {
    #[pin]
    inner: Opaque<bindings::liveupdate_flb>,
    _state: PhantomData<fn() -> S>,
}

// SAFETY: `inner` is only accessed through functions that may be called from any thread.
unsafe impl<S: SharedState> Send for Shared<S> {}
// SAFETY: As above.
unsafe impl<S: SharedState> Sync for Shared<S> {}

impl<S: SharedState> Shared<S> {
    /// Creates the object. It does nothing until a handler needs it.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::pin_init(Table::<S>::FLB),
            _state: PhantomData,
        })
    }

    /// Makes all files of a handler depend on the state.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if live updates are not possible, [`EEXIST`] if that was done before or there
    /// is other state of the same name, [`ENOSPC`] if there are too many states, [`ENOMEM`].
    pub fn attach<H: FileHandler>(
        self: Pin<&'static Self>,
        registration: Pin<&'static Registration<H>>,
    ) -> Result {
        // SAFETY: Both are initialised, and live for ever.
        to_result(unsafe {
            bindings::liveupdate_register_flb(registration.as_raw(), self.inner.get())
        })
    }

    /// Returns the state that is going to be handed over, and keeps it.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if no file that depends on it is preserved, [`EOPNOTSUPP`] if live updates are
    /// not possible.
    pub fn outgoing(self: Pin<&'static Self>) -> Result<OutgoingRef<S>> {
        let mut object = core::ptr::null_mut();
        // SAFETY: `inner` is initialised, and `object` valid for writing.
        to_result(unsafe { bindings::liveupdate_flb_get_outgoing(self.inner.get(), &mut object) })?;
        Ok(OutgoingRef {
            shared: self,
            // INVARIANT: As stored by `Table::preserve`; gotten until it is put.
            object: NonNull::new(object.cast()).ok_or(ENOENT)?,
        })
    }

    /// Returns the state that was handed over, and keeps it.
    ///
    /// # Errors
    ///
    /// [`ENODATA`] or [`ENOENT`] if the state was not handed over or is finished already,
    /// [`EOPNOTSUPP`] if live updates are not possible, or the error of [`SharedState::retrieve`].
    pub fn incoming(self: Pin<&'static Self>) -> Result<IncomingRef<S>> {
        let mut object = core::ptr::null_mut();
        // SAFETY: `inner` is initialised and never goes away, and `object` is valid for writing.
        to_result(unsafe { bindings::liveupdate_flb_get_incoming(self.inner.get(), &mut object) })?;
        Ok(IncomingRef {
            shared: self,
            // INVARIANT: As stored by `Table::retrieve`; gotten until it is put.
            object: NonNull::new(object.cast()).ok_or(ENOENT)?,
        })
    }
}

/// Outgoing state that somebody uses.
///
/// # Invariants
///
/// `object` is the live object of the outgoing state, which was gotten and not put.
pub struct OutgoingRef<S: SharedState> {
    shared: Pin<&'static Shared<S>>,
    object: NonNull<OutgoingState<S>>,
}

// SAFETY: Gives shared access to an object that is `Send` and `Sync`.
unsafe impl<S: SharedState> Send for OutgoingRef<S> {}
// SAFETY: As above.
unsafe impl<S: SharedState> Sync for OutgoingRef<S> {}

impl<S: SharedState> Deref for OutgoingRef<S> {
    type Target = S::Outgoing;

    fn deref(&self) -> &S::Outgoing {
        // SAFETY: By the type invariant.
        unsafe { &self.object.as_ref().outgoing }
    }
}

impl<S: SharedState> Drop for OutgoingRef<S> {
    fn drop(&mut self) {
        // SAFETY: Gotten by the type invariant.
        unsafe { bindings::liveupdate_flb_put_outgoing(self.shared.inner.get()) };
    }
}

/// Incoming state that somebody uses.
///
/// # Invariants
///
/// `object` is the live object of the incoming state, which was gotten and not put.
pub struct IncomingRef<S: SharedState> {
    shared: Pin<&'static Shared<S>>,
    object: NonNull<S::Incoming>,
}

// SAFETY: Gives shared access to an object that is `Send` and `Sync`.
unsafe impl<S: SharedState> Send for IncomingRef<S> {}
// SAFETY: As above.
unsafe impl<S: SharedState> Sync for IncomingRef<S> {}

impl<S: SharedState> Deref for IncomingRef<S> {
    type Target = S::Incoming;

    fn deref(&self) -> &S::Incoming {
        // SAFETY: By the type invariant.
        unsafe { self.object.as_ref() }
    }
}

impl<S: SharedState> Drop for IncomingRef<S> {
    fn drop(&mut self) {
        // SAFETY: Gotten by the type invariant.
        unsafe { bindings::liveupdate_flb_put_incoming(self.shared.inner.get()) };
    }
}

struct Table<S: SharedState>(PhantomData<S>);

impl<S: SharedState> Table<S> {
    const FLB: bindings::liveupdate_flb = {
        let mut raw: bindings::liveupdate_flb = pin_init::zeroed();
        raw.compatible = compatible(S::COMPATIBLE);
        raw.ops = &Self::OPS;
        raw
    };

    const OPS: bindings::liveupdate_flb_ops = bindings::liveupdate_flb_ops {
        preserve: Some(Self::preserve),
        unpreserve: Some(Self::unpreserve),
        retrieve: Some(Self::retrieve),
        finish: Some(Self::finish),
        owner: this_module::<S::OwnerModule>().as_ptr(),
        flags: bindings::LIVEUPDATE_RETRIEVE_RETRIES,
    };

    /// # Safety
    ///
    /// `args` has to be valid for writing.
    unsafe extern "C" fn preserve(args: *mut bindings::liveupdate_flb_op_args) -> c_int {
        from_result(|| {
            let slot = KBox::new_uninit(GFP_KERNEL)?;
            let mut ser = Preserved::<S::Ser>::new_zeroed()?;
            let outgoing = S::preserve(&mut ser)?;
            let data = ser.phys().get();
            let state = OutgoingState::<S> {
                outgoing,
                _ser: ser,
            };
            // SAFETY: By the safety requirements.
            unsafe {
                (*args).data = data;
                (*args).obj = KBox::into_raw(KBox::write(slot, state)).cast();
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `args` has to be valid, with an object of `Self::preserve` that nobody uses any more.
    unsafe extern "C" fn unpreserve(args: *mut bindings::liveupdate_flb_op_args) {
        // SAFETY: By the safety requirements.
        drop(unsafe { KBox::<OutgoingState<S>>::from_raw((*args).obj.cast()) });
    }

    /// # Safety
    ///
    /// `args` has to be valid for reading and writing.
    unsafe extern "C" fn retrieve(args: *mut bindings::liveupdate_flb_op_args) -> c_int {
        // SAFETY: By the safety requirements.
        let data = unsafe { (*args).data };
        from_result(|| {
            // So far nothing was taken over, hence it can be tried again.
            let slot = KBox::new_uninit(GFP_KERNEL)?;
            let state = PhysAddr::new(data)
                .ok_or(EINVAL)
                .and_then(Claimed::new)
                .and_then(S::retrieve)
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
    /// `args` has to be valid, with an object of `Self::retrieve` that nobody uses any more.
    unsafe extern "C" fn finish(args: *mut bindings::liveupdate_flb_op_args) {
        // SAFETY: By the safety requirements.
        drop(unsafe { KBox::<S::Incoming>::from_raw((*args).obj.cast()) });
    }
}
