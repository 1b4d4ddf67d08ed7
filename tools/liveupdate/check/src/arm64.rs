// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The header of an arm64 Image, and EFI programs that contain one (zboot).
//!
//! See Documentation/arch/arm64/booting.rst and drivers/firmware/efi/libstub/zboot-header.S in the
//! kernel.

use crate::{
    decompress::{decompress, Kernel},
    ImageError,
};

/// The length of the header, in bytes.
const HEADER: usize = 64;

/// The header of an Image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Arm64Image {
    /// The memory that the kernel needs to start, in bytes.
    pub image_size: u64,
    /// The size of its pages, in bytes; [`None`] if the header does not tell it.
    pub page_size: Option<u32>,
}

fn long(file: &[u8], at: usize) -> Option<u64> {
    let bytes = file.get(at..at.checked_add(8)?)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes))
}

fn word(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

/// Returns whether a file begins like an Image.
pub fn is_arm64(file: &[u8]) -> bool {
    file.get(56..60) == Some(b"ARM\x64")
}

/// Returns whether a file begins like a kernel that an EFI program unpacks.
pub fn is_zboot(file: &[u8]) -> bool {
    file.starts_with(b"MZ") && file.get(4..8) == Some(b"zimg")
}

impl Arm64Image {
    /// Parses the header of a file.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotAKernel`] if there is no header, [`ImageError::Damaged`] if the file ends in
    /// it, [`ImageError::Unbootable`] if the kernel is big-endian or older than Linux 3.17, whose
    /// header does not tell its size.
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        const SHORT: ImageError = ImageError::Damaged("its end is missing");
        let unbootable = |why: &str| Err(ImageError::Unbootable(why.to_owned()));
        if !is_arm64(file) {
            return Err(ImageError::NotAKernel);
        }
        if file.len() < HEADER {
            return Err(SHORT);
        }
        let image_size = long(file, 16).ok_or(SHORT)?;
        let flags = long(file, 24).ok_or(SHORT)?;
        if image_size == 0 {
            return unbootable("its header does not tell its size");
        }
        if flags & 1 != 0 {
            return unbootable("it is big-endian");
        }
        let page_size = match (flags >> 1) & 3 {
            1 => Some(4 << 10),
            2 => Some(16 << 10),
            3 => Some(64 << 10),
            _ => None,
        };
        Ok(Self {
            image_size,
            page_size,
        })
    }
}

/// Unpacks the kernel of an EFI program, to `limit` bytes at most.
///
/// # Errors
///
/// [`ImageError::Damaged`] if the kernel is not within the file or cannot be unpacked,
/// [`ImageError::Unsupported`] for other compressions than gzip, lz4 and zstd, and
/// [`ImageError::TooLarge`].
pub(crate) fn unpack(file: &[u8], limit: usize) -> Result<Kernel<'_>, ImageError> {
    let payload = payload(file).ok_or(ImageError::Damaged("its end is missing"))?;
    decompress(payload, limit)
}

/// The compressed kernel, followed by its length.
fn payload(file: &[u8]) -> Option<&[u8]> {
    let start = word(file, 8)?;
    let end = start.checked_add(word(file, 12)?)?;
    // The format of gzip ends with the length; in others, the size of the payload does not include
    // it.
    let gzip = file.get(24..)?.starts_with(b"gzip\0");
    file.get(start..end.checked_add(if gzip { 0 } else { 4 })?)
}
