// SPDX-License-Identifier: GPL-2.0

//! A file of vfio-pci.

use crate::{
    input::Input,
    vfio_abi::{FormatError, VfioPci, VfioPciSer, CONFIG, MAX_MEMORIES},
};

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let ser = VfioPciSer {
        domain: input.number() as u32,
        bdf: input.half(),
        flags: input.byte().into(),
        cfg_size: input.number() as u16,
        nr_memories: input.number() as u16,
        _pad: input.byte().into(),
        config: input.number(),
        memories: core::array::from_fn(|_| input.number()),
    };
    match VfioPci::parse(&ser) {
        Ok(vfio) => {
            assert_eq!(ser.flags, u16::from(vfio.reset_works));
            assert_eq!((vfio.cfg_size, ser._pad), (ser.cfg_size, 0));
            assert!(usize::from(vfio.cfg_size) <= CONFIG);
            assert_eq!(vfio.memories, &ser.memories[..usize::from(ser.nr_memories)]);
        }
        Err(err) => {
            let reason = match err {
                FormatError::UnknownFlags => ser.flags > 1 || ser._pad != 0,
                FormatError::BadSize => ser.cfg_size != 256 && ser.cfg_size != 4096,
                FormatError::BadCount => usize::from(ser.nr_memories) > MAX_MEMORIES,
            };
            assert!(reason, "{err:?}");
        }
    }
}
