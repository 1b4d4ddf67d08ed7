// SPDX-License-Identifier: GPL-2.0

//! Initcalls and early boot parameters of built-in code.
//!
//! A built-in module that [`module!`] declares starts as a `device_initcall()`. Core code, which is
//! never a module and needs another initcall level, is a crate that begins with [`builtin_crate!`]
//! and declares its entry points by [`initcall!`] and [`early_param!`].
//!
//! C header: [`include/linux/init.h`](srctree/include/linux/init.h)
//!
//! [`module!`]: crate::prelude::module

use crate::prelude::*;

/// An entry of the table of boot parameters (`struct obs_kernel_param`).
///
/// The C definition is hidden from `bindgen`, which runs with `-DMODULE`.
#[doc(hidden)]
#[repr(C)]
pub struct ObsKernelParam {
    name: *const c_char,
    setup: unsafe extern "C" fn(*mut c_char) -> c_int,
    early: c_int,
}

// SAFETY: There are no methods, and C code does not change the entry.
unsafe impl Sync for ObsKernelParam {}

impl ObsKernelParam {
    #[doc(hidden)]
    pub const fn early(
        name: &'static CStr,
        setup: unsafe extern "C" fn(*mut c_char) -> c_int,
    ) -> Self {
        Self {
            name: crate::str::as_char_ptr_in_const_context(name),
            setup,
            early: 1,
        }
    }
}

/// Passes the value of an early parameter to its parser.
///
/// # Safety
///
/// `arg` must be null, or point to a null-terminated string that does not change during the call.
#[doc(hidden)]
pub unsafe fn call_early_param(arg: *mut c_char, parse: fn(Option<&CStr>) -> Result) -> c_int {
    let arg = (!arg.is_null()).then(|| {
        // SAFETY: By the safety requirements.
        unsafe { CStr::from_char_ptr(arg) }
    });
    crate::error::from_result(|| parse(arg).map(|()| 0))
}

/// Declares a function that is called while the kernel boots.
///
/// `initcall!(level, function)` declares `function`, of type `fn() -> Result`, to be an initcall.
/// The levels are, in the order in which they run: `early`, before the other CPUs are started, then
/// `pure`, `core`, `postcore`, `arch`, `subsys`, `fs`, `device` and `late`. Functions of the same
/// level in the same crate run in the order of their declaration. There must not be two
/// declarations for functions of the same name in a module.
///
/// Initcalls run in process context and may sleep. An error is only shown by `initcall_debug`, so
/// that the function must log its errors.
///
/// # Examples
///
/// ```ignore
/// fn set_up() -> Result {
///     pr_info!("there is only one CPU yet\n");
///     Ok(())
/// }
///
/// kernel::initcall!(early, set_up);
/// ```
#[macro_export]
macro_rules! initcall {
    (early, $func:ident) => { $crate::initcall!(@emit ".initcallearly.init", $func); };
    (pure, $func:ident) => { $crate::initcall!(@emit ".initcall0.init", $func); };
    (core, $func:ident) => { $crate::initcall!(@emit ".initcall1.init", $func); };
    (postcore, $func:ident) => { $crate::initcall!(@emit ".initcall2.init", $func); };
    (arch, $func:ident) => { $crate::initcall!(@emit ".initcall3.init", $func); };
    (subsys, $func:ident) => { $crate::initcall!(@emit ".initcall4.init", $func); };
    (fs, $func:ident) => { $crate::initcall!(@emit ".initcall5.init", $func); };
    (device, $func:ident) => { $crate::initcall!(@emit ".initcall6.init", $func); };
    (late, $func:ident) => { $crate::initcall!(@emit ".initcall7.init", $func); };
    (@emit $section:literal, $func:ident) => {
        #[cfg(MODULE)]
        compile_error!("`initcall!` is for built-in code, use `module!`");

        // A module, since `global_asm!` is not allowed in the block of a constant.
        $crate::macros::paste! {
            mod [<__initcall_ $func>] {
                #[link_section = ".init.text"]
                extern "C" fn initcall() -> $crate::ffi::c_int {
                    let init: fn() -> $crate::error::Result = super::$func;
                    $crate::error::from_result(|| init().map(|()| 0))
                }

                #[cfg(CONFIG_HAVE_ARCH_PREL32_RELOCATIONS)]
                ::core::arch::global_asm!(
                    concat!(".section \"", $section, "\", \"a\""),
                    ".long {init} - .",
                    ".previous",
                    init = sym initcall,
                );

                #[cfg(not(CONFIG_HAVE_ARCH_PREL32_RELOCATIONS))]
                #[link_section = $section]
                #[used(compiler)]
                static INITCALL: extern "C" fn() -> $crate::ffi::c_int = initcall;
            }
        }
    };
}
pub use initcall;

/// Declares a boot parameter that is parsed early.
///
/// `early_param!(name, function)` declares that `function`, of type `fn(Option<&CStr>) -> Result`,
/// is called with the value for each `name=value` on the command line, and with [`None`] for each
/// `name` alone. If it fails, the kernel prints that the option is malformed.
///
/// The function runs before memory can be allocated and before there are tasks: it should only
/// parse and store the value.
///
/// # Examples
///
/// ```
/// use kernel::{
///     str::kstrtobool,
///     sync::atomic::{Atomic, Relaxed},
/// };
///
/// static ENABLED: Atomic<bool> = Atomic::new(false);
///
/// fn parse(value: Option<&CStr>) -> Result {
///     ENABLED.store(kstrtobool(value.ok_or(EINVAL)?)?, Relaxed);
///     Ok(())
/// }
///
/// kernel::early_param!(c"rust_doctest", parse);
/// ```
#[macro_export]
macro_rules! early_param {
    ($name:literal, $func:path) => {
        const _: () = {
            #[cfg(MODULE)]
            compile_error!("`early_param!` is for built-in code, use `module!`");

            #[link_section = ".init.text"]
            unsafe extern "C" fn setup(arg: *mut $crate::ffi::c_char) -> $crate::ffi::c_int {
                // SAFETY: The callers of early parameters pass null or a null-terminated string.
                unsafe { $crate::initcall::call_early_param(arg, $func) }
            }

            #[link_section = ".init.setup"]
            #[used(compiler)]
            static PARAM: $crate::initcall::ObsKernelParam =
                $crate::initcall::ObsKernelParam::early($name, setup);
        };
    };
}
pub use early_param;

/// Begins a crate that is always built in.
///
/// `builtin_crate!(name)` declares, in the root of the crate, the same items as [`module!`]: the
/// prefix of log messages, and the `LocalModule` to which `#[vtable]` refers.
///
/// # Examples
///
/// ```ignore
/// use kernel::prelude::*;
///
/// kernel::builtin_crate!(c"sample");
///
/// fn hello() -> Result {
///     pr_info!("hello\n"); // "sample: hello"
///     Ok(())
/// }
/// kernel::initcall!(late, hello);
/// ```
///
/// [`module!`]: crate::prelude::module
#[macro_export]
macro_rules! builtin_crate {
    ($name:literal) => {
        #[cfg(MODULE)]
        compile_error!("`builtin_crate!` is for built-in code, use `module!`");

        /// The name of the crate, with which the printing macros begin each message.
        const __LOG_PREFIX: &[u8] = {
            const NAME: &$crate::str::CStr = $name;
            NAME.to_bytes_with_nul()
        };

        /// Represents this crate where a module is required.
        struct LocalModule;

        impl $crate::ModuleMetadata for LocalModule {
            const NAME: &'static $crate::str::CStr = $name;

            // SAFETY: `THIS_MODULE` is null in built-in code.
            const THIS_MODULE: $crate::ThisModule =
                unsafe { $crate::ThisModule::from_ptr(::core::ptr::null_mut()) };
        }
    };
}
pub use builtin_crate;
