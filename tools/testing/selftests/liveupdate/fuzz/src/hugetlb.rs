// SPDX-License-Identifier: GPL-2.0

//! A memfd of huge pages with its array of folios, and the number of pages of all.

use crate::{
    hugetlb_abi::{parse_entry, CountSer, HugetlbMemfd, HugetlbMemfdSer, HugetlbSer, Kind},
    input::Input,
    memfd::array,
    memfd_abi::{pages, FolioSer, FormatError, Record, UniformLayout},
};
use zerocopy::{FromBytes, FromZeros};

/// Admits folios of a file of `limit` pages. All folios must have `1 << wanted` pages.
pub(crate) fn folios(
    input: &mut Input<'_>,
    mut layout: UniformLayout,
    limit: u64,
    wanted: u32,
    parse: impl Fn(&FolioSer) -> Option<Record>,
) {
    let mut taken: Vec<u64> = Vec::new();

    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let (pfn, flags, index) = (input.number(), u64::from(input.byte()), input.number());
        let order = match input.byte() {
            other @ 0..=22 => u32::from(other),
            _ => wanted,
        };
        let Some(record) = parse(&FolioSer::new(pfn, flags, index)) else {
            continue;
        };
        assert!(record.pfn != 0 && record.index == index);
        let before = layout;
        match layout.admit(&record, 1 << order) {
            Ok(()) => {
                assert_eq!(order, wanted);
                assert!(record.uptodate && index < limit);
                assert_eq!(index % (1 << order), 0);
                assert!(taken.iter().all(|other| *other < index));
                taken.push(index);
            }
            Err(err) => {
                let reason = match err {
                    FormatError::BadOrder => order != wanted,
                    FormatError::NoContent => !record.uptodate,
                    FormatError::BadIndex => true,
                    _ => false,
                };
                assert!(reason, "{err:?}");
                assert_eq!(layout, before);
            }
        }
    }
}

fn pool(input: &mut Input<'_>) {
    let mut ser = HugetlbSer::new_zeroed();
    // Otherwise, few inputs would have a valid number of entries.
    ser.nr_counts = (input.byte() % 68).into();
    for count in ser.counts.iter_mut().take(ser.nr_counts as usize) {
        if input.is_empty() {
            break;
        }
        let bytes: [u8; size_of::<CountSer>()] = input.array();
        *count = CountSer::read_from_bytes(&bytes).expect("any bytes are a structure");
    }
    let Ok(counts) = ser.parse() else {
        return;
    };
    let counts: Vec<_> = counts.collect();
    assert!(counts.len() <= HugetlbSer::COUNTS);
    for (n, (kind, _)) in counts.iter().enumerate() {
        assert!((1..=22).contains(&kind.order));
        assert!(counts[..n].iter().all(|(other, _)| other != kind));
    }
    let kind = Kind {
        order: input.byte() % 22 + 1,
        node: (input.byte() % 4).into(),
    };
    let more = input.number();
    let find = |ser: &HugetlbSer| {
        let mut counts = ser.parse().expect("one more kind is valid");
        counts.find(|(k, _)| *k == kind).map(|(_, nr)| nr)
    };
    let before = find(&ser);
    if ser.add(kind, more) {
        let after = before.unwrap_or(0).saturating_add(more);
        assert_eq!(find(&ser), Some(after));
        ser.remove(kind, after);
        assert_eq!(find(&ser), None);
    } else {
        assert_eq!((before, counts.len()), (None, HugetlbSer::COUNTS));
    }
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    pool(&mut input);
    let ser = HugetlbMemfdSer {
        pos: input.number(),
        size: input.number(),
        seals: input.number() as u32,
        order: input.byte().into(),
        flags: input.byte().into(),
        nr_folios: input.number(),
        folios: array(&mut input),
    };
    if let Ok(memfd) = HugetlbMemfd::parse(&ser) {
        assert_eq!(ser.flags, u16::from(memfd.dma_target));
        assert_eq!((memfd.size, memfd.pos), (ser.size, ser.pos));
        assert!(memfd.size <= i64::MAX as u64 && memfd.pos <= i64::MAX as u64);
        assert_eq!(memfd.seals.bits(), ser.seals);
        assert_eq!(memfd.order, u32::from(ser.order));
        assert!((1..=22).contains(&memfd.order));
        assert!(memfd.nr_folios <= ser.folios.capacity());
        assert!(memfd.nr_folios <= pages(memfd.size).div_ceil(1 << memfd.order));
        let (layout, limit) = (memfd.layout(), pages(memfd.size));
        folios(&mut input, layout, limit, memfd.order, |entry| {
            parse_entry(entry).ok()
        });
    }
}
