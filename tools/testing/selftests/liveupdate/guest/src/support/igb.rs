// SPDX-License-Identifier: GPL-2.0

//! A driver in user space for the network card 82576, which is `igb` in QEMU: one ring for frames
//! that are received, one for frames to be sent, and one interrupt.
//!
//! All its state is in the memory that the device uses. The driver of another process, or of the next
//! kernel, can therefore continue to use a working device, see [`Igb::attach`].

mod link;
mod registers;

pub use link::{Link, Ring};

use self::registers as reg;
use crate::support::{
    error::{ensure_eq, Result},
    vfio::{DmaMemory, Irq, Registers, VfioDevice, PAGE},
    wait::eventually,
};
use std::os::fd::OwnedFd;

/// Vendor and device.
pub const ID: (u16, u16) = (0x8086, 0x10c9);

/// The length of the frames that are sent and expected.
pub const FRAME: usize = 64;

/// The first word of the memory.
const MAGIC: u64 = 0x6962_6720_6c75_6f31;

/// Offsets of the words of the state in the memory.
mod word {
    pub const MAGIC: usize = 0;
    /// The offset of the ring of received frames in the memory.
    pub const RING: usize = 8;
    /// The number of its descriptors.
    pub const LEN: usize = 16;
    /// The descriptor of the next frame.
    pub const NEXT: usize = 24;
    /// The number of frames that were sent.
    pub const SENT: usize = 32;
    /// The number of the last frame that was received.
    pub const RECEIVED: usize = 40;
    /// How many frames were lost before it.
    pub const LOST: usize = 48;
}

/// The size of a descriptor.
const DESCRIPTOR: usize = 16;

/// The ring of frames to be sent, in a page of its own, and their buffers in another one.
const SEND_RING: usize = PAGE;
const SEND_BUFFERS: usize = 2 * PAGE;
const SEND_LEN: usize = PAGE / FRAME;

/// The space for the ring of received frames, which must not have gaps in physical memory. The
/// space has the size of two huge pages, at a boundary of huge pages.
const SPACE: std::ops::Range<usize> = 2 << 20..6 << 20;

const BUFFER: usize = 1024;

/// The number of descriptors that are given to the device at a time.
const BATCH: usize = 32;

/// The device, and the memory that it uses.
pub struct Igb {
    device: VfioDevice,
    registers: Registers,
    memory: DmaMemory,
    irq: Irq,
    ring: usize,
    len: usize,
}

impl Igb {
    /// Where the buffers of received frames are in the memory.
    pub const BUFFERS: usize = SPACE.end;

    /// The size of the memory for a ring of `len` descriptors.
    pub const fn memory_size(len: usize) -> usize {
        Self::BUFFERS + len * BUFFER
    }

    /// Resets the device and starts it, with a ring of `len` descriptors.
    pub fn start(device: VfioDevice, memory: DmaMemory, irq: Irq, len: usize) -> Result<Self> {
        let pages = (len * DESCRIPTOR).div_ceil(PAGE);
        let ring = memory.contiguous(SPACE.start / PAGE..SPACE.end / PAGE, pages)?;
        memory.write_long(word::MAGIC, MAGIC);
        memory.write_long(word::RING, ring as u64);
        memory.write_long(word::LEN, len as u64);
        let igb = Self::attach(device, memory, irq)?;
        igb.reset()?;
        igb.start_link()?;
        igb.start_rings()?;
        Ok(igb)
    }

    /// Continues to use a working device: its registers are not written.
    pub fn attach(device: VfioDevice, memory: DmaMemory, irq: Irq) -> Result<Self> {
        ensure_eq!(memory.read_long(word::MAGIC), MAGIC, "the magic number");
        // CAST: `start` has written a `usize`.
        let [ring, len] = [word::RING, word::LEN].map(|word| memory.read_long(word) as usize);
        Ok(Self {
            registers: device.registers()?,
            device,
            memory,
            irq,
            ring,
            len,
        })
    }

    fn write(&self, values: &[(u32, u32)]) {
        for (register, value) in values {
            self.registers.write(*register, *value);
        }
    }

    fn set(&self, register: u32, bits: u32) {
        let value = self.registers.read(register);
        self.registers.write(register, value | bits);
    }

    fn reset(&self) -> Result {
        self.set(reg::CTRL, reg::CTRL_RST);
        eventually("the reset does not end", || {
            Ok(self.registers.read(reg::CTRL) & reg::CTRL_RST == 0)
        })?;
        self.write(&[(reg::IMC, u32::MAX), (reg::EIMC, u32::MAX)]);
        self.device.turn_on()
    }

    fn start_link(&self) -> Result {
        self.set(reg::CTRL_EXT, reg::CTRL_EXT_DRV_LOAD);
        self.set(reg::CTRL, reg::CTRL_SLU);
        self.registers.write(reg::MDIC, reg::MDIC_AUTONEG);
        eventually("the link is down", || {
            Ok(self.registers.read(reg::STATUS) & reg::STATUS_LU != 0)
        })
    }

    fn start_rings(&self) -> Result {
        self.memory.write_long(word::NEXT, 0);
        self.memory.write_long(word::SENT, 0);
        self.memory.write_long(word::RECEIVED, 0);
        self.memory.write_long(word::LOST, 0);
        for at in 0..self.len {
            self.post(at)?;
        }
        let [receive, send] = [self.ring, SEND_RING].map(|at| self.memory.physical(at));
        let (receive, send) = (receive?, send?);
        // CAST: The halves of an address.
        let [low, high] = [
            |address: u64| address as u32,
            |address: u64| (address >> 32) as u32,
        ];
        self.write(&[
            (reg::RDBAL, low(receive)),
            (reg::RDBAH, high(receive)),
            (reg::RDLEN, (self.len * DESCRIPTOR) as u32),
            (reg::RDH, 0),
            (reg::RDT, 0),
            (reg::SRRCTL, reg::SRRCTL_ADVANCED | (BUFFER / 1024) as u32),
            (reg::RXDCTL, reg::QUEUE_ENABLE),
            (reg::TDBAL, low(send)),
            (reg::TDBAH, high(send)),
            (reg::TDLEN, (SEND_LEN * DESCRIPTOR) as u32),
            (reg::TDH, 0),
            (reg::TDT, 0),
            (reg::TXDCTL, reg::QUEUE_ENABLE),
            (reg::RCTL, reg::RCTL_PROMISCUOUS),
            (reg::TCTL, reg::TCTL_EN | reg::TCTL_PSP),
        ]);
        eventually("the rings are off", || {
            let on = |register| self.registers.read(register) & reg::QUEUE_ENABLE != 0;
            Ok(on(reg::RXDCTL) && on(reg::TXDCTL))
        })?;
        self.give_back();
        Ok(())
    }

    /// Makes a descriptor ready for a frame.
    fn post(&self, at: usize) -> Result {
        let descriptor = self.ring + at * DESCRIPTOR;
        // The second word has the flag that a frame was written.
        self.memory.write_long(descriptor + 8, 0);
        let buffer = self.memory.physical(Self::BUFFERS + at * BUFFER)?;
        self.memory.write_long(descriptor, buffer);
        Ok(())
    }

    fn next(&self) -> usize {
        // CAST: Less than the length of the ring.
        self.memory.read_long(word::NEXT) as usize
    }

    /// Gives all descriptors but the last one to the device.
    fn give_back(&self) {
        let tail = (self.next() + self.len - 1) % self.len;
        self.registers.write(reg::RDT, tail as u32);
    }

    /// The file of the device.
    pub fn device(&self) -> &VfioDevice {
        &self.device
    }

    /// The memory.
    pub fn memory(&self) -> &DmaMemory {
        &self.memory
    }

    /// The number of frames that were written to the ring and not received yet.
    pub fn pending(&self) -> usize {
        let head = self.registers.read(reg::RDH) as usize;
        (head + self.len - self.next()) % self.len
    }

    /// Whether the device has no descriptor for the next frame. It gets descriptors only from
    /// [`Igb::give_back`], so that this stays true until then.
    pub fn is_full(&self) -> bool {
        self.registers.read(reg::RDH) == self.registers.read(reg::RDT)
    }

    /// Receives the next frame.
    fn receive(&self) -> Result<Option<[u8; FRAME]>> {
        let at = self.next();
        let descriptor = self.ring + at * DESCRIPTOR;
        if self.memory.read(descriptor + 8) & reg::DESCRIPTOR_DONE == 0 {
            return Ok(None);
        }
        let length = self.memory.read(descriptor + 12) & 0xffff;
        ensure_eq!(length as usize, FRAME, "the length of a frame");
        let frame = self.memory.bytes(Self::BUFFERS + at * BUFFER);
        self.post(at)?;
        let next = (at + 1) % self.len;
        self.memory.write_long(word::NEXT, next as u64);
        Ok(Some(frame))
    }

    /// Sends a frame.
    pub fn send(&self, frame: [u8; FRAME]) -> Result {
        let sent = self.memory.read_long(word::SENT);
        // CAST: Less than the length of the ring.
        let at = (sent % SEND_LEN as u64) as usize;
        let (descriptor, buffer) = (SEND_RING + at * DESCRIPTOR, SEND_BUFFERS + at * FRAME);
        self.memory.set_bytes(buffer, frame);
        self.memory
            .write_long(descriptor, self.memory.physical(buffer)?);
        let options = u64::from(reg::SEND_COMMAND) | FRAME as u64;
        let status = (FRAME as u64) << reg::SEND_LENGTH_SHIFT;
        self.memory
            .write_long(descriptor + 8, (status << 32) | options);
        self.memory.write_long(word::SENT, sent + 1);
        let tail = (at + 1) % SEND_LEN;
        self.registers.write(reg::TDT, tail as u32);
        eventually("a frame was not sent", || {
            Ok(self.memory.read(descriptor + 12) & reg::DESCRIPTOR_DONE != 0)
        })
    }

    /// Turns on the interrupt for received frames, which increments the returned counter.
    pub fn enable_interrupt(&self) -> Result<OwnedFd> {
        let counter = self.device.enable_irq(self.irq)?;
        match self.irq {
            Irq::Msix => self.write(&[
                (reg::GPIE, reg::GPIE_MSIX),
                (reg::EIAC, reg::VECTOR),
                (reg::IVAR0, reg::IVAR_VALID),
                (reg::EIMS, reg::VECTOR),
            ]),
            Irq::Intx => self.write(&[(reg::GPIE, 0), (reg::IMS, reg::ICR_RXDW)]),
        }
        Ok(counter)
    }

    /// Lets the device raise the interrupt again.
    pub fn acknowledge(&self) -> Result {
        if self.irq == Irq::Intx {
            self.registers.read(reg::ICR);
        }
        self.device.unmask_irq(self.irq)
    }

    /// Turns the interrupt off.
    pub fn disable_interrupt(&self) -> Result {
        self.write(&[(reg::IMC, u32::MAX), (reg::EIMC, reg::VECTOR)]);
        self.device.disable_irq(self.irq)
    }

    /// Stops the device.
    pub fn stop(self) -> Result {
        self.write(&[(reg::RCTL, 0), (reg::TCTL, 0)]);
        self.set(reg::CTRL, reg::CTRL_RST);
        Ok(())
    }
}
