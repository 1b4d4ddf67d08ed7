// SPDX-License-Identifier: GPL-2.0

//! Contents that can be created and compared quickly: all words of a benchmark differ, so that
//! lost and misplaced pages are detected.

use crate::support::{
    error::{ensure, At, Result},
    mapping::map_shared,
};
use std::{fs::File, os::unix::fs::FileExt};

const CHUNK: u64 = 1 << 20;
const WORD: u64 = size_of::<u64>() as u64;

/// The word number `index` of the file number `file`.
fn word(file: u64, index: u64) -> u64 {
    ((file << 40) + index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Calls `use_chunk` for pieces of a range of bytes, with the offset and a buffer.
fn chunks(at: u64, len: u64, mut use_chunk: impl FnMut(u64, &mut [u8]) -> Result) -> Result {
    let mut buffer = vec![0; CHUNK.min(len) as usize];
    let mut done = 0;
    while done < len {
        let (piece, _) = buffer.split_at_mut(CHUNK.min(len - done) as usize);
        use_chunk(at + done, piece)?;
        done += CHUNK.min(len - done);
    }
    Ok(())
}

/// Writes the contents of the file number `number` at `at`. Both bounds are multiples of
/// eight.
pub fn fill(file: &File, number: u64, at: u64, len: u64) -> Result {
    chunks(at, len, |offset, piece| {
        for (i, bytes) in (offset / WORD..).zip(piece.chunks_exact_mut(WORD as usize)) {
            bytes.copy_from_slice(&word(number, i).to_le_bytes());
        }
        file.write_all_at(piece, offset).at("write")
    })
}

/// Writes the same contents as [`fill`] to all of a file that can only be written through a
/// mapping.
pub fn fill_mapped(file: &File, number: u64, len: u64) -> Result {
    let start: *mut u64 = map_shared(file, 0, len)?.cast();
    for index in 0..len / WORD {
        // SAFETY: Within the mapping, which has no other users.
        unsafe { start.add(index as usize).write(word(number, index)) };
    }
    // SAFETY: The mapping is not used any more.
    unsafe { rustix::mm::munmap(start.cast(), len as usize) }.at("munmap")
}

/// Compares each byte of a range with `expected`, a function of the number of a word.
fn compare(file: &File, at: u64, len: u64, expected: impl Fn(u64) -> u64) -> Result {
    chunks(at, len, |offset, piece| {
        file.read_exact_at(piece, offset).at("read")?;
        for (i, bytes) in (offset / WORD..).zip(piece.chunks_exact(WORD as usize)) {
            ensure!(
                bytes == expected(i).to_le_bytes(),
                "the bytes at {} are {bytes:x?}",
                i * WORD
            );
        }
        Ok(())
    })
}

/// Fails unless [`fill`] has written all bytes of the range.
pub fn check(file: &File, number: u64, at: u64, len: u64) -> Result {
    compare(file, at, len, |i| word(number, i)).at(format_args!("file {number}"))
}

/// Fails unless all bytes of the range are zero.
pub fn check_zero(file: &File, at: u64, len: u64) -> Result {
    compare(file, at, len, |_| 0)
}
