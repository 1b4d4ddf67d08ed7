// SPDX-License-Identifier: GPL-2.0

//! The format of files of vfio-pci.

use super::{random::Random, vfio_abi::*};
use std::collections::HashSet;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

fn range(memory: u64, start: u64, end: u64) -> RangeSer {
    RangeSer { memory, start, end }
}

/// The state of a device to which a part of each file is mapped.
fn state() -> Box<StateSer> {
    let mut state = StateSer::new_box_zeroed().unwrap();
    state.config[..2].copy_from_slice(&[0x86, 0x80]);
    state.ranges[0] = range(0, 0, 0xa0000);
    state.ranges[1] = range(1, 0x100000, 0x200000);
    state
}

/// A file of a device with PCI Express and memory of two files.
fn file() -> VfioPciSer {
    let mut memories = [0; MAX_MEMORIES];
    memories[..2].copy_from_slice(&[7, 9]);
    VfioPciSer {
        domain: 0,
        bdf: 0x0100,
        flags: VfioPciSer::RESET_WORKS,
        cfg_size: 4096,
        nr_memories: 2,
        nr_ranges: 2,
        _pad: 0,
        state: 0x1000,
        memories,
    }
}

#[test]
fn golden_bytes() {
    let mut ser = file();
    (ser.domain, ser.bdf, ser.state) = (0x0203, 0x0408, 0xabc000);
    let mut bytes = [0; 24 + 8 * MAX_MEMORIES];
    bytes[..2].copy_from_slice(&[0x03, 0x02]);
    bytes[4..6].copy_from_slice(&[0x08, 0x04]);
    bytes[6] = 1;
    bytes[9] = 0x10;
    bytes[10] = 2;
    bytes[12] = 2;
    bytes[17..19].copy_from_slice(&[0xc0, 0xab]);
    bytes[24] = 7;
    bytes[32] = 9;
    assert_eq!(ser.as_bytes(), bytes);

    let mut bytes = [0; 8192];
    bytes[..2].copy_from_slice(&[0x86, 0x80]);
    bytes[CONFIG + 18] = 0xa;
    bytes[CONFIG + 24] = 1;
    bytes[CONFIG + 24 + 10] = 0x10;
    bytes[CONFIG + 24 + 18] = 0x20;
    assert_eq!(state().as_bytes(), bytes);
}

#[test]
fn a_sane_file_is_accepted() {
    let (ser, state) = (file(), state());
    let vfio = VfioPci::parse(&ser, &state).unwrap();
    assert_eq!(
        vfio,
        VfioPci {
            reset_works: true,
            cfg_size: 4096,
            config: &state.config,
            memories: &[7, 9],
            ranges: &[range(0, 0, 0xa0000), range(1, 0x100000, 0x200000)],
        }
    );
}

#[test]
fn bad_properties_are_refused() {
    let parse = |change: fn(&mut VfioPciSer)| {
        let mut ser = file();
        change(&mut ser);
        VfioPci::parse(&ser, &state()).err()
    };
    assert_eq!(parse(|_| ()), None);
    assert_eq!(parse(|ser| ser.flags = 2), Some(FormatError::UnknownFlags));
    assert_eq!(parse(|ser| ser._pad = 1), Some(FormatError::UnknownFlags));
    assert_eq!(parse(|ser| ser.cfg_size = 0), Some(FormatError::BadSize));
    assert_eq!(parse(|ser| ser.cfg_size = 257), Some(FormatError::BadSize));
    assert_eq!(
        parse(|ser| ser.nr_memories = MAX_MEMORIES as u16 + 1),
        Some(FormatError::BadCount)
    );
    assert_eq!(parse(|ser| ser.cfg_size = 256), None);
    assert_eq!(
        parse(|ser| ser.nr_ranges = MAX_RANGES as u16 + 1),
        Some(FormatError::BadCount)
    );
    assert_eq!(parse(|ser| ser.nr_ranges = 0), None);
    // The third range is empty; the second one has no file.
    assert_eq!(parse(|ser| ser.nr_ranges = 3), Some(FormatError::BadRange));
    assert_eq!(
        parse(|ser| ser.nr_memories = 1),
        Some(FormatError::BadRange)
    );
    let mut state = state();
    state.ranges[..2].reverse();
    let disordered = VfioPci::parse(&file(), &state).err();
    assert_eq!(disordered, Some(FormatError::BadRange));
}

/// The sets of pages of some random ranges, also if they are joined or compared.
#[test]
fn ranges_are_joined_and_compared() {
    const PAGES: u64 = 24;

    fn pages(ranges: &[RangeSer]) -> HashSet<(u64, u64)> {
        let pages = |range: &RangeSer| {
            let memory = range.memory;
            (range.start..range.end).map(move |page| (memory, page))
        };
        ranges.iter().flat_map(pages).collect()
    }

    let mut random = Random::new();
    let mut covered = 0;
    for _ in 0..20_000 {
        let mut some = |count: u64| {
            let mut ranges: Vec<_> = (0..random.next() % count)
                .map(|_| {
                    let start = random.next() % PAGES;
                    let end = start + 1 + random.next() % (PAGES - start);
                    range(random.next() % 2, start, end)
                })
                .collect();
            ranges.sort_unstable();
            ranges
        };
        let (mapped, before) = (some(12), some(4));
        let (mut ser, mut state) = (file(), state());
        ser.set_ranges(&mut state, before.iter().copied()).unwrap();
        let wanted = VfioPci::parse(&ser, &state).unwrap().ranges;
        assert_eq!(pages(wanted), pages(&before));
        for pair in wanted.windows(2) {
            assert!(pair[0].memory < pair[1].memory || pair[0].end < pair[1].start);
        }
        let is_covered = pages(&before).is_subset(&pages(&mapped));
        assert_eq!(
            covers(mapped.iter().copied(), wanted),
            is_covered,
            "{mapped:?} {wanted:?}"
        );
        covered += usize::from(is_covered && !wanted.is_empty());
    }
    assert!(covered > 100);
}

#[test]
fn too_many_ranges_are_refused() {
    let (mut ser, mut state) = (file(), state());
    let apart = |count| (0..count).map(|n| range(0, 2 * n, 2 * n + 1));
    let most = MAX_RANGES as u64;
    assert_eq!(ser.set_ranges(&mut state, apart(most)), Some(()));
    assert_eq!(usize::from(ser.nr_ranges), MAX_RANGES);
    assert_eq!(ser.set_ranges(&mut state, apart(most + 1)), None);
    // Ranges without gaps between them are one.
    let adjacent = (0..most * 2).map(|n| range(0, n, n + 1));
    assert_eq!(ser.set_ranges(&mut state, adjacent), Some(()));
    assert_eq!((ser.nr_ranges, state.ranges[0]), (1, range(0, 0, most * 2)));
}

#[test]
fn any_bytes_are_parsed_or_refused() {
    let mut random = Random::new();
    let mut state = state();
    for _ in 0..100_000 {
        let mut bytes = [0; 24 + 8 * MAX_MEMORIES];
        bytes.fill_with(|| random.next() as u8);
        // Mostly valid, so that the parser gets further.
        bytes[6..16].copy_from_slice(&[random.next() as u8 & 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        bytes[10] = random.next() as u8 & 63;
        bytes[12] = random.next() as u8 & 3;
        state.ranges[1] = range(random.next() & 63, random.next() & 7, random.next() & 7);
        let ser = VfioPciSer::read_from_bytes(&bytes).unwrap();
        match VfioPci::parse(&ser, &state) {
            Ok(vfio) => {
                assert!(vfio.memories.len() <= MAX_MEMORIES);
                assert!(usize::from(vfio.cfg_size) <= CONFIG);
                assert_eq!(vfio.ranges.len(), usize::from(ser.nr_ranges));
            }
            Err(FormatError::BadRange) => assert!(ser.nr_ranges != 0),
            Err(err) => {
                assert_eq!(err, FormatError::BadCount);
                assert!(usize::from(ser.nr_memories) > MAX_MEMORIES);
            }
        }
    }
}
