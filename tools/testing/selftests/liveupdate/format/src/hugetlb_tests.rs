// SPDX-License-Identifier: GPL-2.0

//! The formats of memfds of huge pages.

use super::{hugetlb_abi::*, memfd_abi::*, random::Random};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const ORDER: u32 = 9;
const NR: u64 = 1 << ORDER;

/// The size of [`HugetlbSer`], in bytes.
const POOL_SIZE: usize = 1016;

fn kind(order: u8, node: u16) -> Kind {
    Kind { order, node }
}

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

    let mut pool = HugetlbSer::new_zeroed();
    assert!(pool.add(kind(9, 0x0201), 0x0304) && pool.add(kind(18, 1), 2));
    let mut bytes = [0; POOL_SIZE];
    bytes[0] = 2;
    bytes[8..10].copy_from_slice(&[0x04, 0x03]);
    bytes[16..19].copy_from_slice(&[0x01, 0x02, 9]);
    bytes[24] = 2;
    bytes[32] = 1;
    bytes[34] = 18;
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
    let mut pool = HugetlbSer::new_zeroed();
    let counts = |pool: &HugetlbSer| pool.parse().unwrap().collect::<Vec<_>>();
    assert!(counts(&pool).is_empty());
    assert!(pool.add(kind(9, 0), 3) && pool.add(kind(18, 0), 1));
    assert!(pool.add(kind(9, 1), 5) && pool.add(kind(9, 0), 4));
    assert_eq!(
        counts(&pool),
        [(kind(9, 0), 7), (kind(18, 0), 1), (kind(9, 1), 5)]
    );
    pool.remove(kind(9, 0), 3);
    pool.remove(kind(9, 2), 3);
    assert_eq!(counts(&pool)[0], (kind(9, 0), 4));
    // A kind without pages needs no entry.
    pool.remove(kind(9, 0), 4);
    assert_eq!(counts(&pool), [(kind(9, 1), 5), (kind(18, 0), 1)]);

    let mut node = 2;
    while pool.add(kind(9, node), 1) {
        node += 1;
    }
    assert_eq!(counts(&pool).len(), HugetlbSer::COUNTS);
    assert!(pool.add(kind(9, 5), 1) && !pool.add(kind(9, node), 1));
    pool.remove(kind(9, node - 1), 1);
    assert!(pool.add(kind(9, node), 1));
}

#[test]
fn bad_numbers_of_pages_are_refused() {
    let parse = |bytes: &[u8; POOL_SIZE]| {
        let ser = HugetlbSer::read_from_bytes(bytes).unwrap();
        ser.parse().map(|counts| counts.count())
    };
    let mut bytes = [0; POOL_SIZE];
    bytes[0] = 64;
    assert_eq!(parse(&bytes), Err(FormatError::BadCount));
    bytes[..8].fill(0xff);
    assert_eq!(parse(&bytes), Err(FormatError::BadCount));
    bytes[..8].fill(0);
    bytes[0] = 2;
    assert_eq!(parse(&bytes), Err(FormatError::BadOrder));
    (bytes[18], bytes[34]) = (9, 9);
    assert_eq!(parse(&bytes), Err(FormatError::BadOrder), "twice");
    bytes[32] = 1;
    assert_eq!(parse(&bytes), Ok(2));
    bytes[34] = 99;
    assert_eq!(parse(&bytes), Err(FormatError::BadOrder));
}

/// No bytes may cause a panic.
#[test]
fn random_bytes() {
    let mut random = Random::new();
    for _ in 0..100_000 {
        let mut words = [0u64; POOL_SIZE / 8];
        for word in &mut words {
            // Small numbers as well: otherwise no input would be accepted.
            *word = random.next() >> (random.next() % 64);
        }
        words[0] %= 80;
        if let Ok(counts) = HugetlbSer::read_from_bytes(words.as_bytes())
            .unwrap()
            .parse()
        {
            assert!(counts.count() <= HugetlbSer::COUNTS);
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
