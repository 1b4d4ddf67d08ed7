// SPDX-License-Identifier: GPL-2.0

//! Reproducible pseudo-random numbers.

pub struct Random(u64);

impl Random {
    /// Prints the seed if a test fails.
    pub fn new() -> Self {
        let seed = 0x2545_f491_4f6c_dd1d;
        println!("seed {seed:#x}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
