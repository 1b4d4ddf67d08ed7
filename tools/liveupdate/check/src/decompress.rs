// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Decompression of kernels, with a limit of the size.

use crate::ImageError;
use std::{borrow::Cow, io::Read};

/// The magic number of the LZ4 format that the kernel uses, "legacy".
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];

/// The length of a block of that format before it was compressed.
const LZ4_BLOCK: usize = 8 << 20;

/// The length of the kernel, in bytes, at the end of a payload.
const TRAILER: usize = 4;

/// The maximum window of a compressed kernel, in bytes: that of `zstd -22 --ultra`.
const WINDOW_MAX: u64 = 128 << 20;

const DAMAGED: ImageError = ImageError::Damaged("the compressed kernel cannot be decompressed");
const LENGTH: ImageError = ImageError::Damaged("the compressed kernel has another length");

/// A kernel.
pub(crate) struct Kernel<'a> {
    /// An ELF file, and the data that the kernel's build adds; or an arm64 Image.
    pub(crate) bytes: Cow<'a, [u8]>,
    /// Why damage to it may be undetected; [`None`] if there is a correct checksum.
    pub(crate) unverified: Option<&'static str>,
}

/// Reads exactly `length` bytes.
fn read_all(source: impl Read, length: usize) -> Result<Vec<u8>, ImageError> {
    let mut out = Vec::new();
    // One byte more than the length, to detect more data, and to make the decoder check the
    // checksum.
    let mut source = source.take(u64::try_from(length).unwrap_or(u64::MAX).saturating_add(1));
    source.read_to_end(&mut out).map_err(|_| DAMAGED)?;
    Ok(out)
}

fn lz4(mut payload: &[u8], length: usize) -> Result<Vec<u8>, ImageError> {
    let mut out = Vec::new();
    payload = payload.get(LZ4_LEGACY.len()..).ok_or(DAMAGED)?;
    // The four bytes after the last block are the length of the kernel.
    while payload.len() > TRAILER {
        // Only the last block is shorter.
        if out.len() % LZ4_BLOCK != 0 || out.len() > length {
            return Err(LENGTH);
        }
        let (size, rest) = payload.split_first_chunk::<4>().ok_or(DAMAGED)?;
        let size = usize::try_from(u32::from_le_bytes(*size)).map_err(|_| DAMAGED)?;
        let block = rest.get(..size).ok_or(DAMAGED)?;
        payload = rest.get(size..).ok_or(DAMAGED)?;
        let plain = lz4_flex::block::decompress(block, LZ4_BLOCK).map_err(|_| DAMAGED)?;
        if plain.is_empty() {
            return Err(DAMAGED);
        }
        out.extend_from_slice(&plain);
    }
    Ok(out)
}

/// The window size of a frame, in bytes; see RFC 8878, section 3.1.1.1.
fn zstd_window(payload: &[u8]) -> Option<u64> {
    let descriptor = *payload.get(4)?;
    let rest = payload.get(5..)?;
    if descriptor & 0x20 == 0 {
        let window = *rest.first()?;
        let base = 1_u64.checked_shl(10 + u32::from(window >> 3))?;
        return base.checked_add(base / 8 * u64::from(window & 7));
    }
    // A single segment: the window has the size of the content.
    let rest = rest.get([0, 1, 2, 4].get(usize::from(descriptor & 3)).copied()?..)?;
    Some(match descriptor >> 6 {
        0 => u64::from(*rest.first()?),
        1 => u64::from(u16::from_le_bytes(*rest.first_chunk()?)) + 256,
        2 => u64::from(u32::from_le_bytes(*rest.first_chunk()?)),
        _ => u64::from_le_bytes(*rest.first_chunk()?),
    })
}

/// Returns whether the frame has a checksum as well.
fn zstd(payload: &[u8], length: usize) -> Result<(Vec<u8>, bool), ImageError> {
    if zstd_window(payload).ok_or(DAMAGED)? > WINDOW_MAX {
        let what = "compression with zstd and a window of more than 128 MiB";
        return Err(ImageError::Unsupported(what.to_owned()));
    }
    let mut decoder = ruzstd::StreamingDecoder::new(payload).map_err(|_| DAMAGED)?;
    let out = read_all(&mut decoder, length)?;
    let decoder = decoder.into_frame_decoder();
    let checksum = decoder.get_checksum_from_data();
    if checksum.is_some() && checksum != decoder.get_calculated_checksum() {
        return Err(ImageError::Damaged(
            "the checksum of the compressed kernel is wrong",
        ));
    }
    Ok((out, checksum.is_some()))
}

/// Decompresses a kernel as the kernel's build compresses it, to `limit` bytes at most.
///
/// Its last four bytes are the length of the kernel. Data between them and the compressed data is
/// ignored.
pub(crate) fn decompress(payload: &[u8], limit: usize) -> Result<Kernel<'_>, ImageError> {
    let unsupported = |name: &str| Err(ImageError::Unsupported(format!("compression with {name}")));
    match payload {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return unsupported("xz"),
        [b'B', b'Z', b'h', ..] => return unsupported("bzip2"),
        [0x5d, 0, 0, ..] => return unsupported("lzma"),
        [0x89, b'L', b'Z', b'O', ..] => return unsupported("lzo"),
        _ => {}
    }
    let (rest, length) = payload.split_last_chunk::<TRAILER>().ok_or(DAMAGED)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DAMAGED)?;
    let known = matches!(
        payload,
        [0x1f, 0x8b, ..]
            | [0x28, 0xb5, 0x2f, 0xfd, ..]
            | [0x02, 0x21, 0x4c, 0x18, ..]
            | [0x7f, b'E', b'L', b'F', ..]
    );
    if known && length > limit {
        return Err(ImageError::TooLarge);
    }
    let (bytes, unverified) = match payload {
        [0x1f, 0x8b, ..] => {
            let decoder = flate2::read::GzDecoder::new(payload);
            (Cow::from(read_all(decoder, length)?), None)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let (bytes, has_checksum) = zstd(payload, length)?;
            let without = "the compressed kernel has no checksum: damage would not be detected";
            (Cow::from(bytes), (!has_checksum).then_some(without))
        }
        _ if payload.starts_with(LZ4_LEGACY) => (
            Cow::from(lz4(payload, length)?),
            Some("lz4 has no checksum: damage to the kernel would not be detected"),
        ),
        [0x7f, b'E', b'L', b'F', ..] => (
            Cow::from(rest),
            Some("the kernel is not compressed and has no checksum: damage would not be detected"),
        ),
        _ => return Err(ImageError::Unsupported("an unknown compression".to_owned())),
    };
    if bytes.len() != length {
        return Err(LENGTH);
    }
    Ok(Kernel { bytes, unverified })
}
