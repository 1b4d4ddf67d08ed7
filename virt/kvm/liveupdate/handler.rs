// SPDX-License-Identifier: GPL-2.0

//! The handler of files of VMs.

use crate::{
    abi::VmSer,
    ops::{
        is_vm,
        new_vm,
        vm_type, //
    }, //
};
use kernel::{
    bindings,
    fs::File,
    kho::Claimed,
    liveupdate::{
        session::{
            IncomingSession,
            OutgoingSession, //
        },
        FileHandler,
        RetrieveError, //
    },
    prelude::*,
    sync::aref::ARef, //
};

static_assert!(size_of::<VmSer>() == size_of::<bindings::kvm_vm_luo_ser>());
static_assert!(
    core::mem::offset_of!(VmSer, flags) == core::mem::offset_of!(bindings::kvm_vm_luo_ser, flags)
);

pub(crate) struct Vm;

kernel::builtin_file_handler!(Vm);

#[vtable]
impl FileHandler for Vm {
    const COMPATIBLE: &'static CStr = c"kvm-vm-v1";

    type Ser = VmSer;
    // There is nothing to wait for.
    type Prepared = ();
    type Outgoing = ();
    type Incoming = Claimed<VmSer>;

    fn can_preserve(&self, file: &File) -> bool {
        is_vm(file)
    }

    /// Errors: EOPNOTSUPP (a VM that is protected from the host), EIO (one that has failed).
    fn preserve(
        &self,
        file: &File,
        _prepared: &mut (),
        ser: &mut VmSer,
        _session: &OutgoingSession<'_>,
    ) -> Result {
        ser.kind = vm_type(file)?;
        Ok(())
    }

    fn understands(ser: &VmSer) -> Result {
        ser.parse().map(drop).map_err(|_| EOPNOTSUPP)
    }

    fn adopt(&self, ser: Claimed<VmSer>) -> Claimed<VmSer> {
        ser
    }

    /// Errors: ENODEV (KVM is not loaded yet), and those of creating a VM. Permanent: EOPNOTSUPP
    /// (malformed data).
    fn retrieve(
        &self,
        incoming: &mut Claimed<VmSer>,
        _session: &IncomingSession<'_>,
    ) -> Result<ARef<File>, RetrieveError> {
        let unknown = RetrieveError::Permanent(EOPNOTSUPP);
        let kind = incoming.parse().map_err(|_| unknown)?;
        Ok(new_vm(kind)?)
    }
}
