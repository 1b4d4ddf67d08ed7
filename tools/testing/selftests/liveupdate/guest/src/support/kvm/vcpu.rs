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

/// A program in page 0 of the guest, in real mode.
struct Program<'a> {
    code: &'a [u8],
    /// The address of the program, and the stack pointer.
    start: usize,
    stack: u64,
    /// The start of the data segment.
    data: u64,
}

/// Why a guest has stopped.
#[derive(PartialEq, Eq, Debug)]
enum Stop {
    Halted,
    /// The guest has stored a byte to an address without memory.
    Stored(u64, u8),
    Other(String),
}

impl Stop {
    fn expect(self, wanted: &Self) -> Result {
        match &self == wanted {
            true => Ok(()),
            false => Err(Failure::new(format!("the guest has stopped: {self:?}"))),
        }
    }
}

impl Vm {
    /// Lets the guest store a byte at the start of page `page`, which must be below 16. The vcpu has the
    /// number of the page, since it stays until the end of the VM.
    ///
    /// Fails with the error of `KVM_RUN`.
    pub fn store(&self, map: &mut Map, page: u8, byte: u8) -> Result<io::Result<()>> {
        let program = Program {
            // mov byte [page << 12], byte; hlt
            code: &[0xc6, 0x06, 0x00, page << 4, byte, 0xf4],
            start: 0,
            stack: 0,
            data: 0,
        };
        match self.run(map, page.into(), &program)? {
            Ok(stop) => stop.expect(&Stop::Halted).map(Ok),
            Err(failed) => Ok(Err(failed)),
        }
    }

    /// Lets the guest divide by zero, and store a byte to `address`, where it has no memory, in the
    /// handler of the exception.
    pub fn store_in_handler(&self, map: &mut Map, address: u64) -> Result {
        const START: u16 = 0x400;
        const BYTE: u8 = 0x5a;
        let code = [
            0x31, 0xc9, // xor cx, cx
            0xf7, 0xf1, // div cx
            0xc6, 0x06, 0x00, 0x00, BYTE, // mov byte [0], BYTE
            0xf4, // hlt
        ];
        // The handler of the exception is the code after the division.
        let handler = START + 4;
        map.page(0)[..2].copy_from_slice(&handler.to_le_bytes());
        map.page(0)[2..4].fill(0);
        let program = Program {
            code: &code,
            start: START.into(),
            stack: 0x1000,
            data: address,
        };
        let stop = self.run(map, 0, &program)?.at("KVM_RUN")?;
        stop.expect(&Stop::Stored(address, BYTE))
    }
}

#[cfg(target_arch = "x86_64")]
impl Vm {
    /// Runs a program until the guest stops, on a new vcpu. Fails with the error of `KVM_RUN`.
    fn run(&self, map: &mut Map, number: u64, program: &Program<'_>) -> Result<io::Result<Stop>> {
        let (start, end) = (program.start, program.start + program.code.len());
        map.page(0)[start..end].copy_from_slice(program.code);
        // QEMU loses flags of the first processor if that runs guests.
        let mut second = CpuSet::new();
        second.set(1);
        rustix::thread::sched_setaffinity(None, &second).at("sched_setaffinity")?;
        let vcpu = self.0.create_vcpu(number).map_err(error);
        let mut vcpu = vcpu.at("KVM_CREATE_VCPU")?;
        let mut sregs = vcpu.get_sregs().map_err(error).at("KVM_GET_SREGS")?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        sregs.ds.base = program.data;
        vcpu.set_sregs(&sregs).map_err(error).at("KVM_SET_SREGS")?;
        let mut regs = vcpu.get_regs().map_err(error).at("KVM_GET_REGS")?;
        (regs.rip, regs.rsp, regs.rflags) = (start as u64, program.stack, 2);
        vcpu.set_regs(&regs).map_err(error).at("KVM_SET_REGS")?;
        Ok(match vcpu.run() {
            Ok(VcpuExit::Hlt) => Ok(Stop::Halted),
            Ok(VcpuExit::MmioWrite(address, &[byte])) => Ok(Stop::Stored(address, byte)),
            Ok(other) => Ok(Stop::Other(format!("{other:?}"))),
            Err(failed) => Err(error(failed)),
        })
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Vm {
    /// The programs of the guest are for x86.
    fn run(&self, _: &mut Map, _: u64, _: &Program<'_>) -> Result<io::Result<Stop>> {
        Err(Failure::skip(
            "there is no program for guests of this architecture",
        ))
    }
}
