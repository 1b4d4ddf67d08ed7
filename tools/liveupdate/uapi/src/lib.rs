// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `include/uapi/linux/liveupdate.h` for programs in Rust: the numbers, structures and limits of
//! the interface of `/dev/liveupdate`, under their names in C.
//!
//! All user space code in this repository uses these numbers. A test compiles a program against the
//! header and compares every number, size and offset; it fails if an item of the header is missing
//! here.
//!
//! The requests are those of architectures whose `_IO()` sets no direction bits, such as x86-64 and
//! arm64.

#![no_std]
#![allow(non_camel_case_types)]

/// The type of all ioctls.
pub const LIVEUPDATE_IOCTL_TYPE: u8 = 0xba;

/// Bytes of the name of a session, including the null byte at its end.
pub const LIVEUPDATE_SESSION_NAME_LENGTH: usize = 64;

/// The first number of the ioctls of `/dev/liveupdate`.
pub const LIVEUPDATE_CMD_BASE: u8 = 0x00;
/// The number of [`LIVEUPDATE_IOCTL_CREATE_SESSION`].
pub const LIVEUPDATE_CMD_CREATE_SESSION: u8 = LIVEUPDATE_CMD_BASE;
/// The number of [`LIVEUPDATE_IOCTL_RETRIEVE_SESSION`].
pub const LIVEUPDATE_CMD_RETRIEVE_SESSION: u8 = 0x01;

/// The first number of the ioctls of sessions.
pub const LIVEUPDATE_CMD_SESSION_BASE: u8 = 0x40;
/// The number of [`LIVEUPDATE_SESSION_PRESERVE_FD`].
pub const LIVEUPDATE_CMD_SESSION_PRESERVE_FD: u8 = LIVEUPDATE_CMD_SESSION_BASE;
/// The number of [`LIVEUPDATE_SESSION_RETRIEVE_FD`].
pub const LIVEUPDATE_CMD_SESSION_RETRIEVE_FD: u8 = 0x41;
/// The number of [`LIVEUPDATE_SESSION_FINISH`].
pub const LIVEUPDATE_CMD_SESSION_FINISH: u8 = 0x42;
/// The number of [`LIVEUPDATE_SESSION_GET_NAME`].
pub const LIVEUPDATE_CMD_SESSION_GET_NAME: u8 = 0x43;
/// The number of [`LIVEUPDATE_SESSION_SET_POLICY`].
pub const LIVEUPDATE_CMD_SESSION_SET_POLICY: u8 = 0x50;

/// A kexec fails if a file of the session cannot be handed over.
pub const LIVEUPDATE_POLICY_ABORT: u32 = 0;
/// A kexec continues without a file of the session that cannot be handed over.
pub const LIVEUPDATE_POLICY_SKIP: u32 = 1;

/// Creates an outgoing session. The argument is [`liveupdate_ioctl_create_session`].
pub const LIVEUPDATE_IOCTL_CREATE_SESSION: u32 = request(LIVEUPDATE_CMD_CREATE_SESSION);
/// Opens an incoming session. The argument is [`liveupdate_ioctl_retrieve_session`].
pub const LIVEUPDATE_IOCTL_RETRIEVE_SESSION: u32 = request(LIVEUPDATE_CMD_RETRIEVE_SESSION);
/// Preserves a file. The argument is [`liveupdate_session_preserve_fd`].
pub const LIVEUPDATE_SESSION_PRESERVE_FD: u32 = request(LIVEUPDATE_CMD_SESSION_PRESERVE_FD);
/// Restores a file. The argument is [`liveupdate_session_retrieve_fd`].
pub const LIVEUPDATE_SESSION_RETRIEVE_FD: u32 = request(LIVEUPDATE_CMD_SESSION_RETRIEVE_FD);
/// Ends an incoming session. The argument is [`liveupdate_session_finish`].
pub const LIVEUPDATE_SESSION_FINISH: u32 = request(LIVEUPDATE_CMD_SESSION_FINISH);
/// Returns the name of a session. The argument is [`liveupdate_session_get_name`].
pub const LIVEUPDATE_SESSION_GET_NAME: u32 = request(LIVEUPDATE_CMD_SESSION_GET_NAME);
/// Sets whether a kexec continues if a file cannot be handed over. The argument is
/// [`liveupdate_session_set_policy`].
pub const LIVEUPDATE_SESSION_SET_POLICY: u32 = request(LIVEUPDATE_CMD_SESSION_SET_POLICY);

/// The request of the ioctl with the number `nr`, as `_IO(LIVEUPDATE_IOCTL_TYPE, nr)` makes it.
pub const fn request(nr: u8) -> u32 {
    ((LIVEUPDATE_IOCTL_TYPE as u32) << 8) | nr as u32
}

/// Structures that begin with their own size. Their default has it, and is otherwise empty.
macro_rules! structures {
    ($(
        $(#[$meta:meta])*
        $name:ident { $($(#[$doc:meta])* $field:ident: $ty:ty = $default:expr,)* }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub struct $name {
            /// In: the size of the structure, in bytes.
            pub size: u32,
            $($(#[$doc])* pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                // CAST: The structures have less than 100 bytes.
                Self { size: size_of::<Self>() as u32, $($field: $default,)* }
            }
        }
    )*};
}

structures! {
    /// The argument of [`LIVEUPDATE_IOCTL_CREATE_SESSION`].
    liveupdate_ioctl_create_session {
        /// Out: the file descriptor of the session.
        fd: i32 = -1,
        /// In: the session's name, terminated by a null byte.
        name: [u8; LIVEUPDATE_SESSION_NAME_LENGTH] = [0; LIVEUPDATE_SESSION_NAME_LENGTH],
    }

    /// The argument of [`LIVEUPDATE_IOCTL_RETRIEVE_SESSION`].
    liveupdate_ioctl_retrieve_session {
        /// Out: the file descriptor of the session.
        fd: i32 = -1,
        /// In: the session's name, terminated by a null byte.
        name: [u8; LIVEUPDATE_SESSION_NAME_LENGTH] = [0; LIVEUPDATE_SESSION_NAME_LENGTH],
    }

    /// The argument of [`LIVEUPDATE_SESSION_PRESERVE_FD`].
    liveupdate_session_preserve_fd {
        /// In: the file.
        fd: i32 = -1,
        /// In: the number of the file within the session.
        token: u64 = 0,
    }

    /// The argument of [`LIVEUPDATE_SESSION_RETRIEVE_FD`].
    liveupdate_session_retrieve_fd {
        /// Out: a file descriptor of the file.
        fd: i32 = -1,
        /// In: the token with which the file was preserved.
        token: u64 = 0,
    }

    /// The argument of [`LIVEUPDATE_SESSION_FINISH`].
    liveupdate_session_finish {
        /// In: must be 0.
        reserved: u32 = 0,
    }

    /// The argument of [`LIVEUPDATE_SESSION_GET_NAME`].
    liveupdate_session_get_name {
        /// In: must be 0.
        reserved: u32 = 0,
        /// Out: the session's name, terminated by a null byte.
        name: [u8; LIVEUPDATE_SESSION_NAME_LENGTH] = [0; LIVEUPDATE_SESSION_NAME_LENGTH],
    }

    /// The argument of [`LIVEUPDATE_SESSION_SET_POLICY`].
    liveupdate_session_set_policy {
        /// In: [`LIVEUPDATE_POLICY_ABORT`] or [`LIVEUPDATE_POLICY_SKIP`].
        policy: u32 = LIVEUPDATE_POLICY_ABORT,
    }
}
