// SPDX-License-Identifier: GPL-2.0

//! The compressions that kernels use, with an end to what they may grow to.

use crate::ImageError;
use std::io::Read;

/// The magic number of the LZ4 format that the kernel uses, "legacy".
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];

/// The length of a block of that format before it was compressed.
const LZ4_BLOCK: usize = 8 << 20;

fn read_all(source: impl Read, limit: usize) -> Result<Vec<u8>, ImageError> {
    let mut out = Vec::new();
    // One byte more than what is allowed, to know whether there is more.
    let mut source = source.take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1));
    source
        .read_to_end(&mut out)
        .map_err(|_| ImageError::Damaged("the compressed kernel cannot be decompressed"))?;
    if out.len() > limit {
        return Err(ImageError::TooLarge);
    }
    Ok(out)
}

fn lz4(mut payload: &[u8], limit: usize) -> Result<Vec<u8>, ImageError> {
    const DAMAGED: ImageError = ImageError::Damaged("the compressed kernel cannot be decompressed");
    let mut out = Vec::new();
    payload = payload.get(LZ4_LEGACY.len()..).ok_or(DAMAGED)?;
    // The four bytes behind the last block are the length of the kernel.
    while payload.len() > 4 {
        let (length, rest) = payload.split_first_chunk::<4>().ok_or(DAMAGED)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DAMAGED)?;
        let block = rest.get(..length).ok_or(DAMAGED)?;
        payload = rest.get(length..).ok_or(DAMAGED)?;
        let plain = lz4_flex::block::decompress(block, LZ4_BLOCK).map_err(|_| DAMAGED)?;
        out.extend_from_slice(&plain);
        if out.len() > limit {
            return Err(ImageError::TooLarge);
        }
    }
    Ok(out)
}

/// Decompresses the payload of a bzImage, to `limit` bytes at most. What follows the compressed
/// data is ignored.
pub(crate) fn decompress(payload: &[u8], limit: usize) -> Result<Vec<u8>, ImageError> {
    let unsupported = |name: &str| Err(ImageError::Unsupported(format!("compression with {name}")));
    match payload {
        [0x1f, 0x8b, ..] => read_all(flate2::read::GzDecoder::new(payload), limit),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::StreamingDecoder::new(payload)
                .map_err(|_| ImageError::Damaged("the compressed kernel cannot be decompressed"))?;
            read_all(decoder, limit)
        }
        _ if payload.starts_with(LZ4_LEGACY) => lz4(payload, limit),
        [0x7f, b'E', b'L', b'F', ..] if payload.len() <= limit => Ok(payload.to_vec()),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz"),
        [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
        [0x5d, 0, 0, ..] => unsupported("lzma"),
        [0x89, b'L', b'Z', b'O', ..] => unsupported("lzo"),
        _ => Err(ImageError::Unsupported("an unknown compression".to_owned())),
    }
}
