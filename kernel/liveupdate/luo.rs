// SPDX-License-Identifier: GPL-2.0

//! Live Update Orchestrator (LUO): sessions of files that survive a kexec.
//!
//! | module          | subject                                                       |
//! |-----------------|---------------------------------------------------------------|
//! | [`abi`]         | the format of what is handed over, and its parsers            |
//! | [`block`]       | lists of entries in preserved memory                          |
//! | [`c_abi`]       | the boundary to C: operation tables, exported functions       |
//! | [`debugfs`]     | the list of sessions for administrators                       |
//! | [`ioctl`]       | argument structures                                           |
//! | [`luo_core`]    | set-up, the device, the way into a kexec                      |
//! | [`luo_session`] | sessions and their files in user space                        |
//! | [`luo_file`]    | file handlers, and the files of sessions                      |
//! | [`luo_flb`]     | state that files share                                        |
//!
//! See Documentation/core-api/liveupdate.rst.

use kernel::page::PAGE_SIZE;

mod abi;
mod block;
mod c_abi;
mod debugfs;
mod ioctl;
mod luo_core;
mod luo_file;
mod luo_flb;
mod luo_session;

kernel::builtin_crate!(c"luo");

impl From<abi::ParseError> for kernel::error::Error {
    fn from(_: abi::ParseError) -> Self {
        kernel::error::code::EINVAL
    }
}

/// The structures that C knows as well have to look the same there.
mod layout {
    use crate::abi;
    use kernel::{
        bindings,
        prelude::*, //
    };

    static_assert!(size_of::<abi::LuoSer>() == size_of::<bindings::luo_ser>());
    static_assert!(size_of::<abi::FileSetSer>() == size_of::<bindings::luo_file_set_ser>());
    static_assert!(size_of::<abi::SessionSer>() == size_of::<bindings::luo_session_ser>());
    static_assert!(size_of::<abi::FileSer>() == size_of::<bindings::luo_file_ser>());
    static_assert!(size_of::<abi::FlbSer>() == size_of::<bindings::luo_flb_ser>());
    static_assert!(size_of::<abi::Block>() == crate::PAGE_SIZE);
    static_assert!(size_of::<abi::FlbPage>() == crate::PAGE_SIZE);
}
