// SPDX-License-Identifier: GPL-2.0

//! The common part of all ioctls: extensible argument structures.

use kernel::{
    ioctl::_IO,
    page::PAGE_SIZE,
    prelude::*,
    uaccess::UserSlice,
    uapi, //
};
use zerocopy_derive::{
    Immutable,
    KnownLayout, //
};

/// An argument structure. Its first field is its size in user space.
pub(crate) trait Command: FromBytes + IntoBytes + zerocopy::Immutable + Sized {
    /// The number of the ioctl.
    const NR: u32;
    /// The size of the structure's first version.
    const MIN_SIZE: usize = size_of::<Self>();
    /// The complete command.
    const CMD: u32 = _IO(uapi::LIVEUPDATE_IOCTL_TYPE, Self::NR);
}

/// The user pointer of an argument.
pub(crate) struct UserArg {
    ptr: UserPtr,
    size: usize,
}

impl UserArg {
    /// Reads an argument. Must be called without any lock, since user space determines the
    /// duration.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] if it cannot be read, [`EINVAL`] if it is too short, [`E2BIG`] if it is longer
    /// than the structure and not all bytes of the rest are 0, or longer than a page.
    pub(crate) fn read<C: Command>(arg: usize) -> Result<(Self, C)> {
        let ptr = UserPtr::from_addr(arg);
        let size: u32 = UserSlice::new(ptr, size_of::<u32>()).reader().read()?;
        // CAST: `usize` has at least 32 bits.
        let size = size as usize;
        if size < C::MIN_SIZE {
            return Err(EINVAL);
        }
        // No structure is that large, and checking gigabytes for zeroes takes long.
        if size > PAGE_SIZE {
            return Err(E2BIG);
        }
        let command = UserSlice::new(ptr, size).reader().read_struct()?;
        Ok((Self { ptr, size }, command))
    }

    /// Writes the results back. Must be called without any lock.
    ///
    /// Fails with [`EFAULT`] if the memory cannot be written.
    pub(crate) fn respond<C: Command>(&self, command: &C) -> Result {
        let bytes = command.as_bytes();
        let known = bytes.get(..self.size).unwrap_or(bytes);
        UserSlice::new(self.ptr, self.size)
            .writer()
            .write_slice(known)
    }
}

/// The kinds of files that have ioctls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/dev/liveupdate`
    Device,
    /// A session that is handed over to the next kernel.
    Outgoing,
    /// A session of the previous kernel.
    Incoming,
}

/// The error for a command that a file of kind `target` does not support: [`EINVAL`] if sessions of
/// the other kind do, otherwise [`ENOTTY`].
pub(crate) fn unsupported(target: Target, cmd: u32) -> Error {
    let other = match target {
        Target::Device => return ENOTTY,
        Target::Outgoing => Target::Incoming,
        Target::Incoming => Target::Outgoing,
    };
    let mut commands = COMMANDS.iter();
    if commands.any(|(known, targets)| *known == cmd && targets.contains(&other)) {
        EINVAL
    } else {
        ENOTTY
    }
}

/// Declares commands: their structures, and the kinds of files that support them.
macro_rules! commands {
    ($($(#[$meta:meta])* [$($target:ident),+] $name:ident = $nr:ident: $raw:ident {
        $($field:ident: $ty:ty,)*
    })*) => {
        /// All commands, and the kinds of files that support them.
        const COMMANDS: &[(u32, &[Target])] = &[$(($name::CMD, &[$(Target::$target),+]),)*];

        $(
        $(#[$meta])*
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $ty,)* }

        static_assert!(size_of::<$name>() == size_of::<uapi::$raw>());
        $(static_assert!(
            core::mem::offset_of!($name, $field) == core::mem::offset_of!(uapi::$raw, $field)
        );)*

        impl Command for $name {
            const NR: u32 = uapi::$nr;
        }
        )*
    };
}

// To add a command, add it here and to the `ioctl` operation of each kind of file that supports it.

commands! {
    /// `struct liveupdate_ioctl_create_session`
    [Device] CreateSession = LIVEUPDATE_CMD_CREATE_SESSION: liveupdate_ioctl_create_session {
        size: u32,
        fd: i32,
        name: [u8; 64],
    }
    /// `struct liveupdate_ioctl_retrieve_session`
    [Device] RetrieveSession = LIVEUPDATE_CMD_RETRIEVE_SESSION: liveupdate_ioctl_retrieve_session {
        size: u32,
        fd: i32,
        name: [u8; 64],
    }
    /// `struct liveupdate_session_preserve_fd`
    [Outgoing] PreserveFd = LIVEUPDATE_CMD_SESSION_PRESERVE_FD: liveupdate_session_preserve_fd {
        size: u32,
        fd: i32,
        token: u64,
    }
    /// `struct liveupdate_session_retrieve_fd`
    [Incoming] RetrieveFd = LIVEUPDATE_CMD_SESSION_RETRIEVE_FD: liveupdate_session_retrieve_fd {
        size: u32,
        fd: i32,
        token: u64,
    }
    /// `struct liveupdate_session_finish`
    [Incoming] Finish = LIVEUPDATE_CMD_SESSION_FINISH: liveupdate_session_finish {
        size: u32,
        reserved: u32,
    }
    /// `struct liveupdate_session_get_name`
    [Outgoing, Incoming] GetName = LIVEUPDATE_CMD_SESSION_GET_NAME: liveupdate_session_get_name {
        size: u32,
        reserved: u32,
        name: [u8; 64],
    }
    /// `struct liveupdate_session_set_policy`
    [Outgoing] SetPolicy = LIVEUPDATE_CMD_SESSION_SET_POLICY: liveupdate_session_set_policy {
        size: u32,
        policy: u32,
    }
}
