// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The formats that a kernel supports, from the list in its image.

use crate::elf::{self, Section};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The section with the list, see `include/asm-generic/vmlinux.lds.h`.
const SECTION: &[u8] = b".liveupdate_versions";

/// The section with feature masks, which newer kernels have instead of the list or in addition.
const FEATURES: &[u8] = b".liveupdate_features";

// Both sections begin with the same two numbers.
const MAGIC: u32 = 0x4c56_5550;
const VERSION: u32 = 1;

/// The length of a name, padded with null bytes.
const NAME: usize = 48;

/// The length of a name with its feature masks.
const MASKS: usize = 80;

/// The formats that a kernel supports, according to its image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", content = "names", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Formats {
    /// The image has a complete list.
    List(BTreeSet<String>),
    /// The image has no list. It contains these names, which does not prove that they are used.
    Strings(BTreeSet<String>),
    /// The image has a list of an unsupported version, a damaged list, or only feature masks.
    Unreadable(String),
}

/// The features of a format that has features instead of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Features {
    /// The features that it can read.
    pub supported: u64,
    /// Of these, the features that a reader must know.
    pub required: u64,
    /// Of these, the features that it writes.
    pub active: u64,
}

/// Finds the formats of an ELF file, and its feature masks if it has any.
pub(crate) fn find(kernel: &[u8]) -> (Formats, BTreeMap<String, Features>) {
    let no_masks = BTreeMap::new;
    let unreadable = |why: &str| (Formats::Unreadable(why.to_owned()), no_masks());
    let masks = match elf::section(kernel, FEATURES) {
        Section::Found(section) => match masks(section) {
            Ok(masks) => Some(masks),
            Err(why) => return unreadable(&why),
        },
        Section::Absent => None,
        Section::Unreadable => return unreadable("the sections of the kernel cannot be read"),
    };
    let formats = match (elf::section(kernel, SECTION), &masks) {
        (Section::Found(section), _) => {
            list(section).map_or_else(Formats::Unreadable, Formats::List)
        }
        (Section::Absent, Some(_)) => Formats::Unreadable(
            "the image lists features instead of versions, and whether it reads the versions of \
             this kernel is not known"
                .to_owned(),
        ),
        (Section::Absent, None) => Formats::Strings(strings(kernel)),
        (Section::Unreadable, _) => return unreadable("the sections of the kernel cannot be read"),
    };
    (formats, masks.unwrap_or_default())
}

/// Finds the formats of a kernel without sections: what begins like the list, up to the end of its
/// names, which are followed by something else.
pub(crate) fn find_raw(kernel: &[u8]) -> Formats {
    let header = [MAGIC.to_le_bytes(), VERSION.to_le_bytes()].concat();
    let mut found = kernel
        .chunks_exact(8)
        .enumerate()
        .filter(|(_, part)| *part == header)
        .filter_map(|(index, _)| kernel.get(index * 8 + 8..));
    let (Some(entries), other) = (found.next(), found.next()) else {
        return Formats::Strings(strings(kernel));
    };
    let masked = |entry: &[u8]| masks(&[&header, entry].concat()).is_ok();
    if other.is_some() || entries.get(..MASKS).is_some_and(masked) {
        return Formats::Unreadable("the list of formats cannot be found in the image".to_owned());
    }
    Formats::List(entries.chunks_exact(NAME).map_while(name).collect())
}

/// Checks and removes the header of a section, which must consist of entries of `size` bytes.
fn entries<'a>(section: &'a [u8], size: usize, what: &str) -> Result<Vec<&'a [u8]>, String> {
    let damaged = || format!("the list of {what} is damaged");
    let (magic, rest) = section.split_first_chunk::<4>().ok_or_else(damaged)?;
    let (version, entries) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    if u32::from_le_bytes(*magic) != MAGIC {
        return Err(damaged());
    }
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(format!("the list of {what} has version {version}"));
    }
    let entries = entries.chunks_exact(size);
    if !entries.remainder().is_empty() {
        return Err(damaged());
    }
    Ok(entries.collect())
}

/// Parses a name that is padded with null bytes.
fn name(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|byte| *byte == 0)?;
    let (name, rest) = field.split_at(end);
    let sound = !name.is_empty()
        && name.iter().all(u8::is_ascii_graphic)
        && rest.iter().all(|byte| *byte == 0);
    sound.then(|| String::from_utf8_lossy(name).into_owned())
}

fn list(section: &[u8]) -> Result<BTreeSet<String>, String> {
    let names = entries(section, NAME, "formats")?.into_iter().map(name);
    names
        .collect::<Option<_>>()
        .ok_or_else(|| "the list of formats is damaged".to_owned())
}

fn masks(section: &[u8]) -> Result<BTreeMap<String, Features>, String> {
    let parse = |entry: &[u8]| {
        let (text, rest) = entry.split_at_checked(NAME)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (padding, rest) = rest.split_first_chunk::<4>()?;
        let mask = |index: usize| {
            let bytes = rest.get(index * 8..)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let features = Features {
            supported: mask(0)?,
            required: mask(1)?,
            active: mask(2)?,
        };
        let sound = u32::from_le_bytes(*length) != 0
            && *padding == [0; 4]
            && (features.required | features.active) & !features.supported == 0;
        sound.then_some((name(text)?, features))
    };
    let found = entries(section, MASKS, "features")?.into_iter().map(parse);
    found
        .collect::<Option<_>>()
        .ok_or_else(|| "the list of features is damaged".to_owned())
}

/// The prefixes of names in kernels without a list.
const FAMILIES: [&[u8]; 3] = [b"kho-v", b"luo-v", b"memfd-v"];

/// Finds null-terminated names of the [`FAMILIES`], each with a number at its end.
///
/// A name may follow the end of another string or of a pointer, but not other text.
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
