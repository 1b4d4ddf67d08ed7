// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of the format of memory of guests. The parsers are also tested on the host, with random data.

#[kernel::macros::kunit_tests(guest_memfd_format)]
mod tests {
    use crate::{
        abi::FormatError,
        guest_memfd::abi::{
            GuestMemfd,
            GuestMemfdSer, //
        }, //
    };
    use kernel::page::PAGE_SIZE;

    #[test]
    fn only_shared_memory_of_whole_pages_is_accepted() {
        let good = GuestMemfdSer {
            size: PAGE_SIZE as u64,
            flags: GuestMemfdSer::INIT_SHARED,
            ..GuestMemfdSer::default()
        };
        assert!(GuestMemfd::parse(&good).is_ok());
        let private = GuestMemfdSer { flags: 0, ..good };
        let error = GuestMemfd::parse(&private).err();
        assert_eq!(error, Some(FormatError::UnknownFlags));
        let odd = GuestMemfdSer {
            size: good.size + 1,
            ..good
        };
        assert_eq!(GuestMemfd::parse(&odd).err(), Some(FormatError::BadSize));
        let full = GuestMemfdSer {
            nr_folios: 1,
            ..good
        };
        assert_eq!(GuestMemfd::parse(&full).err(), Some(FormatError::BadCount));
    }
}
