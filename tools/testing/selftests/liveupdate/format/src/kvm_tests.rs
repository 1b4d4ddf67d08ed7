// SPDX-License-Identifier: GPL-2.0

//! The formats of VMs and of guest_memfds.

use super::{guest_memfd_abi::*, kvm_abi::*, memfd_abi::*, random::Random};
use zerocopy::{FromBytes, IntoBytes};

/// A file of `pages` pages, none of which is a hole.
fn file(pages: u64) -> GuestMemfdSer {
    GuestMemfdSer {
        size: pages * 4096,
        flags: 3,
        vm_token: 7,
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
    ser.folios.first = 0xabc000;
    let mut bytes = [0; 48];
    bytes[1] = 0x30;
    bytes[8] = 3;
    bytes[16] = 7;
    bytes[24] = 3;
    bytes[33..35].copy_from_slice(&[0xc0, 0xab]);
    bytes[40] = 1;
    bytes[44] = 1;
    assert_eq!(ser.as_bytes(), bytes);
    assert_eq!(VmSer::default().as_bytes(), [0; 16]);
}

#[test]
fn only_ordinary_vms_are_known() {
    let vm = |kind, flags| VmSer { kind, flags }.parse();
    assert_eq!(vm(0, 0), Ok(0));
    assert_eq!(vm(1, 0), Err(Unknown));
    assert_eq!(vm(0, 1), Err(Unknown));
}

#[test]
fn bad_properties_are_refused() {
    let parse = |change: fn(&mut GuestMemfdSer)| {
        let mut ser = file(4);
        change(&mut ser);
        GuestMemfd::parse(&ser).err()
    };
    assert_eq!(parse(|_| ()), None);
    // It cannot be mapped.
    assert_eq!(parse(|ser| ser.flags = 2), None);
    let flags = Some(FormatError::UnknownFlags);
    // Not shared, and unknown.
    assert_eq!(parse(|ser| ser.flags = 1), flags);
    assert_eq!(parse(|ser| ser.flags = 0), flags);
    assert_eq!(parse(|ser| ser.flags = 7), flags);
    assert_eq!(parse(|ser| ser.flags = 3 | (1 << 63)), flags);
    let size = Some(FormatError::BadSize);
    assert_eq!(parse(|ser| ser.size = 0), size);
    assert_eq!(parse(|ser| ser.size += 1), size);
    assert_eq!(parse(|ser| ser.size = 1 << 63), size);
    // More folios than pages, and than entries of the array.
    assert_eq!(parse(|ser| ser.nr_folios = 5), Some(FormatError::BadCount));
    assert_eq!(
        parse(|ser| ser.folios.total_pages = 0),
        Some(FormatError::BadCount)
    );
    assert_eq!(parse(|ser| ser.nr_folios = 0), None);
}

#[test]
fn folios_have_one_page_and_their_own_place() {
    let record = |index| Record {
        pfn: 5,
        index,
        uptodate: true,
    };
    let mut layout = GuestMemfd::parse(&file(4)).unwrap().layout();
    assert_eq!(layout.admit(&record(0), 2), Err(FormatError::BadOrder));
    assert_eq!(layout.admit(&record(0), 0), Err(FormatError::BadOrder));
    assert_eq!(layout.admit(&record(1), 1), Ok(()));
    assert_eq!(layout.admit(&record(1), 1), Err(FormatError::BadIndex));
    assert_eq!(layout.admit(&record(4), 1), Err(FormatError::BadIndex));
    let empty = Record {
        uptodate: false,
        ..record(3)
    };
    assert_eq!(layout.admit(&empty, 1), Err(FormatError::NoContent));
    assert_eq!(layout.admit(&record(3), 1), Ok(()));
}

/// No bytes may cause a panic.
#[test]
fn random_bytes() {
    let mut random = Random::new();
    let mut accepted = 0;
    for _ in 0..300_000 {
        let mut words = [0u64; 6];
        for word in &mut words {
            // Small numbers as well: otherwise no input would be accepted.
            *word = random.next() >> (random.next() % 64);
        }
        words[0] &= !0xfff;
        let ser = GuestMemfdSer::read_from_bytes(words.as_bytes()).unwrap();
        let Ok(memfd) = GuestMemfd::parse(&ser) else {
            continue;
        };
        accepted += 1;
        assert!(memfd.size <= i64::MAX as u64 && memfd.size % 4096 == 0 && memfd.size != 0);
        assert!(memfd.flags & !3 == 0 && memfd.flags & 2 != 0);
        assert!(memfd.nr_folios <= ser.folios.capacity() && memfd.nr_folios <= memfd.size / 4096);
    }
    assert!(accepted > 100, "only {accepted} inputs were accepted");
}
