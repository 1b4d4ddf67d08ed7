// SPDX-License-Identifier: GPL-2.0

//! Values from the bytes of the fuzzer.

/// The remaining input; bytes after its end are zero.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit.max(1)
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.bytes(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number that often is a boundary value.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            kind @ 0..=127 => u64::from(kind),
            128..=143 => u64::from(self.byte()) << 12,
            144..=159 => u64::MAX - u64::from(self.byte()),
            160..=175 => (1 << 63) - 1 + u64::from(self.byte()),
            176..=191 => 1u64 << (self.byte() % 64),
            192..=207 => (1u64 << (self.byte() % 64)).wrapping_sub(1),
            _ => self.word(),
        }
    }
}
