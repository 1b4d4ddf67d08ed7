// SPDX-License-Identifier: GPL-2.0

//! Wrappers of operation tables of C.
//!
//! Besides [`c_abi`](crate::c_abi), this is the only module of the crate with `unsafe` code.
//!
//! C header: [`include/linux/liveupdate.h`](srctree/include/linux/liveupdate.h)

use crate::{
    abi::{
        Compatible,
        Policy, //
    },
    gate::Stopped, //
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::to_result,
    fs::File,
    liveupdate::RetrieveError,
    module_ref::ModuleRef,
    prelude::*,
    str::BStr,
    sync::aref::ARef, //
};

/// A pointer that only C code may dereference.
#[derive(Clone, Copy)]
pub(crate) struct Cookie(*mut c_void);

// SAFETY: The pointer is never dereferenced here, and the operations that get it may be called
// from any thread.
unsafe impl Send for Cookie {}
// SAFETY: A shared reference only permits to copy the pointer.
unsafe impl Sync for Cookie {}

impl Cookie {
    const NULL: Self = Self(core::ptr::null_mut());
}

/// Identifies a file handler: the address of its C structure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct HandlerId(usize);

impl HandlerId {
    /// The identity of the handler at `raw`, which is not dereferenced.
    pub(crate) fn new(raw: *const bindings::liveupdate_file_handler) -> Self {
        Self(raw.addr())
    }
}

/// Identifies an FLB: the address of its C structure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlbId(usize);

impl FlbId {
    /// The identity of the FLB at `raw`, which is not dereferenced.
    pub(crate) fn new(raw: *const bindings::liveupdate_flb) -> Self {
        Self(raw.addr())
    }
}

/// Identifies the contents of a file, among the files of all handlers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId(usize);

/// The data of a handler for a file.
#[derive(Clone, Copy)]
pub(crate) struct Payload {
    /// The value for the next kernel.
    pub(crate) data: u64,
    private: Cookie,
    /// Whether an operation on the incoming file was called, which may have claimed data.
    pub(crate) touched: bool,
}

impl Payload {
    /// The initial data for a file of the previous kernel.
    pub(crate) fn incoming(data: u64) -> Self {
        Self {
            data,
            private: Cookie::NULL,
            touched: false,
        }
    }
}

/// The other files of a session, for an operation that depends on one of them.
///
/// See `struct liveupdate_session` on what the functions return. Those that do not belong to the
/// operation fail with [`EINVAL`].
pub(crate) trait Peers {
    /// Returns a file that is preserved already.
    fn outgoing_file(&self, _token: u64) -> Result<ARef<File>> {
        Err(EINVAL)
    }

    /// Returns the token of a file that is preserved already.
    fn outgoing_token(&self, _file: &File) -> Result<u64> {
        Err(EINVAL)
    }

    /// As [`Self::outgoing_token`], for a file to whose memory a device writes.
    fn outgoing_dma_target(&self, _file: &File) -> Result<u64> {
        Err(EINVAL)
    }

    /// Retrieves a file, if necessary.
    fn incoming_file(&self, _token: u64) -> Result<ARef<File>> {
        Err(EINVAL)
    }
}

/// An operation gets a pointer to this as `struct liveupdate_session`.
struct Session<'a>(&'a dyn Peers);

impl Session<'_> {
    fn as_raw(&self) -> *mut bindings::liveupdate_session {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}

/// Calls `f` for the session that an operation was called for; fails with [`EINVAL`] if it was
/// called for none.
///
/// # Safety
///
/// `raw` must be the `session` in the arguments of an operation that is running in this task.
pub(crate) unsafe fn with_peers<R>(
    raw: *mut bindings::liveupdate_session,
    f: impl FnOnce(&dyn Peers) -> Result<R>,
) -> Result<R> {
    // SAFETY: By the safety requirements, `raw` is null or was made by `Session::as_raw` from an
    // object that exists until the operation returns, and is only used by this task.
    let session = unsafe { raw.cast::<Session<'_>>().as_ref() }.ok_or(EINVAL)?;
    f(session.0)
}

/// The result of retrieving a file.
#[derive(Clone, Copy)]
pub(crate) enum Retrieval<'a> {
    /// It was not retrieved, or retrieving failed temporarily.
    None,
    /// The file exists.
    Done(&'a File),
    /// Retrieving failed permanently.
    Failed(Error),
}

/// The operations of a registered file handler.
///
/// # Invariants
///
/// The pointer is valid, its mandatory operations are set, and it does not change until the
/// handler is unregistered; after that, this object does not exist.
pub(crate) struct FileOps(NonNull<bindings::liveupdate_file_handler>);

// SAFETY: The operations of a handler may be called from any thread.
unsafe impl Send for FileOps {}
// SAFETY: The operations of a handler may be called by several threads at once.
unsafe impl Sync for FileOps {}

impl FileOps {
    /// Checks a handler that is being registered.
    ///
    /// Fails with [`EINVAL`] if the handler is incomplete.
    ///
    /// # Safety
    ///
    /// `raw` must be null or point to a handler that does not change and stays valid as long as
    /// the returned object, or one of its copies, exists.
    pub(crate) unsafe fn new(raw: *mut bindings::liveupdate_file_handler) -> Result<Self> {
        let raw = NonNull::new(raw).ok_or(EINVAL)?;
        // SAFETY: By the safety requirements.
        if unsafe { (*raw.as_ptr()).ops.is_null() } {
            return Err(EINVAL);
        }
        let this = Self(raw);
        let ops = this.table();
        if ops.can_preserve.is_none()
            || ops.preserve.is_none()
            || ops.unpreserve.is_none()
            || ops.prepare.is_some() != ops.unprepare.is_some()
            || ops.retrieve.is_none()
            || ops.finish.is_none()
        {
            return Err(EINVAL);
        }
        // INVARIANT: Just checked, and by the safety requirements.
        Ok(this)
    }

    fn table(&self) -> &bindings::liveupdate_file_ops {
        // SAFETY: By the type invariant.
        unsafe { &*(*self.0.as_ptr()).ops }
    }

    /// The name of the handler.
    pub(crate) fn compatible(&self) -> Result<Compatible> {
        // SAFETY: By the type invariant.
        let raw = unsafe { &(*self.0.as_ptr()).compatible };
        Ok(Compatible::parse(raw)?)
    }

    /// Identifies the handler.
    pub(crate) fn id(&self) -> HandlerId {
        HandlerId::new(self.0.as_ptr())
    }

    /// Takes a reference to the module of the operations.
    pub(crate) fn module(&self) -> Option<ModuleRef> {
        // SAFETY: By the type invariant the table is valid, and so is its module pointer.
        unsafe { ModuleRef::try_get(self.table().owner) }
    }

    /// Whether the operations are part of a module.
    pub(crate) fn is_modular(&self) -> bool {
        !self.table().owner.is_null()
    }

    /// The policy for kernels that do not understand the data of the handler.
    pub(crate) fn policy(&self) -> Option<Policy> {
        policy(self.table().flags)
    }

    fn args(&self, file: Option<&File>, payload: &Payload) -> bindings::liveupdate_file_op_args {
        bindings::liveupdate_file_op_args {
            handler: self.0.as_ptr(),
            retrieve_status: 0,
            file: file.map_or(core::ptr::null_mut(), |file| file.as_ptr()),
            serialized_data: payload.data,
            private_data: payload.private.0,
            session: core::ptr::null_mut(),
            dma_target: false,
        }
    }

    /// Whether devices may write to the memory of preserved files.
    pub(crate) fn supports_dma(&self) -> bool {
        self.table().flags & bindings::LIVEUPDATE_DMA_TARGET != 0
    }

    pub(crate) fn can_preserve(&self, file: &File) -> bool {
        let Some(op) = self.table().can_preserve else {
            return false;
        };
        // SAFETY: Both pointers are valid during the call.
        unsafe { op(self.0.as_ptr(), file.as_ptr()) }
    }

    /// Returns the value to pass to [`Self::preserve`]. `retrieved` is true if the file was
    /// retrieved and is preserved again.
    pub(crate) fn prepare(&self, file: &File, retrieved: bool) -> Result<Payload> {
        let mut payload = Payload::incoming(0);
        if let Some(op) = self.table().prepare {
            let mut args = self.args(Some(file), &payload);
            args.retrieve_status = c_int::from(retrieved);
            // SAFETY: The arguments are valid and only used by the callee.
            to_result(unsafe { op(&mut args) })?;
            payload.private = Cookie(args.private_data);
        }
        Ok(payload)
    }

    pub(crate) fn unprepare(&self, file: &File, prepared: &Payload) {
        let mut args = self.args(Some(file), prepared);
        if let Some(op) = self.table().unprepare {
            // SAFETY: The arguments are valid and only used by the callee.
            unsafe { op(&mut args) };
        }
    }

    /// If this succeeds, `prepared` must not be used again. See [`Self::prepare`].
    pub(crate) fn preserve(
        &self,
        file: &File,
        prepared: &Payload,
        retrieved: bool,
        peers: &dyn Peers,
    ) -> Result<Payload, Stopped> {
        let session = Session(peers);
        let mut args = self.args(Some(file), prepared);
        args.retrieve_status = c_int::from(retrieved);
        args.session = session.as_raw();
        let op = self.table().preserve.ok_or(EOPNOTSUPP)?;
        // SAFETY: The arguments are valid and only used by the callee.
        to_result(unsafe { op(&mut args) }).map_err(Stopped::by_operation)?;
        Ok(Payload {
            data: args.serialized_data,
            private: Cookie(args.private_data),
            touched: false,
        })
    }

    pub(crate) fn unpreserve(&self, file: &File, payload: Payload) {
        let mut args = self.args(Some(file), &payload);
        if let Some(op) = self.table().unpreserve {
            // SAFETY: The arguments are valid and only used by the callee.
            unsafe { op(&mut args) };
        }
    }

    /// `dma_target` is true if a device writes to the memory of the file.
    pub(crate) fn freeze(&self, file: &File, payload: &mut Payload, dma_target: bool) -> Result {
        let mut args = self.args(Some(file), payload);
        args.dma_target = dma_target;
        if let Some(op) = self.table().freeze {
            // SAFETY: The arguments are valid and only used by the callee.
            to_result(unsafe { op(&mut args) })?;
            payload.data = args.serialized_data;
        }
        Ok(())
    }

    pub(crate) fn unfreeze(&self, file: &File, payload: &Payload) {
        let mut args = self.args(Some(file), payload);
        if let Some(op) = self.table().unfreeze {
            // SAFETY: The arguments are valid and only used by the callee.
            unsafe { op(&mut args) };
        }
    }

    pub(crate) fn retrieve(
        &self,
        payload: &mut Payload,
        peers: &dyn Peers,
    ) -> Result<ARef<File>, RetrieveError> {
        let session = Session(peers);
        let mut args = self.args(None, payload);
        args.session = session.as_raw();
        let op = self.table().retrieve.ok_or(EOPNOTSUPP)?;
        // SAFETY: The arguments are valid and only used by the callee.
        let res = to_result(unsafe { op(&mut args) });
        payload.private = Cookie(args.private_data);
        let retries = self.table().flags & bindings::LIVEUPDATE_RETRIEVE_RETRIES != 0;
        let temporary = res.is_err() && retries && args.retrieve_status >= 0;
        payload.touched |= !(temporary && args.private_data.is_null());
        if let Err(err) = res {
            return Err(if temporary {
                RetrieveError::Retry(err)
            } else {
                RetrieveError::Permanent(err)
            });
        }
        let file = NonNull::new(args.file).ok_or(RetrieveError::Permanent(EIO))?;
        // SAFETY: A successful `retrieve` transfers a reference to a valid file. It is not in any
        // descriptor table yet, so that there are no `fdget_pos` calls on it.
        Ok(unsafe { ARef::from_raw(file.cast()) })
    }

    fn finish_args(
        &self,
        payload: &Payload,
        retrieval: Retrieval<'_>,
    ) -> bindings::liveupdate_file_op_args {
        let (file, status) = match retrieval {
            Retrieval::None => (None, 0),
            Retrieval::Done(file) => (Some(file), 1),
            Retrieval::Failed(err) => (None, err.to_errno()),
        };
        bindings::liveupdate_file_op_args {
            retrieve_status: status,
            ..self.args(file, payload)
        }
    }

    pub(crate) fn can_finish(&self, payload: &mut Payload, retrieval: Retrieval<'_>) -> bool {
        let mut args = self.finish_args(payload, retrieval);
        let Some(op) = self.table().can_finish else {
            return true;
        };
        payload.touched = true;
        // SAFETY: The arguments are valid and only used by the callee.
        let can_finish = unsafe { op(&mut args) };
        payload.private = Cookie(args.private_data);
        can_finish
    }

    pub(crate) fn finish(&self, payload: Payload, retrieval: Retrieval<'_>) {
        let mut args = self.finish_args(&payload, retrieval);
        if let Some(op) = self.table().finish {
            // SAFETY: The arguments are valid and only used by the callee.
            unsafe { op(&mut args) };
        }
    }

    /// Returns a number that is the same for files that share their contents.
    pub(crate) fn file_id(&self, file: &File) -> FileId {
        FileId(match self.table().get_id {
            // SAFETY: The file is valid during the call.
            Some(op) => unsafe { op(file.as_ptr()) },
            None => file.as_ptr().addr(),
        })
    }
}

/// The operations of an FLB.
///
/// # Invariants
///
/// The pointer is valid, its operations are set, and it does not change until the state is
/// unregistered from its last handler or, if it was never registered, during the call that
/// created this object.
#[derive(Clone, Copy)]
pub(crate) struct FlbOps(NonNull<bindings::liveupdate_flb>);

// SAFETY: The operations of an FLB may be called from any thread.
unsafe impl Send for FlbOps {}
// SAFETY: A shared reference only permits to copy the pointer; the callers of operations
// serialize them.
unsafe impl Sync for FlbOps {}

/// The state of an FLB in this kernel.
#[derive(Clone, Copy)]
pub(crate) struct FlbPayload {
    /// The value for the next kernel, or of the previous one.
    pub(crate) data: u64,
    object: Cookie,
    /// The status that `retrieve` has set.
    retrieve_status: c_int,
}

impl FlbPayload {
    /// The object of the FLB in this kernel, which only C code may dereference.
    pub(crate) fn object(&self) -> *mut c_void {
        self.object.0
    }
}

impl FlbOps {
    /// Checks an FLB that is being registered or used; [`EINVAL`] if it is incomplete.
    ///
    /// # Safety
    ///
    /// `raw` must be null or valid according to the type invariant.
    pub(crate) unsafe fn new(raw: *mut bindings::liveupdate_flb) -> Result<Self> {
        let raw = NonNull::new(raw).ok_or(EINVAL)?;
        // SAFETY: By the safety requirements.
        let ops = unsafe { (*raw.as_ptr()).ops.as_ref() }.ok_or(EINVAL)?;
        if ops.preserve.is_none()
            || ops.unpreserve.is_none()
            || ops.retrieve.is_none()
            || ops.finish.is_none()
        {
            return Err(EINVAL);
        }
        // INVARIANT: Just checked, and by the safety requirements.
        Ok(Self(raw))
    }

    fn table(&self) -> &bindings::liveupdate_flb_ops {
        // SAFETY: By the type invariant.
        unsafe { &*(*self.0.as_ptr()).ops }
    }

    /// The name of the state.
    pub(crate) fn compatible(&self) -> Result<Compatible> {
        // SAFETY: By the type invariant.
        let raw = unsafe { &(*self.0.as_ptr()).compatible };
        Ok(Compatible::parse(raw)?)
    }

    /// Identifies the FLB.
    pub(crate) fn id(&self) -> FlbId {
        FlbId::new(self.0.as_ptr())
    }

    /// Takes a reference to the module of the operations.
    pub(crate) fn module(&self) -> Option<ModuleRef> {
        // SAFETY: By the type invariant the table is valid, and so is its module pointer.
        unsafe { ModuleRef::try_get(self.table().owner) }
    }

    /// Whether the operations are part of a module.
    pub(crate) fn is_modular(&self) -> bool {
        !self.table().owner.is_null()
    }

    /// The policy for kernels that do not understand the data of the FLB.
    pub(crate) fn policy(&self) -> Option<Policy> {
        policy(self.table().flags)
    }

    fn call<R>(
        &self,
        payload: &mut FlbPayload,
        op: Option<unsafe extern "C" fn(*mut bindings::liveupdate_flb_op_args) -> R>,
    ) -> Option<R> {
        let mut args = bindings::liveupdate_flb_op_args {
            flb: self.0.as_ptr(),
            data: payload.data,
            obj: payload.object.0,
            retrieve_status: 0,
        };
        // SAFETY: The arguments are valid and only used by the callee.
        let ret = op.map(|op| unsafe { op(&mut args) });
        payload.retrieve_status = args.retrieve_status;
        payload.data = args.data;
        payload.object = Cookie(args.obj);
        ret
    }

    pub(crate) fn preserve(&self) -> Result<FlbPayload, Stopped> {
        let mut payload = FlbPayload {
            data: 0,
            object: Cookie::NULL,
            retrieve_status: 0,
        };
        let ret = self.call(&mut payload, self.table().preserve);
        to_result(ret.unwrap_or(0))
            .map(|()| payload)
            .map_err(Stopped::by_operation)
    }

    pub(crate) fn unpreserve(&self, mut payload: FlbPayload) {
        self.call(&mut payload, self.table().unpreserve);
    }

    pub(crate) fn retrieve(&self, data: u64) -> Result<FlbPayload, RetrieveError> {
        let mut payload = FlbPayload {
            data,
            object: Cookie::NULL,
            retrieve_status: 0,
        };
        let ret = self.call(&mut payload, self.table().retrieve);
        let retries = self.table().flags & bindings::LIVEUPDATE_RETRIEVE_RETRIES != 0;
        match to_result(ret.unwrap_or(0)) {
            Ok(()) => Ok(payload),
            Err(err) if retries && payload.retrieve_status >= 0 => Err(RetrieveError::Retry(err)),
            Err(err) => Err(RetrieveError::Permanent(err)),
        }
    }

    pub(crate) fn finish(&self, mut payload: FlbPayload) {
        self.call(&mut payload, self.table().finish);
    }
}

/// Returns whether fault injection makes the current step fail.
#[cfg(CONFIG_LIVEUPDATE_ERROR_INJECTION)]
pub(crate) fn should_fail() -> bool {
    // SAFETY: FFI call without safety requirements.
    unsafe { bindings::liveupdate_should_fail() }
}

/// The policy that the flags of operations ask for.
fn policy(flags: u32) -> Option<Policy> {
    if flags & bindings::LIVEUPDATE_NOT_UNDERSTOOD_FATAL != 0 {
        Some(Policy::Fatal)
    } else if flags & bindings::LIVEUPDATE_NOT_UNDERSTOOD_SILENCED != 0 {
        Some(Policy::Silenced)
    } else {
        None
    }
}

/// Stops the kernel, since it does not understand vital data of this name.
pub(crate) fn stop(name: &BStr, why: &CStr) -> ! {
    let len = c_int::try_from(name.len()).unwrap_or(0);
    // SAFETY: The format matches the arguments: the precision limits the first string, and the second
    // one is null-terminated.
    unsafe {
        bindings::panic(
            c"liveupdate: cannot use '%.*s' of the previous kernel: %s".as_char_ptr(),
            len,
            name.as_ptr(),
            why.as_char_ptr(),
        )
    }
}

#[cfg(CONFIG_LIVEUPDATE_KUNIT_TEST)]
pub(crate) mod test;
