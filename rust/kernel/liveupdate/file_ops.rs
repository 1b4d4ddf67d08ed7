// SPDX-License-Identifier: GPL-2.0

//! The operation table that calls a [`FileHandler`].

use super::{
    compatible,
    dma,
    session::{
        IncomingSession,
        OutgoingSession, //
    },
    FileHandler,
    Origin,
    Registration,
    RetrieveError, //
};
use crate::{
    bindings,
    container_of,
    error::from_result,
    fs::File,
    kho::{
        self,
        Claimed,
        PhysAddr,
        Preserved, //
    },
    module::this_module,
    prelude::*,
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop, //
};
use zerocopy::{
    FromZeros,
    IntoBytes, //
};

/// The target of `private_data` of a preserved file.
///
/// The fields are dropped in this order: the state of the handler may refer to the handed over
/// data.
struct OutgoingFile<H: FileHandler> {
    outgoing: H::Outgoing,
    ser: Preserved<H::Ser>,
}

/// The target of `private_data` of an incoming file, after the first operation.
struct IncomingFile<H: FileHandler>(H::Incoming);

/// A pointer argument from C.
type Args = bindings::liveupdate_file_op_args;

pub(super) struct Table<H: FileHandler>(PhantomData<H>);

impl<H: FileHandler> Table<H> {
    /// The structure that is registered.
    pub(super) const HANDLER: bindings::liveupdate_file_handler = {
        let mut raw: bindings::liveupdate_file_handler = pin_init::zeroed();
        raw.compatible = compatible(H::COMPATIBLE);
        raw.ops = &Self::OPS;
        raw
    };

    const OPS: bindings::liveupdate_file_ops = bindings::liveupdate_file_ops {
        can_preserve: Some(Self::can_preserve),
        prepare: if H::HAS_PREPARE {
            Some(Self::prepare)
        } else {
            None
        },
        unprepare: if H::HAS_PREPARE {
            Some(Self::unprepare)
        } else {
            None
        },
        preserve: Some(Self::preserve),
        unpreserve: Some(Self::unpreserve),
        freeze: if H::HAS_FREEZE {
            Some(Self::freeze)
        } else {
            None
        },
        unfreeze: if H::HAS_UNFREEZE {
            Some(Self::unfreeze)
        } else {
            None
        },
        retrieve: Some(Self::retrieve),
        can_finish: if H::HAS_CAN_FINISH {
            Some(Self::can_finish)
        } else {
            None
        },
        finish: Some(Self::finish),
        get_id: if H::HAS_FILE_ID {
            Some(Self::get_id)
        } else {
            None
        },
        owner: this_module::<H::OwnerModule>().as_ptr(),
        flags: H::NOT_UNDERSTOOD.flags() | Self::DMA_TARGET,
    };

    /// Devices may write to the memory of files.
    const DMA_TARGET: u32 = {
        assert!(
            H::HAS_FREEZE || !H::HAS_SET_DMA_TARGET,
            "a handler with `set_dma_target` needs `freeze`"
        );
        if H::HAS_SET_DMA_TARGET {
            bindings::LIVEUPDATE_DMA_TARGET
        } else {
            0
        }
    };

    /// # Safety
    ///
    /// `raw` must be the `inner` of a [`Registration<H>`] that is valid for `'a`.
    unsafe fn handler<'a>(raw: *mut bindings::liveupdate_file_handler) -> &'a H {
        let inner = raw.cast::<Opaque<bindings::liveupdate_file_handler>>();
        // SAFETY: By the safety requirements.
        let this = unsafe { container_of!(inner, Registration<H>, inner) };
        // SAFETY: The registration is valid for `'a`, and its handler is initialised before `inner`.
        unsafe { &(*this).handler }
    }

    /// Returns the handler, the file and the state of a preserved file.
    ///
    /// # Safety
    ///
    /// `args` must belong to a file that was preserved by `Self::preserve` and is not unpreserved,
    /// and must be valid for `'a`, during which no other code accesses the file's state.
    unsafe fn outgoing<'a>(args: *mut Args) -> (&'a H, &'a File, &'a mut OutgoingFile<H>) {
        // SAFETY: By the safety requirements, all three pointers are valid; `preserve` stored the
        // last one. Operations are not called while the task holds a file's position lock.
        unsafe {
            (
                Self::handler((*args).handler),
                File::from_raw_file((*args).file),
                &mut *(*args).private_data.cast(),
            )
        }
    }

    /// # Safety
    ///
    /// `raw` must be registered by a [`Registration<H>`], and `file` must be valid.
    unsafe extern "C" fn can_preserve(
        raw: *mut bindings::liveupdate_file_handler,
        file: *mut bindings::file,
    ) -> bool {
        // SAFETY: By the safety requirements, and see `Self::outgoing` for the file.
        let (handler, file) = unsafe { (Self::handler(raw), File::from_raw_file(file)) };
        handler.can_preserve(file)
    }

    /// Gives access to a handler and a file that is not preserved.
    ///
    /// # Safety
    ///
    /// `args` has to be valid for `'a`, for a [`Registration<H>`], with a file.
    unsafe fn new_file<'a>(args: *mut Args) -> (&'a H, &'a File) {
        // SAFETY: By the safety requirements, and see `Self::outgoing` for the file.
        unsafe {
            (
                Self::handler((*args).handler),
                File::from_raw_file((*args).file),
            )
        }
    }

    /// # Safety
    ///
    /// See [`Self::new_file`].
    unsafe extern "C" fn prepare(args: *mut Args) -> c_int {
        // SAFETY: By the safety requirements.
        let (handler, file) = unsafe { Self::new_file(args) };
        from_result(|| {
            let slot = KBox::new_uninit(GFP_KERNEL)?;
            // SAFETY: By the safety requirements.
            let origin = match unsafe { (*args).retrieve_status } {
                0 => Origin::New,
                _ => Origin::Retrieved,
            };
            let prepared = KBox::write(slot, handler.prepare(file, origin)?);
            // SAFETY: By the safety requirements.
            unsafe { (*args).private_data = KBox::into_raw(prepared).cast() };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `args` has to belong to a file that was prepared by `Self::prepare` and not preserved since.
    unsafe extern "C" fn unprepare(args: *mut Args) {
        // SAFETY: `Self::prepare` stored the pointer, and it is not used from now on.
        drop(unsafe { KBox::<H::Prepared>::from_raw((*args).private_data.cast()) });
    }

    /// # Safety
    ///
    /// See [`Self::new_file`]; if there is a `Self::prepare`, the file was prepared by it.
    unsafe extern "C" fn preserve(args: *mut Args) -> c_int {
        // SAFETY: By the safety requirements.
        let (handler, file) = unsafe { Self::new_file(args) };
        let mut unprepared = H::Prepared::default();
        let prepared = if H::HAS_PREPARE {
            // SAFETY: `Self::prepare` stored the pointer, and it has no other users.
            unsafe { &mut *(*args).private_data.cast() }
        } else {
            &mut unprepared
        };
        // SAFETY: The operation runs until the end of this function.
        let session = unsafe { OutgoingSession::new((*args).session) };
        from_result(|| {
            let slot = KBox::new_uninit(GFP_KERNEL)?;
            let mut ser = Preserved::<H::Ser>::new_zeroed()?;
            let outgoing = handler.preserve(file, prepared, &mut ser, &session)?;
            let data = ser.phys().get();
            let state = KBox::write(slot, OutgoingFile::<H> { outgoing, ser });
            if H::HAS_PREPARE {
                // SAFETY: The file was prepared, and is preserved now.
                unsafe { Self::unprepare(args) };
            }
            // SAFETY: By the safety requirements.
            unsafe {
                (*args).serialized_data = data;
                (*args).private_data = KBox::into_raw(state).cast();
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// See [`Self::outgoing`]; the file is not preserved any more afterwards.
    unsafe extern "C" fn unpreserve(args: *mut Args) {
        // SAFETY: `Self::preserve` stored the pointer, which is not used any more.
        drop(unsafe { KBox::<OutgoingFile<H>>::from_raw((*args).private_data.cast()) });
    }

    /// # Safety
    ///
    /// See [`Self::outgoing`].
    unsafe extern "C" fn freeze(args: *mut Args) -> c_int {
        // SAFETY: By the safety requirements.
        let (handler, file, state) = unsafe { Self::outgoing(args) };
        from_result(|| {
            handler.freeze(file, &mut state.ser, &mut state.outgoing)?;
            // SAFETY: By the safety requirements.
            if H::HAS_SET_DMA_TARGET && unsafe { (*args).dma_target } {
                handler.set_dma_target(&mut state.ser);
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// See [`Self::outgoing`].
    unsafe extern "C" fn unfreeze(args: *mut Args) {
        // SAFETY: By the safety requirements.
        let (handler, file, state) = unsafe { Self::outgoing(args) };
        handler.unfreeze(file, &mut state.ser, &mut state.outgoing);
    }

    /// Returns the state of an incoming file, and claims its data at the first call.
    ///
    /// # Errors
    ///
    /// See [`FileHandler::retrieve`]: [`ENOMEM`] is temporary; missing data is a permanent error.
    ///
    /// # Safety
    ///
    /// `args` must belong to an incoming file of a [`Registration<H>`] that is not finished, and
    /// must be valid for `'a`, during which no other code accesses the file's state.
    unsafe fn incoming<'a>(
        args: *mut Args,
    ) -> core::result::Result<&'a mut IncomingFile<H>, RetrieveError> {
        // SAFETY: By the safety requirements.
        let (handler, private_data) =
            unsafe { (Self::handler((*args).handler), &mut (*args).private_data) };
        if private_data.is_null() {
            let slot = KBox::new_uninit(GFP_KERNEL)?;
            // SAFETY: By the safety requirements.
            let ser = unsafe { Self::claim(args) }.map_err(RetrieveError::Permanent)?;
            let state = KBox::write(slot, IncomingFile::<H>(handler.adopt(ser)));
            *private_data = KBox::into_raw(state).cast();
        }
        // SAFETY: The pointer was stored by the code above, in this or an earlier call.
        Ok(unsafe { &mut *private_data.cast() })
    }

    /// # Safety
    ///
    /// `args` must be valid.
    unsafe fn claim(args: *mut Args) -> Result<Claimed<H::Ser>> {
        // SAFETY: By the safety requirements.
        let data = unsafe { (*args).serialized_data };
        Claimed::new(PhysAddr::new(data).ok_or(EINVAL)?)
    }

    /// Lets the handler look at data that was not claimed yet.
    ///
    /// # Errors
    ///
    /// See [`FileHandler::understands`].
    ///
    /// # Safety
    ///
    /// `args` must be valid.
    unsafe fn look(args: *mut Args) -> Result {
        // SAFETY: By the safety requirements.
        let (data, private_data) = unsafe { ((*args).serialized_data, (*args).private_data) };
        if !H::HAS_UNDERSTANDS || !private_data.is_null() {
            return Ok(());
        }
        let mut ser = H::Ser::new_zeroed();
        let address = PhysAddr::new(data).ok_or(EINVAL);
        match address.and_then(|address| kho::look_at(address, ser.as_mut_bytes())) {
            Ok(()) => H::understands(&ser),
            // Claiming it will fail as well.
            Err(_) => Ok(()),
        }
    }

    /// # Safety
    ///
    /// See [`Self::incoming`].
    unsafe extern "C" fn retrieve(args: *mut Args) -> c_int {
        // SAFETY: By the safety requirements.
        if let Err(err) = unsafe { Self::look(args) } {
            return err.to_errno();
        }
        // SAFETY: By the safety requirements.
        let (handler, incoming) = unsafe { (Self::handler((*args).handler), Self::incoming(args)) };
        // SAFETY: The operation runs until the end of this function.
        let session = unsafe { IncomingSession::new((*args).session) };
        match incoming.and_then(|state| handler.retrieve(&mut state.0, &session)) {
            Ok(file) => {
                // The reference is transferred to the caller. SAFETY: By the safety requirements.
                unsafe { (*args).file = ManuallyDrop::new(file).as_ptr() };
                0
            }
            Err(RetrieveError::Retry(err)) => err.to_errno(),
            Err(RetrieveError::Permanent(err)) => {
                // SAFETY: By the safety requirements.
                unsafe { (*args).retrieve_status = err.to_errno() };
                err.to_errno()
            }
        }
    }

    /// # Safety
    ///
    /// See [`Self::incoming`].
    unsafe extern "C" fn can_finish(args: *mut Args) -> bool {
        // SAFETY: By the safety requirements.
        let (handler, incoming) = unsafe { (Self::handler((*args).handler), Self::incoming(args)) };
        match incoming {
            Ok(state) => handler.can_finish(&mut state.0),
            Err(RetrieveError::Retry(_)) => false,
            Err(RetrieveError::Permanent(_)) => true,
        }
    }

    /// # Safety
    ///
    /// See [`Self::incoming`]; the file is finished afterwards.
    unsafe extern "C" fn finish(args: *mut Args) {
        // SAFETY: By the safety requirements.
        let (handler, private_data) =
            unsafe { (Self::handler((*args).handler), (*args).private_data) };
        if !private_data.is_null() {
            // SAFETY: `Self::incoming` stored the pointer, which is not used any more.
            drop(unsafe { KBox::<IncomingFile<H>>::from_raw(private_data.cast()) });
            return;
        }
        // SAFETY: By the safety requirements.
        match unsafe { Self::claim(args) } {
            Ok(ser) => drop(handler.adopt(ser)),
            Err(_) => {
                pr_warn!(
                    "liveupdate: no data was handed over for a file of {}\n",
                    H::COMPATIBLE
                );
                // The file may be that of a device that writes to the memory of other files.
                dma::set_out_of_control();
            }
        }
    }

    /// # Safety
    ///
    /// `file` must be valid.
    unsafe extern "C" fn get_id(file: *mut bindings::file) -> c_ulong {
        // SAFETY: By the safety requirement, and see `Self::outgoing`.
        H::file_id(unsafe { File::from_raw_file(file) })
    }
}
