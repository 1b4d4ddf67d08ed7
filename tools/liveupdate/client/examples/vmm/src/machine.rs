// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The virtual machine: what KVM has of it, and the serial ports.

use crate::{
    ram::{Kind, Ram},
    serial::Ports,
    state::{State, CHIPS},
    vcpu::{self, Vcpus},
};
use kvm_bindings::{
    kvm_clock_data, kvm_irqchip, kvm_pit_config, kvm_userspace_memory_region,
    kvm_userspace_memory_region2, CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MEM_GUEST_MEMFD,
    KVM_PIT_SPEAKER_DUMMY,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use liveupdate::luod::Result;
use std::{
    fs::File,
    os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd},
    sync::Arc,
};

/// The address at which KVM may place pages of its own on processors of Intel: below the firmware,
/// of which there is none here.
const TSS: usize = 0xfffb_d000;

/// The required capabilities of KVM, with their names.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
];

const NO_PROCESSOR: &str = "a guest needs a processor";

/// A machine. The fields are dropped in this order: the RAM must be mapped as long as the guest can
/// run.
pub struct Machine {
    vcpus: Vcpus,
    ports: Arc<Ports>,
    vm: Arc<VmFd>,
    kvm: Kvm,
    ram: Ram,
    khz: u32,
}

/// The processor's time-stamp counter, which a kexec does not reset.
fn now() -> u64 {
    // SAFETY: All x86-64 processors have the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

impl Machine {
    /// A paused machine with `size` bytes of RAM, which `boot` has prepared: it gets the first
    /// processor, and the frequency of the time-stamp counter in kHz.
    ///
    /// # Errors
    ///
    /// If KVM does not provide it.
    pub fn new(
        (size, kind): (u64, Kind),
        cpus: u8,
        boot: impl FnOnce(&Ram, &VcpuFd, u32) -> Result,
    ) -> Result<Self> {
        let (kvm, vm) = create(None)?;
        let ram = Ram::new(&vm, size, kind)?;
        set_memory(&vm, &ram)?;
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        let mut fds = Vec::new();
        for id in 0..cpus {
            let fd = vm.create_vcpu(id.into())?;
            vcpu::settle_frequency(&fd)?;
            fd.set_cpuid2(&cpuid(&supported, id, cpus))?;
            fds.push(fd);
        }
        let first = fds.first().ok_or(NO_PROCESSOR)?;
        let khz = first.get_tsc_khz()?;
        boot(&ram, first, khz)?;
        let ports = Arc::new(Ports::new(&vm, None)?);
        let vcpus = Vcpus::new(fds, &ports)?;
        Ok(Self {
            vcpus,
            ports,
            vm,
            kvm,
            ram,
            khz,
        })
    }

    /// A paused machine with the RAM and the state of another one, and with its VM if the RAM
    /// belongs to that VM.
    ///
    /// # Errors
    ///
    /// If KVM does not provide it, or refuses a part of the state.
    pub fn restore(ram: File, vm: Option<OwnedFd>, state: &State) -> Result<Self> {
        let (kvm, vm) = create(vm)?;
        let ram = Ram::map(ram, state.ram_size, state.ram)?;
        set_memory(&vm, &ram)?;
        let mut fds = Vec::new();
        for id in 0..state.vcpus.len() {
            let fd = vm.create_vcpu(id as u64)?;
            vcpu::settle_frequency(&fd)?;
            fds.push(fd);
        }
        for chip in &state.chips {
            vm.set_irqchip(chip)?;
        }
        vm.set_pit2(&state.pit)?;
        // It continues with the saved value. With KVM_CLOCK_REALTIME, it would include the pause.
        vm.set_clock(&kvm_clock_data {
            clock: state.clock.clock,
            ..Default::default()
        })?;
        for (fd, state) in fds.iter().zip(&state.vcpus) {
            vcpu::restore(fd, state)?;
        }
        let khz = fds.first().ok_or(NO_PROCESSOR)?.get_tsc_khz()?;
        let ports = Arc::new(Ports::new(&vm, Some(&state.ports))?);
        let vcpus = Vcpus::new(fds, &ports)?;
        Ok(Self {
            vcpus,
            ports,
            vm,
            kvm,
            ram,
            khz,
        })
    }

    /// Pauses the guest and returns its state.
    ///
    /// # Errors
    ///
    /// If the guest has ended, or KVM does not return it. The guest is paused then as well.
    pub fn pause(&self) -> Result<State> {
        let paused_at = now();
        self.vcpus.pause()?;
        let mut chips: [kvm_irqchip; CHIPS] = Default::default();
        for (id, chip) in (0..).zip(&mut chips) {
            chip.chip_id = id;
        }
        let mut state = State {
            ram_size: self.ram.size(),
            ram: self.ram.kind,
            paused_at,
            // First, since this may still change interrupt controllers.
            vcpus: self.vcpus.save(&self.kvm)?,
            ports: self.ports.save(),
            clock: self.vm.get_clock()?,
            pit: self.vm.get_pit2()?,
            chips,
        };
        for chip in &mut state.chips {
            self.vm.get_irqchip(chip)?;
        }
        Ok(state)
    }

    /// Lets the guest run, and returns when it does.
    ///
    /// # Errors
    ///
    /// If KVM does not let it run.
    pub fn resume(&self) -> Result {
        self.vcpus.resume()
    }

    /// Why the guest has ended, if it has.
    pub fn end(&self) -> Option<String> {
        self.vcpus.end()
    }

    /// The microseconds since the time-stamp counter had a value.
    pub fn since_us(&self, then: u64) -> u64 {
        now().saturating_sub(then).saturating_mul(1000) / u64::from(self.khz.max(1))
    }

    /// The file of the VM.
    pub fn vm(&self) -> BorrowedFd<'_> {
        // SAFETY: The descriptor stays open as long as the object.
        unsafe { BorrowedFd::borrow_raw(self.vm.as_raw_fd()) }
    }

    /// The RAM.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }
}

/// A machine without processors and RAM, in a new VM or one that was retrieved.
fn create(vm: Option<OwnedFd>) -> Result<(Kvm, Arc<VmFd>)> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm cannot be used: {error}"))?;
    for (capability, name) in NEEDED {
        if !kvm.check_extension(capability) {
            return Err(format!("KVM of this kernel has no {name}").into());
        }
    }
    let vm = match vm {
        // SAFETY: The descriptor has no other owner.
        Some(vm) => unsafe { kvm.create_vmfd_from_rawfd(vm.into_raw_fd())? },
        None => kvm.create_vm()?,
    };
    vm.set_tss_address(TSS)?;
    vm.create_irq_chip()?;
    vm.create_pit2(kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    })?;
    Ok((kvm, Arc::new(vm)))
}

/// Gives a machine its RAM.
fn set_memory(vm: &VmFd, ram: &Ram) -> Result {
    let (memory_size, userspace_addr) = (ram.size(), ram.start()? as u64);
    // SAFETY: The mapping has that size. `Machine` keeps it until all descriptors of KVM are closed,
    // and nothing in this process has references into it.
    unsafe {
        if ram.kind == Kind::GuestMemfd {
            vm.set_user_memory_region2(kvm_userspace_memory_region2 {
                flags: KVM_MEM_GUEST_MEMFD,
                memory_size,
                userspace_addr,
                guest_memfd: u32::try_from(ram.file.as_raw_fd())?,
                ..Default::default()
            })?;
        } else {
            vm.set_user_memory_region(kvm_userspace_memory_region {
                memory_size,
                userspace_addr,
                ..Default::default()
            })?;
        }
    }
    Ok(())
}

/// The features of the processor `id`: all that KVM supports, except for virtual machines in the
/// guest, whose state is not handed over.
fn cpuid(supported: &CpuId, id: u8, cpus: u8) -> CpuId {
    const TSC_DEADLINE: u32 = 1 << 24;
    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;
    const HTT: u32 = 1 << 28;
    let mut cpuid = supported.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = (entry.ebx & 0xffff) | (u32::from(id) << 24) | (u32::from(cpus) << 16);
                // An expired deadline is part of the state, in contrast to an interrupt that the
                // other modes of the timer have not delivered yet.
                entry.ecx = (entry.ecx | TSC_DEADLINE) & !VMX;
                entry.edx |= if cpus > 1 { HTT } else { 0 };
            }
            0xb | 0x1f => entry.edx = id.into(),
            0x8000_0001 => entry.ecx &= !SVM,
            0x8000_0008 => entry.ecx = u32::from(cpus) - 1,
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id.into(), id.into(), 0),
            _ => {}
        }
    }
    cpuid
}
