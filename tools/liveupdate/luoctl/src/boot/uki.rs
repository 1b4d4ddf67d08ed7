// SPDX-License-Identifier: GPL-2.0

//! Unified kernel images: EFI programs whose sections are the kernel, the initrd and the command
//! line.

use super::Memory;
use object::{
    pe::ImageNtHeaders64,
    read::{pe::PeFile, ReadCache},
    Object, ObjectSection,
};
use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

/// The maximum size of a command line in an image, in bytes. That of the kernel is lower.
const CMDLINE_MAX: u64 = 64 << 10;

/// Sections with what kexec cannot use.
const UNSUPPORTED: [(&str, &str); 3] = [
    (".profile", "profiles"),
    (".dtb", "a device tree"),
    (".efifw", "firmware"),
];

/// Why an image cannot be used.
#[derive(Debug)]
pub enum Bad {
    Io(io::Error),
    /// It is not a 64-bit EFI program, or is damaged.
    Malformed(object::Error),
    Missing(&'static str),
    Repeated(&'static str),
    /// A section that is not completely in the file.
    Truncated(&'static str),
    Cmdline,
    Unsupported(&'static str),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Malformed(error) => write!(f, "it is not a unified kernel image: {error}"),
            Self::Missing(name) => {
                write!(
                    f,
                    "it is not a unified kernel image: it has no section {name}"
                )
            }
            Self::Repeated(name) => write!(f, "it has more than one section {name}"),
            Self::Truncated(name) => write!(f, "its section {name} is not completely in the file"),
            Self::Cmdline => write!(
                f,
                "its section .cmdline is longer than {} KiB, or is not text in UTF-8",
                CMDLINE_MAX >> 10
            ),
            Self::Unsupported(what) => write!(
                f,
                "it has {what}, which luoctl cannot use: name a kernel with luoctl load IMAGE"
            ),
        }
    }
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The parts of an image, without its file.
#[derive(Debug)]
pub struct Parts {
    pub kernel: File,
    pub initrd: Option<File>,
    pub cmdline: String,
}

/// A part of a file: its offset and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    offset: u64,
    length: u64,
}

impl Part {
    fn reader(self, mut file: &File) -> io::Result<impl Read + '_> {
        file.seek(SeekFrom::Start(self.offset))?;
        Ok(file.take(self.length))
    }
}

/// Where the sections with these names are in a file.
fn sections<const N: usize>(
    file: &File,
    names: [&'static str; N],
) -> Result<[Option<Part>; N], Bad> {
    let length = file.metadata()?.len();
    let cache = ReadCache::new(file);
    let image: PeFile<'_, ImageNtHeaders64, _> = PeFile::parse(&cache).map_err(Bad::Malformed)?;
    let mut parts = [None; N];
    for section in image.sections() {
        let name = section.name_bytes().map_err(Bad::Malformed)?;
        if let Some((_, what)) = UNSUPPORTED
            .iter()
            .find(|(known, _)| known.as_bytes() == name)
        {
            return Err(Bad::Unsupported(what));
        }
        let Some(index) = names.iter().position(|known| known.as_bytes() == name) else {
            continue;
        };
        let (offset, used) = section.file_range().unwrap_or_default();
        // Memory after the end of a section's data is empty, which no part may be.
        let end = offset.checked_add(used).filter(|end| *end <= length);
        if used < section.size() || end.is_none() {
            return Err(Bad::Truncated(names[index]));
        }
        let part = Part {
            offset,
            length: used,
        };
        if parts[index].replace(part).is_some() {
            return Err(Bad::Repeated(names[index]));
        }
    }
    Ok(parts)
}

/// The command line as systemd's stub passes it on: without control characters.
fn clean(bytes: Vec<u8>) -> Result<String, Bad> {
    let text = String::from_utf8(bytes).map_err(|_| Bad::Cmdline)?;
    let text = text.replace(|c: char| c.is_control(), " ");
    Ok(text.trim().to_owned())
}

/// Copies the parts of an image.
pub fn extract(file: &File) -> Result<Parts, Bad> {
    let names = [".linux", ".ucode", ".initrd", ".cmdline"];
    let [kernel, microcode, initrd, cmdline] = sections(file, names)?;
    let copy = |parts: &[Part]| -> io::Result<File> {
        let mut memory = Memory::new()?;
        for part in parts {
            memory.append(part.reader(file)?)?;
        }
        memory.done()
    };
    let kernel = copy(&[kernel.ok_or(Bad::Missing(".linux"))?])?;
    let initrds: Vec<Part> = microcode.into_iter().chain(initrd).collect();
    let initrd = (!initrds.is_empty()).then(|| copy(&initrds)).transpose()?;
    let mut line = Vec::new();
    if let Some(part) = cmdline {
        if part.length > CMDLINE_MAX {
            return Err(Bad::Cmdline);
        }
        part.reader(file)?.read_to_end(&mut line)?;
    }
    Ok(Parts {
        kernel,
        initrd,
        cmdline: clean(line)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The alignment of sections in a file.
    const ALIGNMENT: usize = 0x200;

    /// A unified kernel image, of sections with their names. Most fields of its headers are 0.
    fn image(sections: &[(&str, &[u8])]) -> Vec<u8> {
        fn set(bytes: &mut [u8], offset: usize, value: &[u8]) {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        }

        const OPTIONAL: usize = 112 + 16 * 8;
        let table = 0x40 + 24 + OPTIONAL;
        let mut bytes = vec![0; (table + 40 * sections.len()).next_multiple_of(ALIGNMENT)];
        set(&mut bytes, 0, b"MZ");
        set(&mut bytes, 0x3c, &0x40_u32.to_le_bytes());
        let headers = &mut bytes[0x40..];
        set(headers, 0, b"PE\0\0\x64\x86");
        set(headers, 6, &(sections.len() as u16).to_le_bytes());
        set(headers, 20, &(OPTIONAL as u16).to_le_bytes());
        set(headers, 24, &0x20b_u16.to_le_bytes());
        set(headers, 24 + 32, &0x1000_u32.to_le_bytes());
        set(headers, 24 + 36, &(ALIGNMENT as u32).to_le_bytes());
        set(headers, 24 + 108, &16_u32.to_le_bytes());
        for (number, (name, data)) in sections.iter().enumerate() {
            let offset = bytes.len();
            bytes.extend(*data);
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            let on_disk = bytes.len() - offset;
            let header = &mut bytes[table + 40 * number..];
            set(header, 0, name.as_bytes());
            for (field, value) in [(8, data.len()), (12, offset), (16, on_disk), (20, offset)] {
                set(header, field, &(value as u32).to_le_bytes());
            }
        }
        bytes
    }

    fn extracted(bytes: &[u8]) -> Result<Parts, Bad> {
        let mut file = Memory::new().unwrap();
        file.append(bytes).unwrap();
        extract(&file.done().unwrap())
    }

    fn contents(mut file: File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn parts_are_extracted() {
        let parts = extracted(&image(&[
            (".text", b"code"),
            (".osrel", b"ID=debian"),
            (".cmdline", b"ro kho=on\nliveupdate=on\n\0"),
            (".initrd", b"archive"),
            (".ucode", b"microcode"),
            (".linux", b"MZ kernel"),
        ]))
        .unwrap();
        assert_eq!(contents(parts.kernel), b"MZ kernel");
        assert_eq!(contents(parts.initrd.unwrap()), b"microcode\0\0\0archive");
        assert_eq!(parts.cmdline, "ro kho=on liveupdate=on");
        let parts = extracted(&image(&[(".linux", b"kernel")])).unwrap();
        assert!(parts.initrd.is_none());
        assert_eq!(parts.cmdline, "");
    }

    #[test]
    fn refusals() {
        let linux = (".linux", &b"kernel"[..]);
        let long = vec![b'x'; (64 << 10) + 1];
        for (sections, says) in [
            (&[(".text", &b"code"[..])][..], "no section .linux"),
            (&[linux, linux], "more than one section .linux"),
            (&[linux, (".profile", b"ID=x")], "it has profiles"),
            (&[linux, (".dtb", b"x")], "it has a device tree"),
            (&[linux, (".cmdline", b"\xff")], ".cmdline is longer"),
            (&[linux, (".cmdline", &long)], ".cmdline is longer"),
        ] {
            let why = extracted(&image(sections)).unwrap_err().to_string();
            assert!(why.contains(says), "{says}: {why}");
        }
        for bytes in [&b""[..], b"MZ", &[0; 4096]] {
            let why = extracted(bytes).unwrap_err().to_string();
            assert!(why.contains("not a unified kernel image"), "{why}");
        }
        // The kernel is at the end.
        let mut bytes = image(&[(".cmdline", b"ro"), (".linux", &[1; 2 * ALIGNMENT])]);
        bytes.truncate(bytes.len() - 1);
        let why = extracted(&bytes).unwrap_err().to_string();
        assert!(why.contains(".linux is not completely"), "{why}");
    }

    proptest! {
        /// Damage is refused, or has no effect beyond the file.
        #[test]
        fn damage(at in 0..0x400_usize, value: u8) {
            let mut bytes = image(&[(".linux", b"kernel"), (".initrd", b"archive")]);
            bytes[at] = value;
            let length = bytes.len();
            if let Ok(parts) = extracted(&bytes) {
                prop_assert!(contents(parts.kernel).len() <= length);
            }
        }
    }
}
