// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of the formats. The parsers are also tested on the host, with random data.

#[kernel::macros::kunit_tests(memfd_format)]
mod tests {
    use crate::abi::{
        FolioSer,
        FormatError,
        Memfd,
        MemfdSer, //
    };

    #[test]
    fn memfds_without_room_for_their_folios_are_refused() {
        let mut ser = MemfdSer {
            size: 1,
            ..MemfdSer::default()
        };
        assert!(Memfd::parse(&ser).is_ok_and(|memfd| memfd.size == 1));
        ser.nr_folios = 1;
        assert_eq!(Memfd::parse(&ser).err(), Some(FormatError::BadCount));
    }

    #[test]
    fn memfds_with_unknown_properties_are_refused() {
        let ser = MemfdSer {
            flags: MemfdSer::DMA_TARGET << 1,
            ..MemfdSer::default()
        };
        assert_eq!(Memfd::parse(&ser).err(), Some(FormatError::UnknownFlags));
        let ser = MemfdSer {
            seals: 1 << 31,
            ..MemfdSer::default()
        };
        assert_eq!(Memfd::parse(&ser).err(), Some(FormatError::UnknownSeals));
    }

    #[test]
    fn entries_without_a_frame_have_no_folio() {
        assert_eq!(FolioSer::new(0, FolioSer::DIRTY, 7).parse(), Ok(None));
        let entry = FolioSer::new(0x1234, FolioSer::UPTODATE, 7).parse();
        assert!(entry.is_ok_and(|entry| entry.is_some_and(|entry| entry.uptodate)));
        let entry = FolioSer::new(0x1234, 1 << 2, 7).parse();
        assert_eq!(entry.err(), Some(FormatError::UnknownFlags));
    }
}
