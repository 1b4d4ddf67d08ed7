// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Starts Linux in the guest, by its 32-bit boot protocol (Documentation/arch/x86/boot.rst).
//!
//! Live updates do not need this code: a guest that was handed over does not boot.

use crate::ram::Ram;
use kvm_bindings::{kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use linux_loader::{
    bootparam::{boot_e820_entry, boot_params},
    loader::{bzimage::BzImage, KernelLoader},
};
use liveupdate::luod::Result;
use std::{
    fs::{self, File},
    path::Path,
};
use vm_memory::{Bytes, GuestAddress};

/// Addresses in the RAM of a new guest.
const ZERO_PAGE: u64 = 0x7000;
const CMDLINE: u64 = 0x2_0000;
/// The last KiB of the low memory, where kernels search for [`mp_table`].
const MP_TABLE: u64 = 0x9_fc00;
const LOW_END: u64 = 0xa_0000;
const KERNEL: u64 = 0x10_0000;

/// The interrupt controllers, which KVM implements.
const IOAPIC: u32 = 0xfec0_0000;
const LAPIC: u32 = 0xfee0_0000;

/// Interrupts of the ISA bus.
const ISA_IRQS: u8 = 16;

/// Loads a kernel, and describes the machine for it.
///
/// # Errors
///
/// If a file cannot be read or is too large, or the kernel is not a bzImage.
pub fn load(ram: &Ram, cpus: u8, kernel: &Path, initrd: &Path, cmdline: &str) -> Result {
    let named = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let memory = &ram.memory;
    let mut image = File::open(kernel).map_err(|error| named(kernel, &error))?;
    let loaded = BzImage::load(memory, Some(GuestAddress(KERNEL)), &mut image, None)
        .map_err(|error| named(kernel, &error))?;
    let mut params = boot_params {
        hdr: loaded.setup_header.unwrap_or_default(),
        ..Default::default()
    };

    let disk = fs::read(initrd).map_err(|error| named(initrd, &error))?;
    let room = ram.size().checked_sub(disk.len() as u64);
    let at = room.ok_or("the initramfs is larger than the RAM")? & !0xfff;
    if at < loaded.kernel_end {
        return Err("the kernel and the initramfs are larger than the RAM".into());
    }
    memory.write_slice(&disk, GuestAddress(at))?;
    params.hdr.ramdisk_image = u32::try_from(at)?;
    params.hdr.ramdisk_size = u32::try_from(disk.len())?;

    let size = u32::try_from(cmdline.len())?;
    if size > params.hdr.cmdline_size {
        return Err("the command line of the guest is too long".into());
    }
    memory.write_slice(&[cmdline.as_bytes(), &[0]].concat(), GuestAddress(CMDLINE))?;
    params.hdr.cmd_line_ptr = u32::try_from(CMDLINE)?;
    // A loader without a number of its own.
    params.hdr.type_of_loader = 0xff;

    let ranges = [
        (0, MP_TABLE, 1),
        (MP_TABLE, LOW_END - MP_TABLE, 2),
        (KERNEL, ram.size() - KERNEL, 1),
    ];
    for (entry, (addr, size, kind)) in params.e820_table.iter_mut().zip(ranges) {
        *entry = boot_e820_entry {
            addr,
            size,
            type_: kind,
        };
        params.e820_entries += 1;
    }
    memory.write_obj(params, GuestAddress(ZERO_PAGE))?;
    memory.write_slice(&mp_table(cpus)?, GuestAddress(MP_TABLE))?;
    Ok(())
}

/// A description of processors and interrupts (Intel's MultiProcessor Specification 1.4).
fn mp_table(cpus: u8) -> Result<Vec<u8>> {
    let ioapic_id = cpus;
    let mut entries = Vec::new();
    for id in 0..cpus {
        // Enabled, and for the first one: the boot processor. Family 6, with an APIC.
        let flags = if id == 0 { 3 } else { 1 };
        entries.extend([0, id, 0x14, flags, 0, 6, 0, 0, 0, 2, 0, 0]);
        entries.extend([0; 8]);
    }
    entries.extend(*b"\x01\x00ISA   ");
    entries.extend([2, ioapic_id, 0x11, 1]);
    entries.extend(IOAPIC.to_le_bytes());
    for irq in 0..ISA_IRQS {
        entries.extend([3, 0, 0, 0, 0, irq, ioapic_id, irq]);
    }
    // The old interrupt controllers and NMIs are connected to the pins of the local APICs.
    entries.extend([4, 3, 0, 0, 0, 0, 0, 0]);
    entries.extend([4, 1, 0, 0, 0, 0, 0xff, 1]);

    let count = u16::from(cpus) + 2 + u16::from(ISA_IRQS) + 2;
    let mut table = Vec::new();
    table.extend(*b"PCMP");
    table.extend(u16::try_from(44 + entries.len())?.to_le_bytes());
    table.extend([4, 0]);
    table.extend(*b"LUO     EXAMPLE     ");
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend(LAPIC.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    set_checksum(&mut table, 7);

    let mut pointer = b"_MP_".to_vec();
    pointer.extend(u32::try_from(MP_TABLE + 16)?.to_le_bytes());
    pointer.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut pointer, 10);
    pointer.append(&mut table);
    Ok(pointer)
}

/// Makes the sum of all bytes 0, by the byte at `at`, which is 0 before.
fn set_checksum(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[at] = sum.wrapping_neg();
}

/// Sets the registers of the first processor to what the kernel expects: protected mode without
/// paging, and segments from 0 to 4 GiB. The others wait until the kernel starts them.
///
/// # Errors
///
/// If KVM refuses them.
pub fn set_registers(vcpu: &VcpuFd) -> Result {
    let segment = |selector, kind| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let data = segment(0x18, 3);
    let sregs = vcpu.get_sregs()?;
    vcpu.set_sregs(&kvm_sregs {
        cs: segment(0x10, 11),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        cr0: sregs.cr0 | 1,
        ..sregs
    })?;
    vcpu.set_regs(&kvm_regs {
        rip: KERNEL,
        rsi: ZERO_PAGE,
        rflags: 2,
        ..Default::default()
    })?;
    let mut lapic = vcpu.get_lapic()?;
    // LINT0 takes interrupts of the old controllers (mode 7), LINT1 NMIs (mode 4), as firmware
    // leaves them.
    set_lapic(&mut lapic, 0x350, 7 << 8);
    set_lapic(&mut lapic, 0x360, 4 << 8);
    vcpu.set_lapic(&lapic)?;
    Ok(())
}

fn set_lapic(lapic: &mut kvm_lapic_state, register: usize, value: u32) {
    for (to, from) in lapic.regs[register..].iter_mut().zip(value.to_ne_bytes()) {
        *to = i8::from_ne_bytes([from]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_and_its_sums_are_zero() {
        for cpus in [1, 2, 8] {
            let table = mp_table(cpus).unwrap();
            assert!(table.len() as u64 <= LOW_END - MP_TABLE);
            let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!((sum(&table[..16]), sum(&table[16..])), (0, 0));
            let length = u16::from_le_bytes([table[20], table[21]]);
            assert_eq!(usize::from(length), table.len() - 16);
        }
    }
}
