// SPDX-License-Identifier: GPL-2.0

//! The format of memfds.

use super::{memfd_abi::*, random::Random};
use zerocopy::{FromBytes, IntoBytes};

/// A file of `pages` pages, each of which has a folio.
fn file(pages: u64) -> MemfdSer {
    MemfdSer {
        pos: 1,
        size: pages * 4096,
        seals: 0,
        flags: 0,
        nr_folios: pages,
        folios: ArraySer {
            first: 0x1000,
            total_pages: pages.div_ceil(256) as u32,
            flags: 1,
            order: 0,
        },
    }
}

#[test]
fn golden_bytes() {
    let ser = MemfdSer {
        pos: 0x0102,
        size: 0x3000,
        seals: 0x21,
        flags: 0,
        nr_folios: 3,
        folios: ArraySer {
            first: 0xabc000,
            total_pages: 1,
            flags: 1,
            order: 0,
        },
    };
    let mut bytes = [0; 48];
    bytes[..2].copy_from_slice(&[0x02, 0x01]);
    bytes[9] = 0x30;
    bytes[16] = 0x21;
    bytes[24] = 3;
    bytes[33..35].copy_from_slice(&[0xc0, 0xab]);
    bytes[40] = 1;
    bytes[44] = 1;
    assert_eq!(ser.as_bytes(), bytes);

    // 52 bits of page frame number, 12 of flags, then the index.
    let folio = FolioSer::new(0x12345, FolioSer::DIRTY | FolioSer::UPTODATE, 7);
    let mut bytes = [0; 16];
    bytes[..3].copy_from_slice(&[0x45, 0x23, 0x01]);
    bytes[6] = 0x30;
    bytes[8] = 7;
    assert_eq!(folio.as_bytes(), bytes);
}

#[test]
fn a_sane_file_is_accepted() {
    let memfd = Memfd::parse(&file(256)).unwrap();
    assert_eq!(
        (memfd.size, memfd.pos, memfd.nr_folios),
        (256 * 4096, 1, 256)
    );
    assert!(Memfd::parse(&MemfdSer::default()).is_ok());

    let mut ser = file(256);
    assert!(!Memfd::parse(&ser).unwrap().dma_target);
    ser.flags = 1;
    assert!(Memfd::parse(&ser).unwrap().dma_target);
}

#[test]
fn bad_properties_are_refused() {
    let parse = |change: fn(&mut MemfdSer)| {
        let mut ser = file(4);
        change(&mut ser);
        Memfd::parse(&ser).err()
    };
    assert_eq!(parse(|ser| ser.flags = 2), Some(FormatError::UnknownFlags));
    assert_eq!(
        parse(|ser| ser.seals = 0x40),
        Some(FormatError::UnknownSeals)
    );
    assert_eq!(parse(|ser| ser.size = 1 << 63), Some(FormatError::BadSize));
    assert_eq!(
        parse(|ser| ser.pos = u64::MAX),
        Some(FormatError::BadPosition)
    );
    // More folios than pages in the file, and more than entries in the array.
    assert_eq!(parse(|ser| ser.nr_folios = 5), Some(FormatError::BadCount));
    assert_eq!(
        parse(|ser| ser.nr_folios = 1 << 32),
        Some(FormatError::BadCount)
    );
    assert_eq!(
        parse(|ser| ser.folios.total_pages = 0),
        Some(FormatError::BadCount)
    );
    assert_eq!(parse(|_| ()), None);
}

#[test]
fn folios_have_their_own_place() {
    let layout = || Memfd::parse(&file(8)).unwrap().layout();
    let bad = Err(FormatError::BadIndex);

    let mut pages = layout();
    assert_eq!(pages.admit(0, 1), Ok(()));
    assert_eq!(pages.admit(0, 1), bad, "twice");
    assert_eq!(pages.admit(4, 4), Ok(()), "after a hole");
    assert_eq!(pages.admit(7, 1), bad, "overlap");
    assert_eq!(pages.admit(8, 1), bad, "beyond the end");

    assert_eq!(layout().admit(2, 4), bad, "not aligned");
    assert_eq!(
        layout().admit(0, 512),
        Ok(()),
        "a large folio may exceed the file"
    );
    assert_eq!(layout().admit(u64::MAX, 1), bad);
    assert_eq!(layout().admit(0, 0), bad);
}

#[test]
fn entries() {
    assert_eq!(FolioSer::default().parse(), Ok(None));
    let record = FolioSer::new(5, FolioSer::DIRTY, 9)
        .parse()
        .unwrap()
        .unwrap();
    assert_eq!((record.pfn, record.index), (5, 9));
    assert!(!record.uptodate);
    let unknown = FolioSer::new(5, 4, 0);
    assert_eq!(unknown.parse(), Err(FormatError::UnknownFlags));
    assert_eq!(unknown.raw_pfn(), Some(5));
}

#[test]
fn the_mode_follows_from_the_seals() {
    let mode = |bits| Seals::parse(bits).unwrap().mode();
    assert_eq!(mode(0), 0o777);
    assert_eq!(mode(Seals::EXEC), 0o666);
    assert_eq!(mode(0x3e), 0o777);
    assert_eq!(mode(0x3f), 0o777);
}

/// No bytes may cause a panic.
#[test]
fn random_bytes() {
    let mut random = Random::new();
    for _ in 0..300_000 {
        let mut words = [0; 6];
        for word in &mut words {
            // Small numbers as well: otherwise no input would be accepted.
            *word = random.next() >> (random.next() % 64);
        }
        let ser = MemfdSer::read_from_bytes(words.as_bytes()).unwrap();
        let Ok(memfd) = Memfd::parse(&ser) else {
            continue;
        };
        assert!(memfd.size <= i64::MAX as u64 && memfd.nr_folios <= ser.capacity());
        let mut layout = memfd.layout();
        for _ in 0..4 {
            let entry = [random.next(), random.next() >> (random.next() % 64)];
            let _ = FolioSer::read_from_bytes(entry.as_bytes()).unwrap().parse();
            let _ = layout.admit(entry[1], 1 << (random.next() % 10));
        }
    }
}
