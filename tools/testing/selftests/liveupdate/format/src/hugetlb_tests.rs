// SPDX-License-Identifier: GPL-2.0

//! The formats of memfds of huge pages.

use super::{hugetlb_abi::*, memfd_abi::*, random::Random};
use zerocopy::{FromBytes, IntoBytes};

const ORDER: u32 = 9;
const NR: u64 = 1 << ORDER;

/// A file of `pages` huge pages of 2 MiB, none of which is a hole.
fn file(pages: u64) -> HugetlbMemfdSer {
    HugetlbMemfdSer {
        pos: 1,
        size: pages * NR * 4096,
        seals: 0,
        order: ORDER as u16,
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
    let mut ser = file(3);
    (ser.pos, ser.seals, ser.folios.first) = (0x0102, 0x21, 0xabc000);
    let mut bytes = [0; 48];
    bytes[..2].copy_from_slice(&[0x02, 0x01]);
    bytes[10] = 0x60;
    bytes[16] = 0x21;
    bytes[20] = 9;
    bytes[24] = 3;
    bytes[33..35].copy_from_slice(&[0xc0, 0xab]);
    bytes[40] = 1;
    bytes[44] = 1;
    assert_eq!(ser.as_bytes(), bytes);

    let mut pool = HugetlbSer::default();
    assert!(pool.add(9, 0x0304) && pool.add(18, 2));
    let mut bytes = [0; 72];
    bytes[..2].copy_from_slice(&[0x04, 0x03]);
    bytes[8] = 9;
    bytes[16] = 2;
    bytes[24] = 18;
    bytes[64] = 2;
    assert_eq!(pool.as_bytes(), bytes);
}

#[test]
fn bad_properties_are_refused() {
    let parse = |change: fn(&mut HugetlbMemfdSer)| {
        let mut ser = file(4);
        change(&mut ser);
        HugetlbMemfd::parse(&ser).err()
    };
    assert_eq!(parse(|_| ()), None);
    assert_eq!(parse(|ser| ser.flags = 1), None);
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
    assert_eq!(parse(|ser| ser.order = 0), Some(FormatError::BadOrder));
    assert_eq!(parse(|ser| ser.order = 64), Some(FormatError::BadOrder));
    // More pages than in the file, and than entries in the array.
    assert_eq!(parse(|ser| ser.nr_folios = 5), Some(FormatError::BadCount));
    assert_eq!(
        parse(|ser| ser.folios.total_pages = 0),
        Some(FormatError::BadCount)
    );
    // The last page need not be full.
    assert_eq!(parse(|ser| ser.size -= 4096), None);
    assert_eq!(
        parse(|ser| ser.size -= NR * 4096),
        Some(FormatError::BadCount)
    );
}

#[test]
fn pages_have_their_own_place_and_the_right_size() {
    let record = |index| Record {
        pfn: 5,
        index,
        uptodate: true,
    };
    let mut pages = HugetlbMemfd::parse(&file(4)).unwrap().layout();
    assert_eq!(pages.admit(&record(0), 1), Err(FormatError::BadOrder));
    assert_eq!(pages.admit(&record(0), 2 * NR), Err(FormatError::BadOrder));
    assert_eq!(pages.admit(&record(1), NR), Err(FormatError::BadIndex));
    assert_eq!(pages.admit(&record(NR), NR), Ok(()));
    assert_eq!(pages.admit(&record(NR), NR), Err(FormatError::BadIndex));
    assert_eq!(pages.admit(&record(4 * NR), NR), Err(FormatError::BadIndex));
    let empty = Record {
        uptodate: false,
        ..record(3 * NR)
    };
    assert_eq!(pages.admit(&empty, NR), Err(FormatError::NoContent));
    assert_eq!(pages.admit(&record(3 * NR), NR), Ok(()));
    assert_eq!(
        parse_entry(&FolioSer::default()),
        Err(FormatError::BadIndex)
    );
}

#[test]
fn the_pool_is_counted() {
    let mut pool = HugetlbSer::default();
    let sizes = |pool: &HugetlbSer| pool.parse().unwrap().collect::<Vec<_>>();
    assert!(sizes(&pool).is_empty());
    assert!(pool.add(9, 3) && pool.add(18, 1) && pool.add(9, 4));
    assert_eq!(sizes(&pool), [(9, 7), (18, 1)]);
    pool.remove(9, 3);
    assert_eq!(sizes(&pool), [(9, 4), (18, 1)]);
    assert!(pool.add(4, 1) && pool.add(5, 1) && !pool.add(6, 1) && pool.add(5, 1));
    assert_eq!(sizes(&pool).len(), HugetlbSer::SIZES);

    let parse = |bytes: &[u8; 72]| {
        let ser = HugetlbSer::read_from_bytes(bytes).unwrap();
        ser.parse().map(|sizes| sizes.count())
    };
    let mut bytes = [0; 72];
    bytes[64] = 5;
    assert_eq!(parse(&bytes), Err(FormatError::BadCount));
    bytes[64] = 2;
    assert_eq!(parse(&bytes), Err(FormatError::BadOrder));
    (bytes[8], bytes[24]) = (9, 9);
    assert_eq!(parse(&bytes), Err(FormatError::BadOrder), "twice");
    bytes[24] = 99;
    assert_eq!(parse(&bytes), Err(FormatError::BadOrder));
    bytes[24] = 18;
    assert_eq!(parse(&bytes), Ok(2));
}

/// No bytes may cause a panic.
#[test]
fn random_bytes() {
    let mut random = Random::new();
    for _ in 0..300_000 {
        let mut words = [0u64; 9];
        for word in &mut words {
            // Small numbers as well: otherwise no input would be accepted.
            *word = random.next() >> (random.next() % 64);
        }
        if let Ok(sizes) = HugetlbSer::read_from_bytes(words.as_bytes())
            .unwrap()
            .parse()
        {
            assert!(sizes.count() <= HugetlbSer::SIZES);
        }
        let ser = HugetlbMemfdSer::read_from_bytes(words[..6].as_bytes()).unwrap();
        let Ok(memfd) = HugetlbMemfd::parse(&ser) else {
            continue;
        };
        assert!(memfd.size <= i64::MAX as u64 && memfd.nr_folios <= ser.folios.capacity());
        let mut layout = memfd.layout();
        for _ in 0..4 {
            let entry = [random.next(), random.next() >> (random.next() % 64)];
            if let Ok(record) = parse_entry(&FolioSer::read_from_bytes(entry.as_bytes()).unwrap()) {
                let _ = layout.admit(&record, 1 << (random.next() % 20));
            }
        }
    }
}
