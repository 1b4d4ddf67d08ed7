// SPDX-License-Identifier: GPL-2.0

//! The device: its registers, the interrupt, and the right to use it.

use core::ops::Deref;
use kernel::{
    io::Io,
    irq,
    irq::IrqReturn,
    pci,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            AtomicFlag,
            Relaxed, //
        },
        Arc,
        Mutex,
        SetOnce, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// Registers in BAR 0.
pub(crate) mod regs {
    pub(crate) const ID: usize = 0x00;
    pub(crate) const FACTORIAL: usize = 0x08;
    pub(crate) const STATUS: usize = 0x20;
    pub(crate) const INTERRUPTS: usize = 0x24;
    pub(crate) const ACKNOWLEDGE: usize = 0x64;
    pub(crate) const DMA_SOURCE: usize = 0x80;
    pub(crate) const DMA_TARGET: usize = 0x88;
    pub(crate) const DMA_COUNT: usize = 0x90;
    pub(crate) const DMA_COMMAND: usize = 0x98;
    pub(crate) const END: usize = 0xa0;

    /// In `ID`: bits that are the same for all versions of the device.
    pub(crate) const ID_BITS: u32 = 0xed;
    /// In `STATUS`: the factorial is being computed.
    pub(crate) const COMPUTING: u32 = 1;
    /// In `DMA_COMMAND`: start, or not complete yet.
    pub(crate) const START: u32 = 1;
    /// In `DMA_COMMAND`: to the memory of the machine.
    pub(crate) const TO_RAM: u32 = 2;
    /// In `DMA_COMMAND`: interrupt when the copy is complete.
    pub(crate) const INTERRUPT: u32 = 4;
    /// The address of the memory of the device for DMA.
    pub(crate) const MEMORY: u64 = 0x40000;
}

/// The number of bytes that a copy transfers: half a page.
pub(crate) const LENGTH: u64 = 2048;

/// The device.
pub(crate) struct Edu {
    pub(crate) pdev: ARef<pci::Device>,
    regs: pci::DevresBar<{ regs::END }>,
    /// Whether there is a file.
    open: AtomicFlag,
    /// The number of interrupts.
    interrupts: Atomic<u32>,
}

impl Edu {
    /// The device `pdev` with these registers, without a file.
    pub(crate) fn new(pdev: &pci::Device, regs: pci::DevresBar<{ regs::END }>) -> Self {
        Self {
            pdev: pdev.into(),
            regs,
            open: AtomicFlag::new(false),
            interrupts: Atomic::new(0),
        }
    }

    /// The number of interrupts so far.
    pub(crate) fn interrupts(&self) -> u32 {
        self.interrupts.load(Relaxed)
    }

    pub(crate) fn read(&self, offset: usize) -> Result<u32> {
        let regs = self.regs.try_access().ok_or(ENXIO)?;
        (&*regs).try_read32(offset)
    }

    pub(crate) fn write(&self, offset: usize, value: u32) -> Result {
        let regs = self.regs.try_access().ok_or(ENXIO)?;
        (&*regs).try_write32(value, offset)
    }

    fn write64(&self, offset: usize, value: u64) -> Result {
        let regs = self.regs.try_access().ok_or(ENXIO)?;
        (&*regs).try_write64(value, offset)
    }

    pub(crate) fn is_copying(&self) -> Result<bool> {
        Ok(self.read(regs::DMA_COMMAND)? & regs::START != 0)
    }

    /// Waits until `bit` of a register is clear; [`ETIMEDOUT`] after some seconds.
    pub(crate) fn wait_for(&self, offset: usize, bit: u32) -> Result {
        for _ in 0..1000 {
            if self.read(offset)? & bit == 0 {
                return Ok(());
            }
            fsleep(Delta::from_millis(5));
        }
        Err(ETIMEDOUT)
    }

    /// Acknowledges a pending interrupt. Returns whether there was one.
    pub(crate) fn acknowledge(&self) -> bool {
        let pending = self.read(regs::INTERRUPTS).unwrap_or(0);
        if pending == 0 || self.write(regs::ACKNOWLEDGE, pending).is_err() {
            return false;
        }
        self.interrupts.add(1, Relaxed);
        true
    }

    pub(crate) fn copy(&self, source: u64, target: u64, direction: u32) -> Result {
        if self.is_copying()? {
            return Err(EBUSY);
        }
        self.write64(regs::DMA_SOURCE, source)?;
        self.write64(regs::DMA_TARGET, target)?;
        self.write64(regs::DMA_COUNT, LENGTH)?;
        self.write(regs::DMA_COMMAND, regs::START | regs::INTERRUPT | direction)
    }
}

/// The slot of the device, if there is one.
pub(crate) type Slot = Mutex<Option<Arc<Edu>>>;

pub(crate) static EDU: SetOnce<Pin<KBox<Slot>>> = SetOnce::new();

/// Returns the device; [`ENODEV`] if there is none.
pub(crate) fn edu() -> Result<Arc<Edu>> {
    let slot = EDU.as_ref().ok_or(ENODEV)?;
    let edu = slot.lock().clone();
    edu.ok_or(ENODEV)
}

/// The right to be the only file of a device. Dropping it permits another file.
pub(crate) struct Claim(Arc<Edu>);

impl Claim {
    /// Fails with [`EBUSY`] if there is a file.
    pub(crate) fn new(edu: Arc<Edu>) -> Result<Self> {
        if edu.open.xchg(true, Relaxed) {
            return Err(EBUSY);
        }
        Ok(Self(edu))
    }
}

impl Deref for Claim {
    type Target = Edu;

    fn deref(&self) -> &Edu {
        &self.0
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.open.store(false, Relaxed);
    }
}

/// The handler of the interrupt.
pub(crate) struct Interrupt(pub(crate) Arc<Edu>);

impl irq::Handler for Interrupt {
    fn handle(&self) -> IrqReturn {
        match self.0.acknowledge() {
            true => IrqReturn::Handled,
            // The line may be shared.
            false => IrqReturn::None,
        }
    }
}

/// The entry in the slot. Once it is dropped, no new file can use the device.
pub(crate) struct Listed(pub(crate) Arc<Edu>);

impl Listed {
    /// Fails with [`EBUSY`] if there is another device.
    pub(crate) fn new(slot: &Slot, edu: Arc<Edu>) -> Result<Self> {
        let mut first = slot.lock();
        if first.is_some() {
            dev_err!(edu.pdev, "there is another one\n");
            return Err(EBUSY);
        }
        *first = Some(edu.clone());
        Ok(Self(edu))
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(slot) = EDU.as_ref() {
            *slot.lock() = None;
        }
    }
}
