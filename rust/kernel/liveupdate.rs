// SPDX-License-Identifier: GPL-2.0

//! Live Update Orchestrator (LUO): file handlers.
//!
//! A live update replaces the kernel by kexec and preserves files. For each kind of file there is a
//! *handler*, which saves the state that the next kernel needs to create the file again. A handler
//! is an implementation of [`FileHandler`], and is registered as long as its [`Registration`]
//! exists.
//!
//! The state of a handler is owned by values: dropping a handler's
//! [`Outgoing`](FileHandler::Outgoing) unpreserves a file, dropping its
//! [`Incoming`](FileHandler::Incoming) releases the data of the previous kernel. State that several
//! files share is an [FLB](flb).
//!
//! C header: [`include/linux/liveupdate.h`](srctree/include/linux/liveupdate.h)

pub mod dma;
mod file_ops;
pub mod flb;
pub mod format;
pub mod session;

use crate::{
    bindings,
    error::{
        to_result,
        VTABLE_DEFAULT_ERROR, //
    },
    fs::File,
    kho::{
        Claimed,
        Handover, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        SetOnce, //
    },
    types::Opaque, //
};
use session::{
    IncomingSession,
    OutgoingSession, //
};

/// Returns whether live updates are possible.
///
/// They are if the kernel was booted with `liveupdate=on` and Kexec Handover is enabled. Always
/// returns false before the early initcalls have run.
#[inline]
pub fn is_enabled() -> bool {
    // SAFETY: Always safe to call.
    unsafe { bindings::liveupdate_enabled() }
}

/// Gives way to a kexec that waits for the current operation of a handler.
///
/// Operations that take long must call this regularly. If it fails, the operation must stop; it is
/// called again if the kexec fails. A kexec fails if an operation does not stop within a second.
///
/// # Errors
///
/// [`EBUSY`] if a kexec waits. Never while a file is being frozen.
///
/// # Context
///
/// Any. Does not sleep.
pub fn give_way() -> Result {
    // SAFETY: Always safe to call.
    if unsafe { bindings::liveupdate_reboot_pending() } {
        return Err(EBUSY);
    }
    Ok(())
}

/// The field of a C structure that contains `name`, which must leave room for the terminator.
const fn compatible<const N: usize>(name: &CStr) -> [u8; N] {
    let name = name.to_bytes();
    assert!(
        !name.is_empty() && name.len() < N,
        "the name of a handler or of an FLB is empty or too long"
    );
    let mut field = [0; N];
    let mut i = 0;
    while i < name.len() {
        field[i] = name[i];
        i += 1;
    }
    field
}

/// The policy for data of the previous kernel that a kernel does not understand: it has no handler
/// or FLB of that name, live updates are off, the data cannot be found, or it cannot be retrieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotUnderstood {
    /// The memory stays reserved, and the kernel continues.
    Kept,
    /// The same, but every device that may write to memory is silenced when it is discovered: its
    /// bus master bit is cleared. A kernel that cannot do this panics.
    ///
    /// For data about devices that keep working while no kernel runs.
    Silenced,
    /// The kernel panics: before any driver is probed if it does not support the format, or when the
    /// data cannot be retrieved.
    ///
    /// For data about something else that keeps working while no kernel runs, and that would
    /// overwrite memory which a kernel without this data uses.
    Fatal,
}

impl NotUnderstood {
    /// The flags of the operations of a handler or an FLB.
    const fn flags(self) -> u32 {
        bindings::LIVEUPDATE_RETRIEVE_RETRIES
            | match self {
                Self::Kept => 0,
                Self::Silenced => bindings::LIVEUPDATE_NOT_UNDERSTOOD_SILENCED,
                Self::Fatal => bindings::LIVEUPDATE_NOT_UNDERSTOOD_FATAL,
            }
    }
}

/// Why a file could not be retrieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetrieveError {
    /// A temporary error: no data was lost, and it can be tried again.
    Retry(Error),
    /// A permanent error.
    Permanent(Error),
}

/// By default, errors are temporary.
impl From<Error> for RetrieveError {
    fn from(err: Error) -> Self {
        Self::Retry(err)
    }
}

impl From<crate::alloc::AllocError> for RetrieveError {
    fn from(err: crate::alloc::AllocError) -> Self {
        Self::Retry(err.into())
    }
}

/// The origin of a file that is to be preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// User space has asked for it to be preserved.
    New,
    /// It was preserved by the previous kernel and retrieved, and its session is not finished: it is
    /// preserved again on behalf of a kexec.
    ///
    /// Changes that its users have made since then must not abort the kexec. Its properties are
    /// those with which it was preserved.
    Retrieved,
}

/// Preserves one kind of files across a live update.
///
/// All operations are called in process context, may sleep, and may be called for several files at
/// the same time, but never concurrently for the same file.
///
/// # Examples
///
/// See `samples/rust/rust_liveupdate.rs`.
#[vtable]
pub trait FileHandler: Sized + Send + Sync + 'static {
    /// Names the kind of files and the format of [`Self::Ser`].
    ///
    /// The next kernel uses the handler of the same name. At most 47 bytes.
    const COMPATIBLE: &'static CStr;

    /// The policy of a kernel that does not understand the data, for instance because
    /// [`Self::retrieve`] fails permanently. Must be [`NotUnderstood::Kept`] in a module.
    const NOT_UNDERSTOOD: NotUnderstood = NotUnderstood::Kept;

    /// The data that is handed over, in preserved memory. It may refer to further preserved memory.
    type Ser: Handover + Send + Sync;

    /// The result of [`Self::prepare`], which is passed to [`Self::preserve`]. Dropping it undoes
    /// [`Self::prepare`].
    ///
    /// A handler without [`Self::prepare`] gets the default, `()` for instance.
    type Prepared: Default + Send;

    /// The state of a preserved file in this kernel. Dropping it undoes [`Self::preserve`].
    type Outgoing: Send;

    /// The state of a file in the next kernel, which owns all handed over data that was not
    /// retrieved.
    ///
    /// Dropping it releases this data. It is dropped when user space finishes the file's session.
    type Incoming: Send;

    /// Returns whether this handler supports `file`. Must be fast.
    fn can_preserve(&self, file: &File) -> bool;

    /// Waits for resources that [`Self::preserve`] needs and that other tasks may hold, and
    /// acquires them.
    ///
    /// A kexec does not wait for this operation, which therefore must not change anything that has
    /// to be handed over. Waits must end on a fatal signal.
    ///
    /// For a file that is preserved again on behalf of a kexec, this runs in a kernel thread. If it
    /// takes more than a second, the kexec fails.
    ///
    /// # Errors
    ///
    /// Reach user space.
    fn prepare(&self, _file: &File, _origin: Origin) -> Result<Self::Prepared> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Saves the state that the next kernel needs, while the file stays in use.
    ///
    /// `ser` is zeroed at first. This may consume `prepared` if it succeeds. If it fails because a
    /// kexec waits, it is called again with the same `prepared` after the kexec has failed.
    ///
    /// If the file depends on others, this asks `session` for them.
    ///
    /// # Errors
    ///
    /// Reach user space; use [`EOPNOTSUPP`] for properties of the file that cannot be preserved.
    fn preserve(
        &self,
        file: &File,
        prepared: &mut Self::Prepared,
        ser: &mut Self::Ser,
        session: &OutgoingSession<'_>,
    ) -> Result<Self::Outgoing>;

    /// Saves the last changes, right before the jump.
    ///
    /// # Errors
    ///
    /// Abort the live update.
    fn freeze(&self, _file: &File, _ser: &mut Self::Ser, _outgoing: &mut Self::Outgoing) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Undoes [`Self::freeze`], because the live update was aborted.
    fn unfreeze(&self, _file: &File, _ser: &mut Self::Ser, _outgoing: &mut Self::Outgoing) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Hands over that a device may write to the memory of the file while no kernel runs.
    ///
    /// Called after a successful [`Self::freeze`], if another file of the session has [requested
    /// it](OutgoingSession::dma_target). The next kernel must leave the memory where it is, and
    /// must not use it for anything else, until [`Self::Incoming`] is dropped, even if the
    /// retrieved file is truncated or closed. If a device is [out of
    /// control](dma::is_out_of_control) then, the memory must never be used again.
    ///
    /// Required for files to whose memory devices may write.
    fn set_dma_target(&self, _ser: &mut Self::Ser) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Checks whether this kernel knows what is in the data that the previous kernel handed over, which
    /// may be malformed, and may change at any time.
    ///
    /// Called before [`Self::adopt`]. If this fails, nothing is claimed: the next kexec carries the file
    /// over unchanged, to a kernel that may know more. Malformed data is no reason to fail. Without this
    /// operation, [`Self::retrieve`] must fail permanently, and the file is lost.
    ///
    /// # Errors
    ///
    /// Reach user space; use [`EOPNOTSUPP`].
    fn understands(_ser: &Self::Ser) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Takes ownership of the data that the previous kernel handed over.
    ///
    /// Called when the file is needed for the first time. This cannot fail: [`Self::retrieve`] must
    /// check the data.
    fn adopt(&self, ser: Claimed<Self::Ser>) -> Self::Incoming;

    /// Creates the file again. Not called again after it has succeeded.
    ///
    /// If the file depends on others, this asks `session` for them.
    ///
    /// # Errors
    ///
    /// See [`RetrieveError`].
    fn retrieve(
        &self,
        incoming: &mut Self::Incoming,
        session: &IncomingSession<'_>,
    ) -> core::result::Result<ARef<File>, RetrieveError>;

    /// Returns whether `incoming` may be dropped. If not, finishing the session fails.
    fn can_finish(&self, _incoming: &mut Self::Incoming) -> bool {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Returns a number that is the same for files that share their contents.
    ///
    /// Only one of them can be preserved. By default, files do not share contents.
    fn file_id(_file: &File) -> usize {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// A registered [`FileHandler`]. Dropping it unregisters the handler.
///
/// A module must own the registration, so that it is dropped when the module is unloaded. The module
/// cannot be unloaded while files of the handler are preserved, or retrieved and not finished.
///
/// # Examples
///
/// See `samples/rust/rust_liveupdate.rs`.
///
/// # Invariants
///
/// `inner` is registered, and is the `inner` of a `Registration<H>`.
#[pin_data(PinnedDrop)]
pub struct Registration<H> {
    handler: H,
    #[pin]
    inner: Opaque<bindings::liveupdate_file_handler>,
}

// SAFETY: `inner` is only accessed through functions that may be called from any thread.
unsafe impl<H: Send> Send for Registration<H> {}
// SAFETY: `inner` is only accessed through functions that may be called from any thread, and
// `handler` only by shared reference.
unsafe impl<H: Sync> Sync for Registration<H> {}

impl<H: FileHandler> Registration<H> {
    /// Registers `handler`.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if live updates are not possible, [`EEXIST`] if there is a handler of the
    /// same name, [`EINVAL`] if its data is [vital](FileHandler::NOT_UNDERSTOOD) and it belongs to a
    /// module, [`ENOMEM`].
    ///
    /// # Context
    ///
    /// May sleep. Must not be called before the early initcalls have run.
    pub fn new(handler: H) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            handler,
            // The last field, since operations may be called from now on.
            inner <- Opaque::try_ffi_init(|slot: *mut bindings::liveupdate_file_handler| {
                // SAFETY: `slot` is valid for writing.
                unsafe { slot.write(file_ops::Table::<H>::HANDLER) };
                // INVARIANT: Registered if this succeeds; otherwise the object is not created.
                // SAFETY: `slot` was just initialised, and is valid until `drop` unregisters it.
                to_result(unsafe { bindings::liveupdate_register_file_handler(slot) })
            }),
        })
    }

    /// The handler.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    pub(crate) fn as_raw(&self) -> *mut bindings::liveupdate_file_handler {
        self.inner.get()
    }
}

#[pinned_drop]
impl<H> PinnedDrop for Registration<H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant.
        unsafe { bindings::liveupdate_unregister_file_handler(self.inner.get()) };
    }
}

/// Registers a handler of built-in code, and attaches its FLBs. See [`builtin_file_handler!`].
///
/// # Errors
///
/// The errors of [`Registration::new`] except [`EOPNOTSUPP`], and the errors of `attach`.
///
/// [`builtin_file_handler!`]: crate::builtin_file_handler
#[doc(hidden)]
pub fn register_builtin<H: FileHandler>(
    slot: &'static SetOnce<Pin<KBox<Registration<H>>>>,
    handler: H,
    attach: fn(Pin<&'static Registration<H>>) -> Result,
) -> Result {
    let register = || {
        slot.populate(KBox::pin_init(Registration::new(handler), GFP_KERNEL)?);
        slot.as_ref().map_or(Ok(()), |slot| attach(slot.as_ref()))
    };
    match register() {
        // Live updates are disabled.
        Err(EOPNOTSUPP) => Ok(()),
        res => res.inspect_err(|err| {
            pr_err!(
                "liveupdate: cannot register the file handler '{}': error {}\n",
                H::COMPATIBLE,
                err.to_errno()
            )
        }),
    }
}

/// Declares the file handler of built-in code, which is registered while the kernel boots.
///
/// `builtin_file_handler!(Handler)` adds the format of `Handler`, a unit structure that implements
/// [`FileHandler`], to the list in the image and registers it in a late initcall. Without live
/// updates, the handler is not registered.
///
/// `builtin_file_handler!(Handler, flbs: [FLB, ...])` also makes the files of the handler depend on
/// these FLBs, each a static [`flb::Instance`].
///
/// # Examples
///
/// See `samples/rust/rust_driver_edu/handler.rs`.
#[macro_export]
macro_rules! builtin_file_handler {
    ($handler:ident $(, flbs: [$($flb:ident),+ $(,)?])?) => {
        $crate::declare_compatible!(<$handler as $crate::liveupdate::FileHandler>::COMPATIBLE);

        $crate::macros::paste! {
            fn [<register_ $handler:lower>]() -> $crate::error::Result {
                static REGISTRATION: $crate::sync::SetOnce<
                    $crate::prelude::Pin<
                        $crate::prelude::KBox<$crate::liveupdate::Registration<$handler>>,
                    >,
                > = $crate::sync::SetOnce::new();

                $crate::liveupdate::register_builtin(&REGISTRATION, $handler, |_registration| {
                    $($($flb.attach(_registration)?;)+)?
                    Ok(())
                })
            }
            $crate::initcall!(late, [<register_ $handler:lower>]);
        }
    };
}
