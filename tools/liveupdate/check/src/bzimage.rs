// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The boot protocol's header of a bzImage.
//!
//! See Documentation/arch/x86/boot.rst in the kernel.

use crate::ImageError;
use flate2::Crc;

/// The unit of the length of the image in the header, in bytes.
const PARAGRAPH: usize = 16;

/// `XLF_KERNEL_64`: the kernel has an entry point for 64 bits.
const KERNEL_64: u16 = 1;

/// `XLF_CAN_BE_LOADED_ABOVE_4G`
const ABOVE_4G: u16 = 2;

/// The parsed header.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BzImage<'a> {
    /// The version string: the release and more.
    pub version: Option<String>,
    /// The compressed kernel, followed by the length of the kernel.
    pub payload: &'a [u8],
    /// The memory that the kernel needs to start, in bytes.
    pub init_size: u64,
    /// Whether the image ends with a correct checksum of the whole image. Kernels up to Linux
    /// 6.14 have one; signing an image invalidates it.
    pub crc_matches: bool,
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn number(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(bytes(file, at)?)).ok()
}

/// Returns whether a file begins like a bzImage.
pub fn is_bzimage(file: &[u8]) -> bool {
    bytes(file, 0x1fe) == Some([0x55, 0xaa]) && bytes(file, 0x202) == Some(*b"HdrS")
}

impl<'a> BzImage<'a> {
    /// Parses a file.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotAKernel`] if there is no header, [`ImageError::Damaged`] if it points
    /// beyond the file or the file is truncated, [`ImageError::Unsupported`] if it is older than
    /// version 2.12 (Linux 3.8), [`ImageError::Unbootable`] if the kernel cannot be started by a
    /// kernel of 64 bits.
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        if !is_bzimage(file) {
            return Err(ImageError::NotAKernel);
        }
        Self::fields(file).ok_or(ImageError::Damaged("the header points beyond the file"))?
    }

    fn fields(file: &'a [u8]) -> Option<Result<Self, ImageError>> {
        let protocol = u16::from_le_bytes(bytes(file, 0x206)?);
        if protocol < 0x20c {
            return Some(Err(ImageError::Unsupported(format!(
                "boot protocol {}.{:02}",
                protocol >> 8,
                protocol & 0xff
            ))));
        }
        let sectors = match *file.get(0x1f1)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let start = (sectors + 1) * 512;
        let offset = start.checked_add(number(file, 0x248)?)?;
        let payload = file.get(offset..offset.checked_add(number(file, 0x24c)?)?)?;
        let flags = u16::from_le_bytes(bytes(file, 0x236)?);
        if flags & (KERNEL_64 | ABOVE_4G) != KERNEL_64 | ABOVE_4G {
            let why = "it is not a relocatable kernel for x86-64";
            return Some(Err(ImageError::Unbootable(why.to_owned())));
        }
        let version = Self::version(file);
        let end = start.checked_add(number(file, 0x1f4)?.checked_mul(PARAGRAPH)?)?;
        // The kernel's build, which adds a version to its images, pads the last paragraph.
        let missing = end.saturating_sub(file.len());
        if missing >= PARAGRAPH || (missing > 0 && version.is_some()) {
            return Some(Err(ImageError::Damaged("its end is missing")));
        }
        if end < offset.checked_add(payload.len())?.saturating_sub(PARAGRAPH) {
            return Some(Err(ImageError::Damaged(
                "the compressed kernel is not within the image",
            )));
        }
        let mut crc = Crc::new();
        crc.update(file.get(..end.min(file.len()))?);
        Some(Ok(Self {
            version,
            payload,
            init_size: u64::try_from(number(file, 0x260)?).ok()?,
            // The checksum is stored without the last inversion.
            crc_matches: crc.sum() == u32::MAX,
        }))
    }

    fn version(file: &[u8]) -> Option<String> {
        let at = usize::from(u16::from_le_bytes(bytes(file, 0x20e)?));
        if at == 0 {
            return None;
        }
        let text = file.get(at + 0x200..)?;
        let text = text
            .get(..text.len().min(256))?
            .split(|byte| *byte == 0)
            .next()?;
        let text = std::str::from_utf8(text).ok()?;
        let printable = !text.is_empty() && text.chars().all(|c| !c.is_control());
        printable.then(|| text.to_owned())
    }
}
