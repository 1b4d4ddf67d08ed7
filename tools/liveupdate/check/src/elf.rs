// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sections of ELF files of 64 bits, little-endian.

use crate::ImageError;

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

/// `SHT_NULL`: an entry that is not used.
const NULL: usize = 0;

/// The result of looking up a section.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Section<'a> {
    /// Its content.
    Found(&'a [u8]),
    /// All sections were read, and the section does not exist.
    Absent,
    /// The file is damaged, or has no sections.
    Unreadable,
}

/// Returns whether a file is a supported ELF file.
pub(crate) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

/// `ET_EXEC` and `ET_DYN`, executables with a fixed address and without one.
const EXECUTABLE: usize = 2;
const RELOCATABLE: usize = 3;

/// `EM_X86_64`
const X86_64: usize = 62;

/// `PT_LOAD`
const LOAD: usize = 1;

/// Checks that a file is a complete kernel for x86-64.
///
/// # Errors
///
/// [`ImageError::Unbootable`] for other machines and for files that are not executables,
/// [`ImageError::Damaged`] if a section or a segment is not completely in the file.
pub(crate) fn check_kernel(file: &[u8]) -> Result<(), ImageError> {
    const SHORT: ImageError = ImageError::Damaged("a part of the kernel is missing");
    let unbootable = |why: &str| Err(ImageError::Unbootable(why.to_owned()));
    if !file.starts_with(b"\x7fELF\x02\x01\x01") || half(file, 0x12) != Some(X86_64) {
        return unbootable("it is for another machine than x86-64");
    }
    match half(file, 0x10) {
        Some(EXECUTABLE) => {}
        Some(RELOCATABLE) => {
            return Err(ImageError::Unsupported(
                "a kernel without a fixed address".to_owned(),
            ));
        }
        _ => return unbootable("it is an ELF file, but not an executable"),
    }
    complete(file).ok_or(SHORT)
}

/// Returns whether all segments and sections are in the file.
fn complete(file: &[u8]) -> Option<()> {
    let within = |at: usize, length: usize| file.get(at..at.checked_add(length)?).map(|_| ());
    let entry = |table: usize, size: usize, index: usize| {
        let at = table.checked_add(index.checked_mul(size)?)?;
        file.get(at..at.checked_add(size)?)
    };
    let segments = half(file, 0x38)?;
    if segments > 0 && half(file, 0x36)? != 56 {
        return None;
    }
    for index in 0..segments {
        let header = entry(long(file, 0x20)?, 56, index)?;
        if word(header, 0)? == LOAD {
            within(long(header, 8)?, long(header, 0x20)?)?;
        }
    }
    let sections = half(file, 0x3c)?;
    if sections > 0 && half(file, 0x3a)? != 64 {
        return None;
    }
    for index in 0..sections {
        let header = entry(long(file, 0x28)?, 64, index)?;
        if ![NULL, NOBITS].contains(&word(header, 4)?) {
            within(long(header, 0x18)?, long(header, 0x20)?)?;
        }
    }
    Some(())
}

/// Looks up a section.
pub(crate) fn section<'a>(file: &'a [u8], name: &[u8]) -> Section<'a> {
    find(file, name).unwrap_or(Section::Unreadable)
}

fn find<'a>(file: &'a [u8], name: &[u8]) -> Option<Section<'a>> {
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
        // Only the compared part of a name is read: there can be many long names.
        if text
            .strip_prefix(name)
            .is_some_and(|rest| rest.first() == Some(&0))
        {
            return content(header).map(Section::Found);
        }
    }
    Some(Section::Absent)
}
