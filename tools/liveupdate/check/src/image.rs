// SPDX-License-Identifier: GPL-2.0

//! What can be found out about a kernel from its image.

use crate::{
    bzimage::{is_bzimage, BzImage},
    decompress::decompress,
    elf::{self, Section},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt,
    io::Read,
};

/// Files larger than this are not read.
pub const IMAGE_MAX: usize = 512 << 20;

/// Kernels larger than this are not decompressed.
pub const KERNEL_MAX: usize = 1 << 30;

/// The section with the list, as `include/asm-generic/vmlinux.lds.h` of our kernels names it.
const SECTION: &[u8] = b".liveupdate_versions";
const MAGIC: u32 = 0x4c56_5550;
const VERSION: u32 = 1;
const ENTRY: usize = 48;

/// Why an image could not be examined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Neither a bzImage nor an ELF file.
    NotAKernel,
    /// Something in it is not as it has to be.
    Damaged(&'static str),
    /// It is made in a way that this program does not know.
    Unsupported(String),
    /// The kernel is larger than [`KERNEL_MAX`].
    TooLarge,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAKernel => write!(f, "the file is no bzImage and no vmlinux"),
            Self::Damaged(what) => write!(f, "the image is damaged: {what}"),
            Self::Unsupported(what) => {
                write!(f, "the image cannot be examined: {what} is not supported")
            }
            Self::TooLarge => write!(f, "the kernel is larger than any kernel should be"),
        }
    }
}

impl Error for ImageError {}

/// The formats that a kernel understands, as far as the image tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", content = "names", rename_all = "kebab-case")]
pub enum Formats {
    /// The image has a list: that is all of them.
    List(BTreeSet<String>),
    /// The image has no list. These names are somewhere in it, which does not prove that they are
    /// used for anything.
    Strings(BTreeSet<String>),
    /// The image has a list of a version that this program does not know, or one that is damaged.
    Unreadable(String),
}

/// What is known about a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The version, as the header of a bzImage has it.
    pub version: Option<String>,
    /// The length of the file.
    pub file_size: u64,
    /// How much memory it needs to start, in bytes; 0 if that is not known.
    pub init_size: u64,
    /// What it understands.
    pub formats: Formats,
    /// The settings of interest in the configuration that is embedded in it, if there is one.
    pub config: Option<BTreeMap<String, String>>,
}

impl Image {
    /// Examines an image.
    ///
    /// # Errors
    ///
    /// See [`ImageError`].
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        Self::parse_within(file, KERNEL_MAX)
    }

    /// As [`Self::parse`], for kernels of `limit` bytes at most.
    ///
    /// # Errors
    ///
    /// See [`ImageError`].
    pub fn parse_within(file: &[u8], limit: usize) -> Result<Self, ImageError> {
        let file_size = u64::try_from(file.len()).unwrap_or(u64::MAX);
        if is_bzimage(file) {
            let header = BzImage::parse(file)?;
            let kernel = decompress(header.payload, limit)?;
            if !elf::is_elf(&kernel) {
                return Err(ImageError::Unsupported(
                    "a kernel that is not ELF".to_owned(),
                ));
            }
            Ok(Self {
                version: header.version,
                file_size,
                init_size: header.init_size,
                formats: formats(&kernel),
                config: config(&kernel),
            })
        } else if elf::is_elf(file) {
            Ok(Self {
                version: None,
                file_size,
                init_size: file_size,
                formats: formats(file),
                config: config(file),
            })
        } else {
            Err(ImageError::NotAKernel)
        }
    }

    /// A setting of the embedded configuration: [`None`] if there is no configuration,
    /// `Some("n")` if it is not set.
    pub fn setting(&self, name: &str) -> Option<&str> {
        let config = self.config.as_ref()?;
        Some(config.get(name).map_or("n", String::as_str))
    }
}

fn formats(kernel: &[u8]) -> Formats {
    match elf::section(kernel, SECTION) {
        Section::Found(section) => match list(section) {
            Ok(names) => Formats::List(names),
            Err(why) => Formats::Unreadable(why),
        },
        Section::Absent => Formats::Strings(strings(kernel)),
        Section::Unreadable => {
            Formats::Unreadable("the sections of the kernel cannot be read".to_owned())
        }
    }
}

fn list(section: &[u8]) -> Result<BTreeSet<String>, String> {
    let damaged = || "the list of formats is damaged".to_owned();
    let (magic, rest) = section.split_first_chunk::<4>().ok_or_else(damaged)?;
    let (version, entries) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    if u32::from_le_bytes(*magic) != MAGIC {
        return Err(damaged());
    }
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(format!("the list of formats has version {version}"));
    }
    let entries = entries.chunks_exact(ENTRY);
    if !entries.remainder().is_empty() {
        return Err(damaged());
    }
    entries
        .map(|entry| {
            let end = entry.iter().position(|byte| *byte == 0)?;
            let (name, rest) = entry.split_at(end);
            let sound = !name.is_empty()
                && name.iter().all(u8::is_ascii_graphic)
                && rest.iter().all(|byte| *byte == 0);
            sound.then(|| String::from_utf8_lossy(name).into_owned())
        })
        .collect::<Option<_>>()
        .ok_or_else(damaged)
}

/// The families of names that kernels without a list can have.
const FAMILIES: [&[u8]; 3] = [b"kho-v", b"luo-v", b"memfd-v"];

/// Finds null-terminated names of the [`FAMILIES`], each with a number at its end.
///
/// In front of a name can be the end of another string, or of a pointer, but no text.
fn strings(kernel: &[u8]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut start = 0;
    // All of them contain "-v", which is rare.
    while let Some(at) = kernel.get(start..).and_then(|rest| {
        let at = rest.windows(2).position(|pair| pair == b"-v")?;
        start.checked_add(at)
    }) {
        start = at + 2;
        let before = kernel.get(..start).unwrap_or_default();
        let after = kernel.get(start..).unwrap_or_default();
        let Some(end) = after.iter().take(5).position(|byte| *byte == 0) else {
            continue;
        };
        let digits = after.get(..end).unwrap_or_default();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            continue;
        }
        for family in FAMILIES {
            let preceding = before.strip_suffix(family);
            if preceding.is_some_and(|rest| rest.last().is_none_or(|byte| !byte.is_ascii_graphic()))
            {
                let name = [family, digits].concat();
                found.insert(String::from_utf8_lossy(&name).into_owned());
            }
        }
    }
    found
}

/// What begins and ends the compressed configuration in a kernel with `CONFIG_IKCONFIG`.
const CONFIG_BEGIN: &[u8] = b"IKCFG_ST";
const CONFIG_END: &[u8] = b"IKCFG_ED";

/// No configuration is longer.
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
    let text = String::from_utf8_lossy(&text);
    let settings = text.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
        let relevant = name.starts_with("KEXEC") || name.starts_with("LIVEUPDATE");
        relevant.then(|| (name.to_owned(), value.trim_matches('"').to_owned()))
    });
    Some(settings.collect())
}
