// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The serial ports of the guest, which are written to the standard output.

use kvm_ioctls::VmFd;
use liveupdate::luod::Result;
use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};

/// The number of ports.
pub const PORTS: usize = 2;
/// The first I/O port and the interrupt of each.
const PLACES: [(u16, u32); PORTS] = [(0x3f8, 4), (0x2f8, 3)];

/// The maximum number of bytes of a line that are kept.
pub const LINE: usize = 4096;

/// The interrupt of a port.
struct Line {
    vm: Arc<VmFd>,
    irq: u32,
}

impl Trigger for Line {
    type E = kvm_ioctls::Error;

    /// An edge. It has reached the interrupt controller when this returns, so that it cannot be
    /// lost when the guest is paused, in contrast to one that is sent by an eventfd.
    fn trigger(&self) -> std::result::Result<(), Self::E> {
        self.vm.set_irq_line(self.irq, true)?;
        self.vm.set_irq_line(self.irq, false)
    }
}

/// The state of a port.
#[derive(Default)]
pub struct PortState {
    /// The registers, in the order of [`SerialState`]. Nothing is ever received.
    pub registers: [u8; 9],
    /// The beginning of a line, of up to [`LINE`] bytes.
    pub line: Vec<u8>,
}

/// Writes whole lines, so that those of the ports are not mixed.
struct Lines(Vec<u8>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        if self.0.ends_with(b"\n") || self.0.len() >= LINE {
            let mut out = io::stdout().lock();
            out.write_all(&self.0)?;
            out.flush()?;
            self.0.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // The device flushes after each byte.
        Ok(())
    }
}

type Port = Serial<Line, NoEvents, Lines>;

/// All ports.
pub struct Ports([Mutex<Port>; PORTS]);

impl Ports {
    /// Ports of a machine, with this state or as after a reset.
    ///
    /// # Errors
    ///
    /// If KVM refuses an interrupt that is pending.
    pub fn new(vm: &Arc<VmFd>, saved: Option<&[PortState; PORTS]>) -> Result<Self> {
        let port = |number: usize| -> Result<Mutex<Port>> {
            let (_, irq) = PLACES[number];
            let vm = vm.clone();
            let (registers, line) = match saved {
                Some(all) => (state(&all[number].registers), all[number].line.clone()),
                None => Default::default(),
            };
            let port = Serial::from_state(&registers, Line { vm, irq }, NoEvents, Lines(line));
            Ok(Mutex::new(port.map_err(|error| error.to_string())?))
        };
        Ok(Self([port(0)?, port(1)?]))
    }

    /// The port and its register for an access to an I/O port.
    fn find(&self, address: u16) -> Option<(&Mutex<Port>, u8)> {
        let (port, offset) = self.0.iter().zip(PLACES).find_map(|(port, (start, _))| {
            let offset = address.checked_sub(start)?;
            (offset < 8).then_some((port, offset))
        })?;
        Some((port, u8::try_from(offset).ok()?))
    }

    /// The guest reads.
    pub fn read(&self, address: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let (Some((port, offset)), [byte]) = (self.find(address), data) {
            *byte = lock(port).read(offset);
        }
    }

    /// The guest writes.
    ///
    /// # Errors
    ///
    /// If the standard output is closed.
    pub fn write(&self, address: u16, data: &[u8]) -> Result {
        if let (Some((port, offset)), [byte]) = (self.find(address), data) {
            let written = lock(port).write(offset, *byte);
            written.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The state of all ports.
    pub fn save(&self) -> [PortState; PORTS] {
        self.0.each_ref().map(|port| {
            let port = lock(port);
            PortState {
                registers: registers(&port.state()),
                line: port.writer().0.clone(),
            }
        })
    }
}

fn registers(state: &SerialState) -> [u8; 9] {
    [
        state.baud_divisor_low,
        state.baud_divisor_high,
        state.interrupt_enable,
        state.interrupt_identification,
        state.line_control,
        state.line_status,
        state.modem_control,
        state.modem_status,
        state.scratch,
    ]
}

fn state(registers: &[u8; 9]) -> SerialState {
    SerialState {
        baud_divisor_low: registers[0],
        baud_divisor_high: registers[1],
        interrupt_enable: registers[2],
        interrupt_identification: registers[3],
        line_control: registers[4],
        line_status: registers[5],
        modem_control: registers[6],
        modem_status: registers[7],
        scratch: registers[8],
        in_buffer: Vec::new(),
    }
}

fn lock(port: &Mutex<Port>) -> std::sync::MutexGuard<'_, Port> {
    port.lock().unwrap_or_else(PoisonError::into_inner)
}
