// SPDX-License-Identifier: GPL-2.0

//! A VM, and a guest_memfd with its array of folios.

use crate::{
    guest_memfd_abi::{GuestMemfd, GuestMemfdSer},
    hugetlb::folios,
    input::Input,
    kvm_abi::VmSer,
    memfd::array,
    memfd_abi::pages,
};

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let vm = VmSer {
        kind: input.number(),
        flags: input.number(),
    };
    if let Ok(kind) = vm.parse() {
        assert_eq!((kind, vm.flags), (VmSer::DEFAULT, 0));
    }
    let ser = GuestMemfdSer {
        size: input.number(),
        flags: input.number(),
        vm_token: input.number(),
        nr_folios: input.number(),
        folios: array(&mut input),
    };
    if let Ok(memfd) = GuestMemfd::parse(&ser) {
        assert_eq!((memfd.size, memfd.flags), (ser.size, ser.flags));
        assert!(memfd.size != 0 && memfd.size <= i64::MAX as u64 && memfd.size % 4096 == 0);
        assert!(memfd.flags == 2 || memfd.flags == 3);
        assert!(memfd.nr_folios <= ser.folios.capacity());
        assert!(memfd.nr_folios <= pages(memfd.size));
        folios(&mut input, memfd.layout(), pages(memfd.size), 0, |entry| {
            entry.parse().ok().flatten()
        });
    }
}
