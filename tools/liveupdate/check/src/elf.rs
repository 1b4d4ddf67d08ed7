// SPDX-License-Identifier: GPL-2.0

//! Sections of ELF files of 64 bits, little-endian.

fn field<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn half(file: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(field(file, at)?)))
}

fn word(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(field(file, at)?)).ok()
}

fn long(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(field(file, at)?)).ok()
}

/// `SHT_NOBITS`: a section without content in the file.
const NOBITS: usize = 8;

/// What looking for a section led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Section<'a> {
    /// Its content.
    Found(&'a [u8]),
    /// All sections were read, and it is not among them.
    Absent,
    /// The file is damaged, or has no sections.
    Unreadable,
}

/// Whether a file is one that can be read.
pub(crate) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF\x02\x01\x01")
}

/// Looks for a section.
pub(crate) fn section<'a>(file: &'a [u8], name: &[u8]) -> Section<'a> {
    find(file, name).unwrap_or(Section::Unreadable)
}

fn find<'a>(file: &'a [u8], name: &[u8]) -> Option<Section<'a>> {
    if !is_elf(file) {
        return None;
    }
    let table = long(file, 0x28)?;
    let (size, count, names) = (half(file, 0x3a)?, half(file, 0x3c)?, half(file, 0x3e)?);
    if size != 64 || count == 0 || names >= count {
        return None;
    }
    let header = |index: usize| {
        let at = table.checked_add(index.checked_mul(size)?)?;
        file.get(at..at.checked_add(size)?)
    };
    let content = |header: &[u8]| {
        if word(header, 4)? == NOBITS {
            return None;
        }
        let at = long(header, 0x18)?;
        file.get(at..at.checked_add(long(header, 0x20)?)?)
    };
    let strings = content(header(names)?)?;
    for index in 0..count {
        let header = header(index)?;
        let text = strings.get(word(header, 0)?..)?;
        if text.split(|byte| *byte == 0).next()? == name {
            return content(header).map(Section::Found);
        }
    }
    Some(Section::Absent)
}
