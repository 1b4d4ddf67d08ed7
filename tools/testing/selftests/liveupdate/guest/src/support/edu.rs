// SPDX-License-Identifier: GPL-2.0

//! QEMU's device `edu` with the sample driver: it computes, and copies by DMA.

use crate::support::{
    error::{ensure_eq, At, Failure, Result},
    mapping::map_shared,
    test_device::{open_test_device, TestDevice},
    wait::eventually,
};
use std::{
    fs,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

pub const DEVICE: &str = "/dev/rust_edu";

/// The number of bytes of a copy; the buffer has twice that size.
pub const HALF: usize = 2048;

/// An open file of the device, and its buffer.
pub struct Edu {
    pub device: TestDevice,
    buffer: *mut u8,
}

impl Edu {
    /// Opens the device; skips the test if the kernel was built without its driver.
    pub fn open() -> Result<Self> {
        Self::new(open_test_device(DEVICE)?.into())
    }

    /// Maps the buffer of an open file.
    pub fn new(file: OwnedFd) -> Result<Self> {
        let buffer = map_shared(&file, 0, 2 * HALF as u64)?.cast();
        Ok(Self {
            device: file.into(),
            buffer,
        })
    }

    fn byte(&self, at: usize) -> *mut u8 {
        self.buffer.wrapping_add(at)
    }

    /// The byte at `at` in the first half of the buffer.
    fn pattern(seed: u8, at: usize) -> u8 {
        // CAST: Any byte is fine.
        (at as u8).wrapping_mul(7).wrapping_add(seed)
    }

    /// Copies a pattern to the device.
    pub fn send(&self, seed: u8) -> Result {
        for at in 0..HALF {
            // SAFETY: Within the mapping; the device may access it at the same time.
            unsafe { self.byte(at).write_volatile(Self::pattern(seed, at)) };
        }
        self.device.write("send")?;
        self.device.write("wait")
    }

    /// The number of bytes of the second half that match the pattern.
    pub fn received(&self, seed: u8) -> usize {
        let same = |at: &usize| {
            // SAFETY: Within the mapping; the device may access it at the same time.
            let found = unsafe { self.byte(HALF + at).read_volatile() };
            found == Self::pattern(seed, *at)
        };
        (0..HALF).filter(same).count()
    }

    /// The number of interrupts that the driver has counted.
    pub fn interrupts(&self) -> Result<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.device.as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).at(path)?;
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("edu-interrupts:"));
        let count = count.ok_or_else(|| Failure::new("no interrupts in fdinfo"))?;
        Ok(count.trim().parse()?)
    }

    /// Fails unless the device computes, copies and interrupts.
    pub fn works(&self, seed: u8) -> Result {
        let before = self.interrupts()?;
        self.device.write("factorial 6")?;
        ensure_eq!(self.device.value()?, 720, "6!");
        self.send(seed)?;
        self.device.write("receive")?;
        self.device.write("wait")?;
        ensure_eq!(self.received(seed), HALF, "bytes copied");
        eventually("there are less interrupts than copies", || {
            Ok(self.interrupts()? >= before + 2)
        })
    }
}
