// SPDX-License-Identifier: GPL-2.0

//! A processor of a virtual machine.

use super::{Map, Vm};
use crate::support::error::{Failure, Result};
use std::io;

#[cfg(target_arch = "x86_64")]
use super::error;
#[cfg(target_arch = "x86_64")]
use crate::support::error::At;
#[cfg(target_arch = "x86_64")]
use kvm_ioctls::VcpuExit;
#[cfg(target_arch = "x86_64")]
use rustix::thread::CpuSet;

#[cfg(target_arch = "x86_64")]
impl Vm {
    /// Lets the guest store a byte at the start of page `page`, which must be below 16. Its program is in
    /// page 0. The vcpu has the number of the page, since it stays until the end of the VM.
    ///
    /// Fails with the error of `KVM_RUN`.
    pub fn store(&self, map: &mut Map, page: u8, byte: u8) -> Result<io::Result<()>> {
        // mov byte [page << 12], byte; hlt
        map.page(0)[..6].copy_from_slice(&[0xc6, 0x06, 0x00, page << 4, byte, 0xf4]);
        // QEMU loses flags of the first processor if that runs guests.
        let mut second = CpuSet::new();
        second.set(1);
        rustix::thread::sched_setaffinity(None, &second).at("sched_setaffinity")?;
        let mut vcpu = self
            .0
            .create_vcpu(page.into())
            .map_err(error)
            .at("KVM_CREATE_VCPU")?;
        let mut sregs = vcpu.get_sregs().map_err(error).at("KVM_GET_SREGS")?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.set_sregs(&sregs).map_err(error).at("KVM_SET_SREGS")?;
        let mut regs = vcpu.get_regs().map_err(error).at("KVM_GET_REGS")?;
        (regs.rip, regs.rflags) = (0, 2);
        vcpu.set_regs(&regs).map_err(error).at("KVM_SET_REGS")?;
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => Ok(Ok(())),
            Ok(other) => Err(Failure::new(format!("the guest has stopped: {other:?}"))),
            Err(failed) => Ok(Err(error(failed))),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Vm {
    /// The program of the guest is one for x86.
    pub fn store(&self, _: &mut Map, _: u8, _: u8) -> Result<io::Result<()>> {
        Err(Failure::skip(
            "there is no program for guests of this architecture",
        ))
    }
}
