// SPDX-License-Identifier: GPL-2.0

//! A file of vfio-pci.

use crate::{
    input::Input,
    vfio_abi::{
        covers, FormatError, RangeSer, StateSer, VfioPci, VfioPciSer, CONFIG, MAX_MEMORIES,
        MAX_RANGES,
    },
};
use zerocopy::FromZeros;

/// The number of ranges that are filled.
const FILLED: usize = 4;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let ser = VfioPciSer {
        domain: input.number() as u32,
        bdf: input.half(),
        flags: input.byte().into(),
        cfg_size: input.number() as u16,
        nr_memories: input.number() as u16,
        nr_ranges: input.number() as u16,
        _pad: input.byte().into(),
        state: input.number(),
        memories: core::array::from_fn(|_| input.number()),
    };
    let mut state = StateSer::new_box_zeroed().expect("there is memory");
    state.ranges[..FILLED].fill_with(|| RangeSer {
        memory: input.number(),
        start: input.number(),
        end: input.number(),
    });
    match VfioPci::parse(&ser, &state) {
        Ok(vfio) => {
            assert_eq!(ser.flags, u16::from(vfio.reset_works));
            assert_eq!((vfio.cfg_size, ser._pad), (ser.cfg_size, 0));
            assert!(usize::from(vfio.cfg_size) <= CONFIG);
            assert_eq!(vfio.memories, &ser.memories[..usize::from(ser.nr_memories)]);
            assert!(covers(vfio.ranges.iter().copied(), vfio.ranges));
        }
        Err(err) => {
            let reason = match err {
                FormatError::UnknownFlags => ser.flags > 1 || ser._pad != 0,
                FormatError::BadSize => ser.cfg_size != 256 && ser.cfg_size != 4096,
                FormatError::BadCount => {
                    usize::from(ser.nr_memories) > MAX_MEMORIES
                        || usize::from(ser.nr_ranges) > MAX_RANGES
                }
                FormatError::BadRange => {
                    let ranges = &state.ranges[..usize::from(ser.nr_ranges)];
                    let wrong = |range: &RangeSer| {
                        range.memory >= ser.nr_memories.into() || range.start >= range.end
                    };
                    ranges.iter().any(wrong) || !ranges.is_sorted()
                }
            };
            assert!(reason, "{err:?}");
        }
    }
}
