// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The state of the guest apart from its RAM, and its format in a file.
//!
//! The file comes from another kernel, and from another version of this program: it is parsed into
//! checked types before any of it reaches KVM, which checks the values of registers itself. It has
//! a header, and then records in a fixed order: the size of a structure, their number (two 32-bit
//! integers), and the structures. They are those of KVM's interface, which never change.

use crate::plain::Plain;
use crate::ram::Kind;
use crate::serial::{PortState, LINE, PORTS};
use kvm_bindings::{
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
    KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES,
};
use liveupdate::luod::Result;
use rustix::fs::{memfd_create, MemfdFlags};
use std::{fs::File, mem::size_of, os::unix::fs::FileExt};

/// The maximum number of processors of a guest.
pub const MAX_CPUS: u8 = 8;
/// The interrupt controllers: two PICs and the IOAPIC.
pub const CHIPS: usize = 3;

const MAGIC: [u8; 8] = *b"luo-vmm\0";
/// Must change with any change of the format.
const VERSION: u32 = 2;
/// More than a guest with [`MAX_CPUS`] processors needs.
const MAX_SIZE: u64 = 1 << 20;

/// The offset in the header of the mark that the guest was started from this state (0 or 1). Its
/// RAM has changed since then.
const USED: usize = 12;

/// The state of a processor.
pub struct Vcpu {
    /// The features that the guest has seen. It must see no others later.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    pub mp_state: kvm_mp_state,
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
    pub xsave: kvm_xsave,
    pub xcrs: kvm_xcrs,
    pub debugregs: kvm_debugregs,
    pub lapic: kvm_lapic_state,
    /// The time-stamp counter is one of them.
    pub msrs: Vec<kvm_msr_entry>,
    pub events: kvm_vcpu_events,
}

/// The state of a guest.
pub struct State {
    pub ram_size: u64,
    /// What its RAM consists of.
    pub ram: Kind,
    /// The host's time-stamp counter when the guest was paused. A kexec does not reset it.
    pub paused_at: u64,
    pub chips: [kvm_irqchip; CHIPS],
    pub pit: kvm_pit_state2,
    /// The clock that the guest reads if it knows KVM.
    pub clock: kvm_clock_data,
    pub ports: [PortState; PORTS],
    pub vcpus: Vec<Vcpu>,
}

impl State {
    /// Writes the state to a new memfd.
    ///
    /// # Errors
    ///
    /// If there is no memory for it.
    pub fn write(&self) -> Result<File> {
        let mut out = Writer::default();
        out.bytes.extend_from_slice(&MAGIC);
        out.number(VERSION);
        out.number(0);
        out.number(u32::try_from(self.vcpus.len())?);
        out.number(self.ram as u32);
        out.long(self.ram_size);
        out.long(self.paused_at);
        out.put(&self.chips)?;
        out.one(&self.pit)?;
        out.one(&self.clock)?;
        for port in &self.ports {
            out.one(&port.registers)?;
            out.put(&port.line)?;
        }
        for vcpu in &self.vcpus {
            out.put(&vcpu.cpuid)?;
            out.one(&vcpu.mp_state)?;
            out.one(&vcpu.regs)?;
            out.one(&vcpu.sregs)?;
            out.one(&vcpu.xsave)?;
            out.one(&vcpu.xcrs)?;
            out.one(&vcpu.debugregs)?;
            out.one(&vcpu.lapic)?;
            out.put(&vcpu.msrs)?;
            out.one(&vcpu.events)?;
        }
        let file = File::from(memfd_create("guest-state", MemfdFlags::CLOEXEC)?);
        file.write_all_at(&out.bytes, 0)?;
        Ok(file)
    }

    /// Reads the state from a file.
    ///
    /// # Errors
    ///
    /// If the file is not valid, has another version, or was [used](mark_used) already.
    pub fn read(file: &File) -> Result<Self> {
        let size = file.metadata()?.len();
        if size > MAX_SIZE {
            return Err("the state of the guest is too large".into());
        }
        let mut bytes = vec![0; usize::try_from(size)?];
        file.read_exact_at(&mut bytes, 0)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut input = Reader(bytes);
        if input.value::<[u8; 8]>()? != MAGIC {
            return Err("the file is not the state of a guest".into());
        }
        let version = input.number()?;
        if version != VERSION {
            return Err(format!(
                "the state of the guest has version {version}, this program reads version {VERSION}"
            )
            .into());
        }
        if input.number()? != 0 {
            return Err("the guest has already run from this state".into());
        }
        let (cpus, ram) = (input.number()?, Kind::from_number(input.number()?));
        let known = ram.filter(|_| (1..=u32::from(MAX_CPUS)).contains(&cpus));
        let ram = known.ok_or("the state of the guest has an invalid header")?;
        let (ram_size, paused_at) = (input.long()?, input.long()?);
        let chips: [kvm_irqchip; CHIPS] = input.array()?;
        if (0..).zip(&chips).any(|(id, chip)| chip.chip_id != id) {
            return Err("the interrupt controllers are in a wrong order".into());
        }
        let state = Self {
            ram_size,
            ram,
            paused_at,
            chips,
            pit: input.one()?,
            clock: input.one()?,
            ports: [input.port()?, input.port()?],
            vcpus: (0..cpus)
                .map(|_| {
                    Ok(Vcpu {
                        cpuid: input.take(KVM_MAX_CPUID_ENTRIES)?,
                        mp_state: input.one()?,
                        regs: input.one()?,
                        sregs: input.one()?,
                        xsave: input.one()?,
                        xcrs: input.one()?,
                        debugregs: input.one()?,
                        lapic: input.one()?,
                        msrs: input.take(KVM_MAX_MSR_ENTRIES)?,
                        events: input.one()?,
                    })
                })
                .collect::<Result<_>>()?,
        };
        if !input.0.is_empty() {
            return Err("the state of the guest is longer than expected".into());
        }
        Ok(state)
    }
}

/// Marks the state in a file: the guest is about to run, and must never be started from it again.
///
/// # Errors
///
/// If the file cannot be written.
pub fn mark_used(file: &File) -> Result {
    Ok(file.write_all_at(&1_u32.to_le_bytes(), USED as u64)?)
}

/// Writes records.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn number(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn long(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn put<T: Plain>(&mut self, items: &[T]) -> Result {
        self.number(u32::try_from(size_of::<T>())?);
        self.number(u32::try_from(items.len())?);
        self.bytes.extend_from_slice(T::bytes_of(items));
        Ok(())
    }

    fn one<T: Plain>(&mut self, item: &T) -> Result {
        self.put(std::slice::from_ref(item))
    }
}

/// The bytes that were not read yet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn value<T: Plain>(&mut self) -> Result<T> {
        let value = self.0.split_at_checked(size_of::<T>());
        let (value, rest) = value.ok_or("the state of the guest is truncated")?;
        self.0 = rest;
        Ok(T::from_bytes(value).ok_or("a structure has another size")?)
    }

    fn number(&mut self) -> Result<u32> {
        self.value().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Result<u64> {
        self.value().map(u64::from_le_bytes)
    }

    /// Reads a record of up to `max` structures.
    fn take<T: Plain>(&mut self, max: usize) -> Result<Vec<T>> {
        let (size, count) = (self.number()?, usize::try_from(self.number()?)?);
        if usize::try_from(size)? != size_of::<T>() || count > max {
            let what = std::any::type_name::<T>();
            return Err(
                format!("{count} structures of {size} bytes are not the expected {what}").into(),
            );
        }
        (0..count).map(|_| self.value()).collect()
    }

    fn array<T: Plain, const N: usize>(&mut self) -> Result<[T; N]> {
        let items = self.take(N)?;
        items
            .try_into()
            .map_err(|_| "a record has too few structures".into())
    }

    fn port(&mut self) -> Result<PortState> {
        Ok(PortState {
            registers: self.one()?,
            line: self.take(LINE)?,
        })
    }

    fn one<T: Plain>(&mut self) -> Result<T> {
        let [item] = self.array()?;
        Ok(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(cpus: usize) -> Vec<u8> {
        let state = State {
            ram_size: 64 << 20,
            ram: Kind::GuestMemfd,
            paused_at: 7,
            chips: [0, 1, 2].map(|chip_id| kvm_irqchip {
                chip_id,
                ..Default::default()
            }),
            pit: Default::default(),
            clock: Default::default(),
            ports: Default::default(),
            vcpus: (0..cpus)
                .map(|id| Vcpu {
                    cpuid: vec![Default::default(); 3],
                    mp_state: Default::default(),
                    regs: kvm_regs {
                        rip: id as u64,
                        ..Default::default()
                    },
                    sregs: Default::default(),
                    xsave: Default::default(),
                    xcrs: Default::default(),
                    debugregs: Default::default(),
                    lapic: Default::default(),
                    msrs: vec![Default::default(); 5],
                    events: Default::default(),
                })
                .collect(),
        };
        let file = state.write().unwrap();
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn refusal(bytes: &[u8]) -> String {
        State::parse(bytes).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn what_was_written_is_read() {
        let state = State::parse(&example(2)).unwrap();
        assert_eq!((state.ram_size, state.paused_at), (64 << 20, 7));
        assert_eq!(state.ram, Kind::GuestMemfd);
        assert_eq!(state.vcpus.len(), 2);
        assert_eq!(state.vcpus[1].regs.rip, 1);
        assert_eq!(state.vcpus[1].msrs.len(), 5);
    }

    #[test]
    fn other_files_are_refused() {
        let good = example(1);
        for size in 0..good.len() {
            assert!(State::parse(&good[..size]).is_err(), "{size} bytes");
        }
        let longer = [good.as_slice(), &[0]].concat();
        assert!(refusal(&longer).contains("longer"));
        assert!(refusal(&example(0)).contains("header"));
        for (at, value, says) in [
            (0, b'L', "not the state"),
            (8, 9, "version 9"),
            (USED, 1, "already run"),
            (16, 200, "header"),
            (20, 4, "header"),
            (40, 1, "structures of"),
            (48, 1, "order"),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(refusal(&bad).contains(says), "{says}: {}", refusal(&bad));
        }
    }

    #[test]
    fn a_state_is_used_once() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.write_all_at(&example(1), 0).unwrap();
        State::read(&file).unwrap();
        mark_used(&file).unwrap();
        assert!(State::read(&file).map(drop).is_err());
    }
}
