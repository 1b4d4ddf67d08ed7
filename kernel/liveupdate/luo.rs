// SPDX-License-Identifier: GPL-2.0

//! Live Update Orchestrator (LUO): sessions of files that survive a kexec.
//!
//! | module          | subject                                                       |
//! |-----------------|---------------------------------------------------------------|
//! | [`abi`]         | the format of handed over data, and its parsers               |
//! | [`block_list`]  | lists of entries in preserved memory                          |
//! | [`c_abi`]       | the functions that are called by C                            |
//! | [`context`]     | the context of all sessions                                   |
//! | `damage`        | damages handed over data, for tests                           |
//! | [`debugfs`]     | the list of sessions for administrators                       |
//! | [`device`]      | `/dev/liveupdate`                                             |
//! | [`fault`]       | fault injection                                               |
//! | [`gate`]        | excludes changes during a kexec                               |
//! | [`handover`]    | the reboot path                                               |
//! | [`init`]        | parameters and initcalls                                      |
//! | [`ioctl`]       | argument structures                                           |
//! | [`luo_core`]    | the state of the orchestrator                                 |
//! | [`luo_file`]    | file handlers, and the files of sessions                      |
//! | [`luo_flb`]     | FLBs: state that files share                                  |
//! | [`luo_session`] | sessions and their files in user space                        |
//! | [`ops`]         | operation tables of C                                         |
//! | [`policy`]      | vital data: data that a kernel must not ignore                |
//! | [`root`]        | the root of handed over data, in both directions              |
//! | [`sysfs`]       | formats: supported ones, and those in use                     |
//! | [`trace`]       | tracepoints                                                   |
//! | [`worker`]      | work that continues when its process is killed                |
//!
//! See Documentation/core-api/liveupdate.rst.

#![deny(unsafe_code)]

use kernel::page::PAGE_SIZE;

mod abi;
mod block_list;
#[expect(unsafe_code, reason = "called by C")]
mod c_abi;
mod context;
#[cfg(CONFIG_LIVEUPDATE_ERROR_INJECTION)]
mod damage;
mod debugfs;
mod device;
mod early;
mod fault;
mod gate;
mod handover;
mod init;
mod ioctl;
mod luo_core;
mod luo_file;
mod luo_flb;
mod luo_session;
#[expect(unsafe_code, reason = "calls operations of C")]
mod ops;
mod policy;
mod root;
mod sysfs;
mod trace;
mod worker;

kernel::builtin_crate!(c"luo");

impl From<abi::ParseError> for kernel::error::Error {
    fn from(_: abi::ParseError) -> Self {
        kernel::error::code::EINVAL
    }
}

/// Structures that are shared with C must have the same layout.
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
    static_assert!(size_of::<abi::PolicyPage>() <= crate::PAGE_SIZE);
}

#[cfg(CONFIG_LIVEUPDATE_KUNIT_TEST)]
#[kernel::macros::kunit_tests(luo_format)]
mod tests {
    use crate::{
        abi::{
            Block,
            Entry,
            FileSer,
            FileSetSer,
            FlbPage,
            FlbSer,
            LuoSer,
            Name,
            ParseError,
            SessionSer, //
        },
        block_list::BlockList, //
    };
    use kernel::{
        kho::{
            self,
            Preserved, //
        },
        prelude::*, //
    };

    fn session(first: u8) -> SessionSer {
        let mut name = [0; 64];
        name[0] = first;
        SessionSer {
            name,
            file_set: FileSetSer::EMPTY,
        }
    }

    #[test]
    fn names_are_terminated_and_not_empty() {
        assert_eq!(Name::parse(&[0; 64]).err(), Some(ParseError::BadString));
        assert_eq!(Name::parse(&[b'x'; 64]).err(), Some(ParseError::BadString));
        let name = Name::parse(&session(b'a').name);
        assert!(name.is_ok_and(|name| name.as_bytes() == b"a"));
    }

    #[test]
    fn root_of_another_version_is_refused() {
        let mut root = LuoSer {
            compatible: LuoSer::COMPATIBLE,
            liveupdate_num: 7,
            sessions_pa: 0,
            flbs_pa: 0,
        };
        assert!(LuoSer::parse(root.as_bytes()).is_ok_and(|root| root.liveupdate_num == 7));
        assert_eq!(
            LuoSer::parse(&root.as_bytes()[1..]).err(),
            Some(ParseError::Truncated)
        );
        root.compatible = *b"luo-v6\0\0";
        assert_eq!(
            LuoSer::parse(root.as_bytes()).err(),
            Some(ParseError::Incompatible)
        );
    }

    #[test]
    fn lists_have_an_end() {
        fn check<T: Entry>() {
            let most = Block::MAX * Block::capacity::<T>();
            let mut list = BlockList::<T>::new();
            assert_eq!(list.grow(most + 1).err(), Some(ENOSPC));
            assert_eq!(list.grow(usize::MAX).err(), Some(ENOSPC));
        }
        check::<SessionSer>();
        check::<FileSer>();
    }

    #[test]
    fn block_round_trip() -> Result {
        if !kho::is_enabled() {
            return Ok(());
        }
        let mut block = Preserved::<Block>::new_zeroed()?;
        assert_eq!(
            Block::parse::<SessionSer>(block.as_bytes()).err(),
            Some(ParseError::BadCount)
        );
        let capacity = Block::capacity::<SessionSer>();
        assert!(block.entries_mut::<SessionSer>(capacity + 1).is_none());
        let entries = block.entries_mut(capacity).ok_or(EINVAL)?;
        entries[capacity - 1] = session(b'z');
        block.set_next(0x5000);
        let (entries, next) = Block::parse::<SessionSer>(block.as_bytes())?;
        assert_eq!((entries.len(), next), (capacity, 0x5000));
        assert_eq!(entries[capacity - 1].name[0], b'z');
        Ok(())
    }

    #[test]
    fn list_has_room_for_what_it_was_grown_for() -> Result {
        if !kho::is_enabled() {
            return Ok(());
        }
        let per_block = Block::capacity::<SessionSer>();
        let mut list = BlockList::<SessionSer>::new();
        assert_eq!(list.write(core::iter::empty())?, 0);
        list.grow(per_block + 1)?;
        assert!(list.write((0..2 * per_block).map(|_| session(b's')))? != 0);
        list.shrink(per_block);
        let more = (0..per_block + 1).map(|_| session(b's'));
        assert_eq!(list.write(more).err(), Some(ENOSPC));
        assert_eq!(list.grow(Block::MAX * per_block + 1).err(), Some(ENOSPC));
        Ok(())
    }

    #[test]
    fn shared_states_round_trip() -> Result {
        if !kho::is_enabled() {
            return Ok(());
        }
        let mut page = Preserved::<FlbPage>::new_zeroed()?;
        page.fill((0..3).map(|data| FlbSer {
            name: [b'n'; 48],
            data,
            count: 1,
        }));
        let states = FlbPage::parse(page.as_bytes())?;
        assert_eq!(states.len(), 3);
        assert_eq!(states[2].data, 2);
        Ok(())
    }
}
