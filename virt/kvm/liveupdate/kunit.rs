// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of the format. The parser is also tested on the host, with random data.

#[kernel::macros::kunit_tests(kvm_vm_format)]
mod tests {
    use crate::abi::{
        Unknown,
        VmSer, //
    };

    #[test]
    fn only_usual_vms_are_accepted() {
        let vm = VmSer::default();
        assert_eq!(vm.parse(), Ok(VmSer::DEFAULT));
        assert_eq!(VmSer { kind: 1, ..vm }.parse(), Err(Unknown));
        assert_eq!(VmSer { flags: 1, ..vm }.parse(), Err(Unknown));
    }
}
