// SPDX-License-Identifier: GPL-2.0

//! The format of files of vfio-pci.

use super::{random::Random, vfio_abi::*};
use zerocopy::{FromBytes, IntoBytes};

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
        _pad: 0,
        config: 0x1000,
        memories,
    }
}

#[test]
fn golden_bytes() {
    let mut ser = file();
    (ser.domain, ser.bdf, ser.config) = (0x0203, 0x0408, 0xabc000);
    let mut bytes = [0; 24 + 8 * MAX_MEMORIES];
    bytes[..2].copy_from_slice(&[0x03, 0x02]);
    bytes[4..6].copy_from_slice(&[0x08, 0x04]);
    bytes[6] = 1;
    bytes[9] = 0x10;
    bytes[10] = 2;
    bytes[17..19].copy_from_slice(&[0xc0, 0xab]);
    bytes[24] = 7;
    bytes[32] = 9;
    assert_eq!(ser.as_bytes(), bytes);
}

#[test]
fn a_sane_file_is_accepted() {
    let ser = file();
    let vfio = VfioPci::parse(&ser).unwrap();
    assert_eq!(
        vfio,
        VfioPci {
            reset_works: true,
            cfg_size: 4096,
            memories: &[7, 9],
        }
    );
}

#[test]
fn bad_properties_are_refused() {
    let parse = |change: fn(&mut VfioPciSer)| {
        let mut ser = file();
        change(&mut ser);
        VfioPci::parse(&ser).err()
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
}

#[test]
fn any_bytes_are_parsed_or_refused() {
    let mut random = Random::new();
    for _ in 0..100_000 {
        let mut bytes = [0; 24 + 8 * MAX_MEMORIES];
        bytes.fill_with(|| random.next() as u8);
        // Mostly valid, so that the parser gets further.
        bytes[6..16].copy_from_slice(&[random.next() as u8 & 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        bytes[10] = random.next() as u8 & 63;
        let ser = VfioPciSer::read_from_bytes(&bytes).unwrap();
        if let Ok(vfio) = VfioPci::parse(&ser) {
            assert!(vfio.memories.len() <= MAX_MEMORIES);
            assert!(usize::from(vfio.cfg_size) <= CONFIG);
        } else {
            assert!(usize::from(ser.nr_memories) > MAX_MEMORIES);
        }
    }
}
