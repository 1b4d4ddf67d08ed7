// SPDX-License-Identifier: GPL-2.0

//! Reproducible pseudo-random contents.

use crate::support::error::{ensure_eq, At, Result};
use sha2::{Digest, Sha256};
use std::{fs::File, os::unix::fs::FileExt};

const CHUNK: usize = 1 << 20;

/// A SHA-256 digest.
#[derive(Clone, PartialEq, Eq)]
pub struct Sum([u8; 32]);

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Pseudo-random bytes: xorshift64*.
pub struct Random(u64);

impl Random {
    /// Each seed creates another sequence.
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not start with similar bytes, and the state must not be 0.
        let mut this = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            this.number();
        }
        this
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            for (to, from) in chunk.iter_mut().zip(self.number().to_le_bytes()) {
                *to = from;
            }
        }
    }

    /// Shuffles `items`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.number() % (i as u64 + 1)) as usize);
        }
    }
}

/// `len` bytes that depend only on `seed`.
#[derive(Clone, Copy)]
pub struct Pattern {
    pub seed: u64,
    pub len: u64,
}

impl Pattern {
    pub fn new(seed: u64, len: u64) -> Self {
        Self { seed, len }
    }

    fn pieces(&self, mut use_piece: impl FnMut(u64, &[u8]) -> Result) -> Result {
        let mut random = Random::new(self.seed);
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        while offset < self.len {
            let len = (self.len - offset).min(CHUNK as u64);
            let (piece, _) = buffer.split_at_mut(len as usize);
            random.fill(piece);
            use_piece(offset, piece)?;
            offset += len;
        }
        Ok(())
    }

    /// Writes the bytes to `file` at `at`; does not change the file's position.
    pub fn write(&self, file: &File, at: u64) -> Result {
        self.pieces(|offset, piece| file.write_all_at(piece, at + offset).at("write a pattern"))
    }

    /// Stores the bytes in a mapping.
    pub fn copy_to(&self, to: &mut [u8]) -> Result {
        self.pieces(|offset, piece| {
            to[offset as usize..][..piece.len()].copy_from_slice(piece);
            Ok(())
        })
    }

    /// The digest of the bytes.
    pub fn sum(&self) -> Result<Sum> {
        let mut hash = Sha256::new();
        self.pieces(|_, piece| {
            hash.update(piece);
            Ok(())
        })?;
        Ok(Sum(hash.finalize().into()))
    }

    /// Compares the bytes with those of `file` at `at`.
    pub fn check(&self, file: &File, at: u64) -> Result {
        let found = sum_range(file, at, self.len)?;
        ensure_eq!(
            found,
            self.sum()?,
            "the SHA-256 of {} bytes at {at}",
            self.len
        );
        Ok(())
    }
}

/// The digest of `len` bytes of `file` at `at`; does not change the file's position.
pub fn sum_range(file: &File, at: u64, len: u64) -> Result<Sum> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < len {
        let (piece, _) = buffer.split_at_mut((len - done).min(CHUNK as u64) as usize);
        file.read_exact_at(piece, at + done).at(format_args!(
            "read {} bytes at {}",
            piece.len(),
            at + done
        ))?;
        hash.update(&*piece);
        done += piece.len() as u64;
    }
    Ok(Sum(hash.finalize().into()))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn empty_sum() {
        let sum = Pattern::new(1, 0).sum().unwrap().to_string();
        assert!(sum.starts_with("e3b0c44298fc1c14"));
    }

    #[test]
    fn shuffle_keeps_all() {
        let mut items: Vec<u32> = (0..100).collect();
        Random::new(3).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
