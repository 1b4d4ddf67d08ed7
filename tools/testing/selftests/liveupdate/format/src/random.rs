// SPDX-License-Identifier: GPL-2.0

//! Numbers that look random and are the same in each run.

pub struct Random(u64);

impl Random {
    /// Says which numbers these are, for the case that a test fails.
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
