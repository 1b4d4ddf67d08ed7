// SPDX-License-Identifier: GPL-2.0

//! A driver in user space for NVMe disks: one pair of queues, for reads, without interrupts.
//!
//! All its state is in the memory that the device uses. The driver of another process, or of the next
//! kernel, can therefore continue to use a working device, see [`Nvme::attach`].

use crate::support::{
    error::{ensure_eq, At, Result},
    vfio::{DmaMemory, Registers, VfioDevice, PAGE},
    wait::{eventually, within},
};
use std::{fs::File, os::unix::fs::FileExt, time::Duration};

/// Vendor and device of QEMU's disk.
pub const ID: (u16, u16) = (0x1b36, 0x0010);

/// The time after which the device is considered hung. QEMU limits its reads to 20 in a second. If
/// the device is reset, QEMU carries out all incomplete reads at once, and then no read for the
/// time that these should have taken, which is up to 26 s.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many reads there can be at a time; one less than the queue has entries.
pub const MOST_READS: u64 = 511;
const ENTRIES: u64 = 512;

/// The registers, with the names of the specification.
mod reg {
    pub const CC: u32 = 0x14;
    /// On, with entries of 64 and 16 bytes in the queues.
    pub const CC_ENABLE: u32 = 1 | (6 << 16) | (4 << 20);
    pub const CSTS: u32 = 0x1c;
    pub const CSTS_READY: u32 = 1;
    pub const AQA: u32 = 0x24;
    pub const ASQ: u32 = 0x28;
    pub const ACQ: u32 = 0x30;
    /// The first doorbell; the device has them one after the other.
    pub const DOORBELLS: u32 = 0x1000;
}

/// Commands.
const CREATE_SUBMISSION: u32 = 0x01;
const READ: u32 = 0x02;
const CREATE_COMPLETION: u32 = 0x05;

/// The size of the entries of the queues.
const SUBMISSION: usize = 64;
const COMPLETION: usize = 16;

/// Where things are in the memory. The queues must not have gaps in physical memory; the space for them
/// has the size of two huge pages, at a boundary of huge pages.
mod at {
    use std::ops::Range;

    /// The words of the state: where the queues are, and how many reads were ordered and seen.
    pub const QUEUES: usize = 0;
    pub const ORDERED: usize = 8;
    pub const SEEN: usize = 16;
    pub const SPACE: Range<usize> = 2 << 20..6 << 20;
    pub const DATA: usize = SPACE.end;
}

/// Where the queues are, in pages from the first one, and the pages of all.
const ADMIN_SUBMISSION: usize = 0;
const ADMIN_COMPLETION: usize = 1;
const COMPLETIONS: usize = 2;
const SUBMISSIONS: usize = 4;
const QUEUE_PAGES: usize = 12;

/// The entries of the queues for administration.
const ADMIN_ENTRIES: u32 = 8;

/// The sectors of a page.
const SECTORS: u64 = (PAGE / 512) as u64;

/// The device, and the memory that it uses.
pub struct Nvme {
    device: VfioDevice,
    registers: Registers,
    memory: DmaMemory,
    queues: usize,
}

impl Nvme {
    /// The size of the memory.
    pub const MEMORY: usize = at::DATA + ENTRIES as usize * PAGE;

    /// Resets the device and starts it.
    pub fn start(device: VfioDevice, memory: DmaMemory) -> Result<Self> {
        let space = at::SPACE.start / PAGE..at::SPACE.end / PAGE;
        let queues = memory.contiguous(space, QUEUE_PAGES)?;
        memory.write_long(at::QUEUES, queues as u64);
        memory.write_long(at::ORDERED, 0);
        memory.write_long(at::SEEN, 0);
        let nvme = Self::attach(device, memory)?;
        nvme.enable()?;
        nvme.create_queues()?;
        Ok(nvme)
    }

    /// Continues to use a working device: its registers are not written.
    pub fn attach(device: VfioDevice, memory: DmaMemory) -> Result<Self> {
        Ok(Self {
            registers: device.registers()?,
            device,
            // CAST: `start` has written a `usize`.
            queues: memory.read_long(at::QUEUES) as usize,
            memory,
        })
    }

    /// Where a queue is in the memory.
    fn queue(&self, page: usize) -> usize {
        self.queues + page * PAGE
    }

    fn write_long(&self, register: u32, value: u64) {
        // CAST: The halves of an address.
        self.registers.write(register, value as u32);
        self.registers.write(register + 4, (value >> 32) as u32);
    }

    fn wait(&self, ready: u32) -> Result {
        eventually("the controller does not change its state", || {
            Ok(self.registers.read(reg::CSTS) & reg::CSTS_READY == ready)
        })
    }

    fn enable(&self) -> Result {
        self.device.turn_on()?;
        self.registers.write(reg::CC, 0);
        self.wait(0)?;
        let size = ADMIN_ENTRIES - 1;
        self.registers.write(reg::AQA, (size << 16) | size);
        for (register, page) in [(reg::ASQ, ADMIN_SUBMISSION), (reg::ACQ, ADMIN_COMPLETION)] {
            self.write_long(register, self.memory.physical(self.queue(page))?);
        }
        self.registers.write(reg::CC, reg::CC_ENABLE);
        self.wait(reg::CSTS_READY)
    }

    /// Creates the queues for reads, whose number is 1.
    fn create_queues(&self) -> Result {
        // CAST: Less than the most entries.
        let queue = ((ENTRIES as u32 - 1) << 16) | 1;
        let commands = [
            (CREATE_COMPLETION, COMPLETIONS, 1),
            (CREATE_SUBMISSION, SUBMISSIONS, (1 << 16) | 1),
        ];
        for (number, (opcode, page, flags)) in (0u32..).zip(commands) {
            let address = self.memory.physical(self.queue(page))?;
            let at = self.queue(ADMIN_SUBMISSION) + number as usize * SUBMISSION;
            self.put(at, [opcode, 0], address, [queue, flags, 0]);
            self.registers.write(reg::DOORBELLS, number + 1);
            let done = self.queue(ADMIN_COMPLETION) + number as usize * COMPLETION + 12;
            eventually("a command is not carried out", || {
                Ok(self.memory.read(done) & (1 << 16) != 0)
            })?;
            ensure_eq!(self.memory.read(done) >> 17, 0, "the status of a command");
        }
        Ok(())
    }

    /// Writes a command: its first word and its name space, its address, and its words 10 to 12.
    fn put(&self, at: usize, [first, space]: [u32; 2], address: u64, words: [u32; 3]) {
        let [ten, eleven, twelve] = words.map(u64::from);
        let longs = [
            u64::from(first) | (u64::from(space) << 32),
            0,
            0,
            address,
            0,
            ten | (eleven << 32),
            twelve,
            0,
        ];
        for (number, long) in longs.into_iter().enumerate() {
            self.memory.write_long(at + number * 8, long);
        }
    }

    /// The file of the device.
    pub fn device(&self) -> &VfioDevice {
        &self.device
    }

    /// The memory.
    pub fn memory(&self) -> &DmaMemory {
        &self.memory
    }

    /// How many reads were ordered.
    pub fn ordered(&self) -> u64 {
        self.memory.read_long(at::ORDERED)
    }

    /// Orders `count` reads, of the next pages of the disk; at most [`MOST_READS`] may not be complete.
    pub fn order(&self, count: u64) -> Result {
        let first = self.ordered();
        for read in first..first + count {
            // CAST: Less than the number of entries.
            let entry = (read % ENTRIES) as usize;
            let at = self.queue(SUBMISSIONS) + entry * SUBMISSION;
            let address = self.memory.physical(at::DATA + entry * PAGE)?;
            // CAST: The disk is small, and the number of an entry is.
            let words = [(read * SECTORS) as u32, 0, SECTORS as u32 - 1];
            self.put(at, [READ | ((entry as u32) << 16), 1], address, words);
        }
        self.memory.write_long(at::ORDERED, first + count);
        // CAST: Less than the number of entries.
        let tail = ((first + count) % ENTRIES) as u32;
        self.registers.write(reg::DOORBELLS + 8, tail);
        Ok(())
    }

    /// How many reads were complete when [`Self::complete`] was called last.
    pub fn seen(&self) -> u64 {
        self.memory.read_long(at::SEEN)
    }

    /// How many reads are complete.
    pub fn complete(&self) -> Result<u64> {
        let mut seen = self.seen();
        loop {
            // CAST: Less than the number of entries.
            let entry = (seen % ENTRIES) as usize;
            let phase = 1 - ((seen / ENTRIES) & 1);
            let status = self.queue(COMPLETIONS) + entry * COMPLETION + 12;
            let status = self.memory.read(status) >> 16;
            if seen == self.ordered() || u64::from(status & 1) != phase {
                break;
            }
            ensure_eq!(status >> 1, 0, "the status of a read");
            seen += 1;
        }
        self.memory.write_long(at::SEEN, seen);
        // CAST: Less than the number of entries.
        let head = (seen % ENTRIES) as u32;
        self.registers.write(reg::DOORBELLS + 12, head);
        Ok(seen)
    }

    /// Waits until all reads are complete.
    pub fn wait_for_all(&self) -> Result {
        let mut last = self.complete()?;
        while last < self.ordered() {
            within(PATIENCE, "no further read is complete", || {
                Ok(self.complete()? > last)
            })?;
            last = self.complete()?;
        }
        Ok(())
    }

    /// Fails unless the last `count` reads have read what the driver of the machine has written to the
    /// disk: each word of a sector has the number of the sector.
    pub fn check(&self, count: u64) -> Result {
        let end = self.ordered();
        for read in end - count..end {
            let page = at::DATA + (read % ENTRIES) as usize * PAGE;
            for (sector, at) in (page..page + PAGE).step_by(512).enumerate() {
                let number = read * SECTORS + sector as u64;
                for word in [at, at + 504] {
                    ensure_eq!(self.memory.read_long(word), number, "a word of a sector");
                }
            }
        }
        Ok(())
    }

    /// Stops the device.
    pub fn stop(self) -> Result {
        self.registers.write(reg::CC, 0);
        self.wait(0)
    }
}

/// How many of the first reads are complete, by the memory of a device that was not taken over.
pub fn completions(memory: &File) -> Result<u64> {
    let word = |at| {
        let mut word = [0; 8];
        memory.read_exact_at(&mut word, at).at("read a memfd")?;
        Result::Ok(u64::from_le_bytes(word))
    };
    let queue = word(at::QUEUES as u64)? + (COMPLETIONS * PAGE) as u64;
    let mut count = 0;
    for entry in 0..ENTRIES {
        let last = word(queue + entry * COMPLETION as u64 + 8)?;
        count += (last >> 48) & 1;
    }
    Ok(count)
}
