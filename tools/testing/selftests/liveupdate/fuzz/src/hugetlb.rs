// SPDX-License-Identifier: GPL-2.0

//! A memfd of huge pages with its array of folios, and the number of pages of all.

use crate::{
    hugetlb_abi::{parse_entry, HugetlbMemfd, HugetlbMemfdSer, HugetlbSer},
    input::Input,
    memfd::array,
    memfd_abi::{pages, FolioSer, FormatError},
};
use zerocopy::FromBytes;

fn folios(input: &mut Input<'_>, memfd: &HugetlbMemfd) {
    let mut layout = memfd.layout();
    let mut taken: Vec<u64> = Vec::new();
    let limit = pages(memfd.size);

    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let (pfn, flags, index) = (input.number(), u64::from(input.byte()), input.number());
        let order = match input.byte() {
            other @ 0..=22 => u32::from(other),
            _ => memfd.order,
        };
        let Ok(record) = parse_entry(&FolioSer::new(pfn, flags, index)) else {
            continue;
        };
        assert!(record.pfn != 0 && record.index == index);
        let before = layout;
        match layout.admit(&record, 1 << order) {
            Ok(()) => {
                assert_eq!(order, memfd.order);
                assert!(record.uptodate && index < limit);
                assert_eq!(index % (1 << order), 0);
                assert!(taken.iter().all(|other| *other < index));
                taken.push(index);
            }
            Err(err) => {
                let reason = match err {
                    FormatError::BadOrder => order != memfd.order,
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
    let bytes: [u8; size_of::<HugetlbSer>()] = input.array();
    let mut ser = HugetlbSer::read_from_bytes(&bytes).expect("any bytes are a structure");
    let Ok(sizes) = ser.parse() else {
        return;
    };
    let sizes: Vec<_> = sizes.collect();
    assert!(sizes.len() <= HugetlbSer::SIZES);
    for (n, (order, _)) in sizes.iter().enumerate() {
        assert!((1..=22).contains(order));
        assert!(sizes[..n].iter().all(|(other, _)| other != order));
    }
    let order = input.byte() % 23;
    let more = input.number();
    let known = sizes.iter().find(|(o, _)| *o == u32::from(order));
    if order != 0 && ser.add(order, more) {
        let now = ser.parse().expect("one more size is valid");
        let (_, nr) = now
            .into_iter()
            .find(|(o, _)| *o == u32::from(order))
            .expect("was added");
        assert_eq!(nr, known.map_or(0, |(_, nr)| *nr).saturating_add(more));
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
        folios(&mut input, &memfd);
    }
}
