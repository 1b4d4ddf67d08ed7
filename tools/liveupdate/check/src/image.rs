// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Properties of a kernel from its image.

use crate::{
    arm64::{self, Arm64Image},
    bzimage::{is_bzimage, BzImage},
    decompress::decompress,
    elf,
    formats::{self, Features, Formats},
    Machine, ModuleFormats,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, error::Error, fmt, io::Read};

/// Files larger than this, in bytes, are not read.
pub const IMAGE_MAX: usize = 256 << 20;

/// Kernels larger than this, in bytes, are not decompressed.
pub const KERNEL_MAX: usize = 512 << 20;

/// Why an image could not be examined.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageError {
    /// Not a known kind of kernel image.
    NotAKernel,
    /// The image is damaged and would not boot.
    Damaged(&'static str),
    /// This machine cannot start the image.
    Unbootable(String),
    /// The image has an unsupported kind. It may be valid.
    Unsupported(String),
    /// The file is larger than [`IMAGE_MAX`], or the kernel larger than [`KERNEL_MAX`].
    TooLarge,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAKernel => write!(f, "the file is not a bzImage, vmlinux or arm64 Image"),
            Self::Damaged(what) => write!(f, "the image is damaged: {what}"),
            Self::Unbootable(why) => write!(f, "the image cannot be started: {why}"),
            Self::Unsupported(what) => {
                write!(f, "the image cannot be examined: {what} is not supported")
            }
            Self::TooLarge => write!(f, "the kernel is larger than any kernel should be"),
        }
    }
}

impl Error for ImageError {}

/// Properties of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Image {
    /// The machines that it is for.
    #[serde(default)]
    pub machine: Machine,
    /// The version in the header of a bzImage, or in the first message of an arm64 Image.
    pub version: Option<String>,
    /// The length of the file.
    pub file_size: u64,
    /// The memory that it needs to start, in bytes; 0 if this is not known.
    pub init_size: u64,
    /// The supported formats.
    pub formats: Formats,
    /// The formats that have features instead of a version.
    #[serde(default)]
    pub features: BTreeMap<String, Features>,
    /// The formats that installed modules support.
    #[serde(default)]
    pub modules: ModuleFormats,
    /// Why damage to the kernel may be undetected; [`None`] if its checksum is correct.
    #[serde(default)]
    pub unverified: Option<String>,
    /// Relevant settings of the configuration, if it is known.
    pub config: Option<BTreeMap<String, String>>,
}

impl Image {
    /// A kernel that supports `formats`, and of which nothing else is known.
    pub fn new(machine: Machine, formats: Formats) -> Self {
        Self {
            machine,
            version: None,
            file_size: 0,
            init_size: 0,
            formats,
            features: BTreeMap::new(),
            modules: ModuleFormats::default(),
            unverified: None,
            config: None,
        }
    }

    /// Examines an image for x86-64 or arm64.
    ///
    /// Time and memory are bounded by [`KERNEL_MAX`] and the length of the file.
    ///
    /// # Errors
    ///
    /// See [`ImageError`].
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        Self::parse_within(file, KERNEL_MAX)
    }

    /// Like [`Self::parse`], for kernels of `limit` bytes at most.
    ///
    /// # Errors
    ///
    /// See [`ImageError`].
    pub fn parse_within(file: &[u8], limit: usize) -> Result<Self, ImageError> {
        let file_size = u64::try_from(file.len()).unwrap_or(u64::MAX);
        if is_bzimage(file) {
            let header = BzImage::parse(file)?;
            let kernel = decompress(header.payload, limit)?;
            if !elf::is_elf(&kernel.bytes) {
                return Err(ImageError::Unsupported(
                    "a kernel that is not ELF".to_owned(),
                ));
            }
            elf::check_kernel(&kernel.bytes)?;
            let (formats, features) = formats::find(&kernel.bytes);
            let unverified = kernel.unverified.filter(|_| !header.crc_matches);
            Ok(Self {
                machine: Machine::X86_64,
                version: header.version,
                file_size,
                init_size: header.init_size,
                formats,
                features,
                modules: ModuleFormats::default(),
                unverified: unverified.map(str::to_owned),
                config: config(&kernel.bytes),
            })
        } else if elf::is_elf(file) {
            elf::check_kernel(file)?;
            let (formats, features) = formats::find(file);
            Ok(Self {
                machine: Machine::X86_64,
                version: None,
                file_size,
                init_size: file_size,
                formats,
                features,
                modules: ModuleFormats::default(),
                unverified: Some(
                    "a vmlinux has no checksum, and must be converted to a bzImage to be loaded"
                        .to_owned(),
                ),
                config: config(file),
            })
        } else if arm64::is_zboot(file) {
            let kernel = arm64::unpack(file, limit)?;
            let unverified = kernel.unverified.map(str::to_owned);
            if !arm64::is_arm64(&kernel.bytes) {
                return Err(ImageError::Unsupported(
                    "a compressed kernel that is not an arm64 Image".to_owned(),
                ));
            }
            Self::arm64(&kernel.bytes, unverified)
        } else if arm64::is_arm64(file) {
            let without = "an Image has no checksum: damage would not be detected";
            Self::arm64(file, Some(without.to_owned()))
        } else {
            Err(other_kind(file))
        }
    }

    /// Examines an Image.
    fn arm64(kernel: &[u8], unverified: Option<String>) -> Result<Self, ImageError> {
        let header = Arm64Image::parse(kernel)?;
        Ok(Self {
            machine: Machine::Arm64 {
                page_size: header.page_size,
            },
            version: banner(kernel),
            file_size: u64::try_from(kernel.len()).unwrap_or(u64::MAX),
            init_size: header.image_size,
            formats: formats::find_raw(kernel),
            features: BTreeMap::new(),
            modules: ModuleFormats::default(),
            unverified,
            config: config(kernel),
        })
    }

    /// Uses `text` as the configuration of the kernel, if it has none embedded: distributions install
    /// it as a file beside the image.
    pub fn add_config(&mut self, text: &str) {
        self.config.get_or_insert_with(|| relevant(text));
    }

    /// A setting of the configuration: [`None`] if it is not known, `Some("n")` if it is not set.
    pub fn setting(&self, name: &str) -> Option<&str> {
        let config = self.config.as_ref()?;
        Some(config.get(name).map_or("n", String::as_str))
    }
}

/// The image that `kexec_file_load()` takes, from one that it does not take: the kernel of an EFI
/// program (zboot). [`None`] if the image is another one, which is loaded as it is.
///
/// # Errors
///
/// See [`ImageError`].
pub fn unpack(file: &[u8]) -> Result<Option<Vec<u8>>, ImageError> {
    if !arm64::is_zboot(file) {
        return Ok(None);
    }
    let kernel = arm64::unpack(file, KERNEL_MAX)?;
    Ok(Some(kernel.bytes.into_owned()))
}

/// The version in the first message of a kernel.
fn banner(kernel: &[u8]) -> Option<String> {
    const BEGIN: &[u8] = b"Linux version ";
    let mut rest = kernel;
    while let Some(at) = rest.windows(BEGIN.len()).position(|part| part == BEGIN) {
        rest = rest.get(at + BEGIN.len()..)?;
        let text = rest.get(..rest.len().min(256))?;
        let word = text.split(|byte| *byte == b' ').next()?;
        // Formats of messages begin like this as well.
        if word.first().is_some_and(u8::is_ascii_digit) && word.iter().all(u8::is_ascii_graphic) {
            return Some(String::from_utf8_lossy(word).into_owned());
        }
    }
    None
}

/// The error for a file of another kind.
fn other_kind(file: &[u8]) -> ImageError {
    let unsupported = |what: &str| ImageError::Unsupported(what.to_owned());
    match (file, file.get(56..60)) {
        (_, Some(b"RSC\x05")) => unsupported("a RISC-V Image"),
        ([b'M', b'Z', ..], _) => unsupported("an EFI program, such as a unified kernel image,"),
        (
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0xfd, b'7', b'z', b'X', b'Z', ..],
            _,
        ) => unsupported("a compressed file"),
        _ => ImageError::NotAKernel,
    }
}

/// The markers of the compressed configuration in a kernel with `CONFIG_IKCONFIG`.
const CONFIG_BEGIN: &[u8] = b"IKCFG_ST";
const CONFIG_END: &[u8] = b"IKCFG_ED";

/// The maximum size of a configuration.
const CONFIG_MAX: u64 = 4 << 20;

fn config(kernel: &[u8]) -> Option<BTreeMap<String, String>> {
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|part| part == what);
    let begin = find(kernel, CONFIG_BEGIN)? + CONFIG_BEGIN.len();
    let packed = kernel.get(begin..)?;
    let packed = packed.get(..find(packed, CONFIG_END)?)?;
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(packed)
        .take(CONFIG_MAX)
        .read_to_end(&mut text)
        .ok()?;
    Some(relevant(&String::from_utf8_lossy(&text)))
}

/// The relevant settings of a configuration: those of live updates and of virtual machines.
fn relevant(config: &str) -> BTreeMap<String, String> {
    let settings = config.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
        let relevant = ["KEXEC", "KVM", "LIVEUPDATE"];
        let relevant = relevant.iter().any(|first| name.starts_with(first));
        relevant.then(|| (name.to_owned(), value.trim_matches('"').to_owned()))
    });
    settings.collect()
}
