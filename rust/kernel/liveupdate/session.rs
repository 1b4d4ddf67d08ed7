// SPDX-License-Identifier: GPL-2.0

//! The other files of a session, for a file that depends on them.
//!
//! A handler whose file needs another preserved file, as the file of a device needs that of its
//! memory, asks for it both when the file is preserved and when it is retrieved. It saves the token
//! of the other file in its own data. The rules:
//!
//! - The other file must be preserved before. A file can therefore not depend on itself, and there
//!   are no cycles.
//! - In the next kernel, user space may retrieve the files in any order: if the other file was not
//!   retrieved yet, asking for it does that.
//! - FINISH fails as long as user space has retrieved a file, but not another one on which it
//!   depends.
//! - If a file is left out of a kexec because it cannot be frozen, the files that depend on it are
//!   left out as well.

use crate::{
    bindings,
    error::to_result,
    fs::File,
    prelude::*,
    sync::aref::ARef,
    types::NotThreadSafe, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// The user space number of a file in its session.
pub type Token = u64;

/// Takes over a reference to a file that C has stored.
///
/// # Safety
///
/// If `ret` is 0, `file` must be a valid file with a reference for the caller.
unsafe fn take_file(ret: c_int, file: *mut bindings::file) -> Result<ARef<File>> {
    to_result(ret)?;
    let file = NonNull::new(file).ok_or(EIO)?;
    // SAFETY: By the safety requirements. Operations of a handler are not called while the task
    // holds a file's position lock.
    Ok(unsafe { ARef::from_raw(file.cast()) })
}

/// The session of a file that is being preserved.
///
/// # Invariants
///
/// The pointer is the `session` in the arguments of an operation that runs during `'a`, in this
/// task.
pub struct OutgoingSession<'a> {
    raw: *mut bindings::liveupdate_session,
    _operation: PhantomData<&'a ()>,
    _not_send: NotThreadSafe,
}

impl OutgoingSession<'_> {
    /// # Safety
    ///
    /// `raw` must be the `session` in the arguments of an operation that runs in this task as long
    /// as the returned object exists.
    pub(super) unsafe fn new(raw: *mut bindings::liveupdate_session) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            raw,
            _operation: PhantomData,
            _not_send: NotThreadSafe,
        }
    }

    /// Returns the preserved file with this token, on which the current one depends from now on.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if no such file is preserved, [`ELOOP`] if this would be a chain of more than 8
    /// dependent files, [`ENOMEM`].
    pub fn file(&self, token: Token) -> Result<ARef<File>> {
        let mut file = core::ptr::null_mut();
        // SAFETY: By the type invariant; `file` is valid for writing.
        let ret = unsafe { bindings::liveupdate_get_file_outgoing(self.raw, token, &mut file) };
        // SAFETY: If this succeeds, `file` has a reference for the caller.
        unsafe { take_file(ret, file) }
    }

    /// Returns the token of a preserved file, on which the current one depends from now on.
    ///
    /// # Errors
    ///
    /// Those of [`Self::file`].
    pub fn token(&self, file: &File) -> Result<Token> {
        let mut token = 0;
        // SAFETY: By the type invariant; `file` is valid, and `token` is valid for writing.
        to_result(unsafe {
            bindings::liveupdate_get_token_outgoing(self.raw, file.as_ptr(), &mut token)
        })?;
        Ok(token)
    }

    /// As [`Self::token`], for a file to whose memory the device of the current one may write while
    /// no kernel runs.
    ///
    /// The next kernel leaves this memory where it is, and does not use it for anything else, until
    /// the other file is finished, which is after the current one.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the handler of the other file does not support this, and those of
    /// [`Self::token`].
    pub fn dma_target(&self, file: &File) -> Result<Token> {
        let mut token = 0;
        // SAFETY: By the type invariant; `file` is valid, and `token` is valid for writing.
        to_result(unsafe {
            bindings::liveupdate_get_dma_target_outgoing(self.raw, file.as_ptr(), &mut token)
        })?;
        Ok(token)
    }
}

/// The session of a file that is being retrieved.
///
/// # Invariants
///
/// The pointer is the `session` in the arguments of an operation that runs during `'a`, in this
/// task.
pub struct IncomingSession<'a> {
    raw: *mut bindings::liveupdate_session,
    _operation: PhantomData<&'a ()>,
    _not_send: NotThreadSafe,
}

impl IncomingSession<'_> {
    /// # Safety
    ///
    /// See [`OutgoingSession::new`].
    pub(super) unsafe fn new(raw: *mut bindings::liveupdate_session) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            raw,
            _operation: PhantomData,
            _not_send: NotThreadSafe,
        }
    }

    /// Returns the file with this token, on which the current one depends; retrieves it first, if
    /// necessary.
    ///
    /// If the other file can never be retrieved, neither can a file whose handler fails after this:
    /// its failure is permanent.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if the previous kernel did not hand over such a file; [`ELOOP`] if it was not
    /// preserved before the current one, or if the chain of dependent files to be retrieved is too
    /// long; and the errors of retrieving it.
    pub fn file(&self, token: Token) -> Result<ARef<File>> {
        let mut file = core::ptr::null_mut();
        // SAFETY: By the type invariant; `file` is valid for writing.
        let ret = unsafe { bindings::liveupdate_get_file_incoming(self.raw, token, &mut file) };
        // SAFETY: If this succeeds, `file` has a reference for the caller.
        unsafe { take_file(ret, file) }
    }
}
