// SPDX-License-Identifier: GPL-2.0

//! A memfd and its array of folios.

use crate::{
    input::Input,
    memfd_abi::{pages, ArraySer, FolioSer, FormatError, Memfd, MemfdSer, Seals},
    PAGE_SIZE,
};

const PER_PAGE: u64 = (PAGE_SIZE / size_of::<FolioSer>()) as u64;

fn check_seals(bits: u32) {
    if let Ok(seals) = Seals::parse(bits) {
        assert_eq!(seals.bits(), bits);
        let executable = seals.mode() & 0o111 != 0;
        // A file without execute permission must be recognized.
        assert!(executable || bits & Seals::EXEC != 0);
    }
}

/// KHO determines the order of folios, so that it is a part of the input.
fn folios(input: &mut Input<'_>, memfd: &Memfd) {
    let mut layout = memfd.layout();
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let limit = pages(memfd.size);

    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let (pfn, flags, index) = (input.number(), u64::from(input.byte()), input.number());
        let entry = FolioSer::new(pfn, flags, index);
        let raw = entry.raw_pfn();
        let record = match entry.parse() {
            Ok(Some(record)) => record,
            Ok(None) => {
                assert_eq!(raw, None);
                continue;
            }
            Err(err) => {
                assert_eq!(err, FormatError::UnknownFlags);
                assert!(flags & !(FolioSer::DIRTY | FolioSer::UPTODATE) != 0);
                continue;
            }
        };
        assert_eq!(Some(record.pfn), raw);
        assert!(record.pfn != 0 && record.pfn < 1 << FolioSer::PFN_BITS);
        assert_eq!(record.index, index);

        let nr = 1u64 << (input.byte() % 11);
        let before = layout;
        match layout.admit(record.index, nr) {
            Ok(()) => {
                let end = index
                    .checked_add(nr)
                    .expect("a folio that wraps was admitted");
                assert!(index < limit && index % nr == 0);
                assert!(taken.iter().all(|&(from, to)| end <= from || to <= index));
                taken.push((index, end));
            }
            Err(err) => {
                assert_eq!(err, FormatError::BadIndex);
                assert_eq!(layout, before);
            }
        }
    }
}

/// The location of an array of folios.
pub(crate) fn array(input: &mut Input<'_>) -> ArraySer {
    ArraySer {
        first: input.number(),
        total_pages: input.number() as u32,
        flags: input.byte().into(),
        order: input.byte().into(),
    }
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let ser = MemfdSer {
        pos: input.number(),
        size: input.number(),
        seals: input.number() as u32,
        flags: input.byte().into(),
        nr_folios: input.number(),
        folios: array(&mut input),
    };
    check_seals(ser.seals);
    assert_eq!(ser.capacity(), u64::from(ser.folios.total_pages) * PER_PAGE);
    if let Ok(memfd) = Memfd::parse(&ser) {
        assert_eq!(ser.flags, u32::from(memfd.dma_target));
        assert_eq!((memfd.size, memfd.pos), (ser.size, ser.pos));
        assert!(memfd.size <= i64::MAX as u64 && memfd.pos <= i64::MAX as u64);
        assert_eq!(memfd.seals.bits(), ser.seals);
        assert!(memfd.nr_folios <= ser.capacity());
        assert!(memfd.nr_folios <= pages(memfd.size));
        folios(&mut input, &memfd);
    }
}
