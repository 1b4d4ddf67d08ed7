// SPDX-License-Identifier: GPL-2.0

//! The functions that are called by C.
//!
//! Besides [`ops`](crate::ops), this is the only module of the crate with `unsafe` code.
//!
//! C header: [`include/linux/liveupdate.h`](srctree/include/linux/liveupdate.h)

use crate::{
    early,
    handover,
    luo_core::Luo,
    ops::{
        with_peers,
        FileOps,
        FlbId,
        FlbOps,
        FlbPayload,
        HandlerId,
        Peers, //
    },
    policy, //
};
use core::mem::ManuallyDrop;
use kernel::{
    bindings,
    error::from_result,
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};

/// Returns whether live updates are possible: `liveupdate=on`, and Kexec Handover is enabled.
///
/// # Safety
///
/// Always safe to call.
#[export]
unsafe extern "C" fn liveupdate_enabled() -> bool {
    Luo::get().is_some()
}

/// Returns whether devices must be silenced when they are discovered.
///
/// # Safety
///
/// Always safe to call.
#[export]
unsafe extern "C" fn liveupdate_must_silence() -> bool {
    policy::must_silence()
}

/// Freezes and serializes all sessions; called by `kernel_kexec()` before anything is shut down.
///
/// # Safety
///
/// The caller must hold the kexec lock.
#[export]
unsafe extern "C" fn liveupdate_reboot() -> c_int {
    from_result(|| {
        handover::reboot()?;
        Ok(0)
    })
}

/// Damages the data that is handed over, as requested by tests.
///
/// # Safety
///
/// If [`liveupdate_reboot`] has succeeded, the kexec must not be aborted any more, and all devices must
/// have been shut down.
#[cfg(CONFIG_LIVEUPDATE_ERROR_INJECTION)]
#[export]
unsafe extern "C" fn liveupdate_last_moment() {
    if let Some(luo) = Luo::get() {
        // SAFETY: By the safety requirements, what was serialized does not change any more: handlers
        // and FLBs have written it before, and at the latest when their devices were shut down.
        // Reports only read other data of this kernel.
        crate::damage::strike(luo, unsafe { kernel::kho::damage::LastMoment::new() });
    }
}

/// Returns whether a kexec waits for the calling operation to end.
///
/// # Safety
///
/// Always safe to call.
#[export]
unsafe extern "C" fn liveupdate_reboot_pending() -> bool {
    Luo::get().is_some_and(|luo| luo.context.gate.kexec_waiting())
}

/// Registers a file handler.
///
/// # Safety
///
/// `fh` must point to a handler that does not change and stays valid until it is unregistered.
#[export]
unsafe extern "C" fn liveupdate_register_file_handler(
    fh: *mut bindings::liveupdate_file_handler,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let ops = unsafe { FileOps::new(fh) }?;
        Luo::get()
            .ok_or(EOPNOTSUPP)?
            .context
            .handlers
            .register(ops)?;
        #[cfg(CONFIG_LIVEUPDATE_TEST)]
        // SAFETY: The handler was registered.
        unsafe {
            bindings::liveupdate_test_register(fh)
        };
        Ok(0)
    })
}

/// Unregisters a file handler, and the FLBs that were registered with it.
///
/// # Safety
///
/// Always safe to call; a handler that is not registered is ignored.
#[export]
unsafe extern "C" fn liveupdate_unregister_file_handler(
    fh: *mut bindings::liveupdate_file_handler,
) {
    if let Some(luo) = Luo::get() {
        luo.context.handlers.unregister(HandlerId::new(fh));
    }
}

/// Makes the files of a handler depend on an FLB.
///
/// # Safety
///
/// `flb` must point to a state that does not change and stays valid until it is unregistered.
#[export]
unsafe extern "C" fn liveupdate_register_flb(
    fh: *mut bindings::liveupdate_file_handler,
    flb: *mut bindings::liveupdate_flb,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let ops = unsafe { FlbOps::new(flb) }?;
        let luo = Luo::get().ok_or(EOPNOTSUPP)?;
        luo.context
            .handlers
            .register_flb(HandlerId::new(fh), ops)
            .map(|()| 0)
    })
}

/// Undoes [`liveupdate_register_flb`].
///
/// # Safety
///
/// Always safe to call.
#[export]
unsafe extern "C" fn liveupdate_unregister_flb(
    fh: *mut bindings::liveupdate_file_handler,
    flb: *mut bindings::liveupdate_flb,
) {
    if let Some(luo) = Luo::get() {
        luo.context
            .handlers
            .unregister_flb(HandlerId::new(fh), FlbId::new(flb));
    }
}

/// Stores the object of `payload` for the caller.
///
/// # Safety
///
/// `objp` must be valid for writing.
unsafe fn store_object(objp: *mut *mut c_void, payload: FlbPayload) {
    // SAFETY: By the safety requirements.
    unsafe { objp.write(payload.object()) };
}

/// Gets the object of an incoming FLB, which exists until it is put.
///
/// # Safety
///
/// `flb` must be valid until it is put or, if it is registered, unregistered; `objp` must be
/// valid for writing.
#[export]
unsafe extern "C" fn liveupdate_flb_get_incoming(
    flb: *mut bindings::liveupdate_flb,
    objp: *mut *mut c_void,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let ops = unsafe { FlbOps::new(flb) }?;
        let payload = Luo::get()
            .ok_or(EOPNOTSUPP)?
            .context
            .handlers
            .flbs
            .incoming
            .get(ops)?;
        // SAFETY: By the safety requirements.
        unsafe { store_object(objp, payload) };
        Ok(0)
    })
}

/// Puts the object of [`liveupdate_flb_get_incoming`].
///
/// # Safety
///
/// `flb` must be valid, and the caller must hold a reference from
/// [`liveupdate_flb_get_incoming`].
#[export]
unsafe extern "C" fn liveupdate_flb_put_incoming(flb: *mut bindings::liveupdate_flb) {
    // SAFETY: By the safety requirements.
    if let (Ok(ops), Some(luo)) = (unsafe { FlbOps::new(flb) }, Luo::get()) {
        luo.context.handlers.flbs.incoming.put(ops);
    }
}

/// Finds the data of an incoming FLB before the early initcalls, without retrieving the FLB.
///
/// # Safety
///
/// `flb` must be valid, but need not be registered; `data` must be valid for writing.
#[export]
unsafe extern "C" fn liveupdate_flb_incoming_data(
    flb: *mut bindings::liveupdate_flb,
    data: *mut u64,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let ops = unsafe { FlbOps::new(flb) }?;
        let found = early::flb_data(&ops.compatible()?)?;
        // SAFETY: By the safety requirements.
        unsafe { data.write(found) };
        Ok(0)
    })
}

/// Gets the object of an outgoing FLB, which exists until it is put.
///
/// # Safety
///
/// `objp` must be valid for writing.
#[export]
unsafe extern "C" fn liveupdate_flb_get_outgoing(
    flb: *mut bindings::liveupdate_flb,
    objp: *mut *mut c_void,
) -> c_int {
    from_result(|| {
        let payload = Luo::get()
            .ok_or(EOPNOTSUPP)?
            .context
            .handlers
            .flbs
            .outgoing
            .get(FlbId::new(flb))?;
        // SAFETY: By the safety requirements.
        unsafe { store_object(objp, payload) };
        Ok(0)
    })
}

/// Puts the object of [`liveupdate_flb_get_outgoing`].
///
/// # Safety
///
/// Always safe to call.
#[export]
unsafe extern "C" fn liveupdate_flb_put_outgoing(flb: *mut bindings::liveupdate_flb) {
    if let Some(luo) = Luo::get() {
        luo.context.handlers.flbs.outgoing.put(FlbId::new(flb));
    }
}

/// Stores a file for the caller, with a reference.
///
/// # Safety
///
/// `filep` must be valid for writing.
unsafe fn store_file(filep: *mut *mut bindings::file, file: ARef<File>) {
    // SAFETY: By the safety requirements.
    unsafe { filep.write(ManuallyDrop::new(file).as_ptr()) };
}

/// Gets another file of a session in `->preserve()`, with a reference.
///
/// # Safety
///
/// `session` must be that of the running operation; `filep` must be valid for writing.
#[export]
unsafe extern "C" fn liveupdate_get_file_outgoing(
    session: *mut bindings::liveupdate_session,
    token: u64,
    filep: *mut *mut bindings::file,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let file = unsafe { with_peers(session, |peers| peers.outgoing_file(token)) }?;
        // SAFETY: By the safety requirements.
        unsafe { store_file(filep, file) };
        Ok(0)
    })
}

/// Stores the token of a file for the caller.
///
/// # Safety
///
/// `session` must be that of the running operation; `file` must be valid, and `tokenp` valid for
/// writing.
unsafe fn store_token(
    session: *mut bindings::liveupdate_session,
    file: *mut bindings::file,
    tokenp: *mut u64,
    find: impl FnOnce(&dyn Peers, &File) -> Result<u64>,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements. Operations are not called while the task holds a
        // file's position lock.
        let file = unsafe { File::from_raw_file(file) };
        // SAFETY: By the safety requirements.
        let token = unsafe { with_peers(session, |peers| find(peers, file)) }?;
        // SAFETY: By the safety requirements.
        unsafe { tokenp.write(token) };
        Ok(0)
    })
}

/// Gets the token of another file of a session in `->preserve()`.
///
/// # Safety
///
/// `session` must be that of the running operation; `file` must be valid, and `tokenp` valid for
/// writing.
#[export]
unsafe extern "C" fn liveupdate_get_token_outgoing(
    session: *mut bindings::liveupdate_session,
    file: *mut bindings::file,
    tokenp: *mut u64,
) -> c_int {
    // SAFETY: By the safety requirements.
    unsafe {
        store_token(session, file, tokenp, |peers, file| {
            peers.outgoing_token(file)
        })
    }
}

/// As [`liveupdate_get_token_outgoing`], for a file to whose memory a device writes while there is
/// no kernel.
///
/// # Safety
///
/// Those of [`liveupdate_get_token_outgoing`].
#[export]
unsafe extern "C" fn liveupdate_get_dma_target_outgoing(
    session: *mut bindings::liveupdate_session,
    file: *mut bindings::file,
    tokenp: *mut u64,
) -> c_int {
    // SAFETY: By the safety requirements.
    unsafe {
        store_token(session, file, tokenp, |peers, file| {
            peers.outgoing_dma_target(file)
        })
    }
}

/// Gets another file of a session in `->retrieve()`, with a reference.
///
/// # Safety
///
/// `session` must be that of the running operation; `filep` must be valid for writing.
#[export]
unsafe extern "C" fn liveupdate_get_file_incoming(
    session: *mut bindings::liveupdate_session,
    token: u64,
    filep: *mut *mut bindings::file,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let file = unsafe { with_peers(session, |peers| peers.incoming_file(token)) }?;
        // SAFETY: By the safety requirements.
        unsafe { store_file(filep, file) };
        Ok(0)
    })
}
