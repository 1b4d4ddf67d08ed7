// SPDX-License-Identifier: GPL-2.0

//! Images that look like kernels to luoctl.

use flate2::{write::GzEncoder, Compression};
use std::io::Write;

/// A kernel with a list of formats, or with strings only, in a bzImage.
pub fn kernel(list: Option<&[&str]>, strings: &[&str]) -> Vec<u8> {
    bzimage(&gzip(&vmlinux(list, strings)))
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A payload, whose last four bytes are the length of its contents, and some bytes after it.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    // The version, and its place after the first sector.
    file[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    file[0x300..0x30a].copy_from_slice(b"7.3.4 test");
    file[0x236] = 0x3f;
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file[0x260..0x264].copy_from_slice(&(32_u32 << 20).to_le_bytes());
    file.extend(payload);
    file.resize((file.len() + 1000).next_multiple_of(16), 0xcc);
    let paragraphs = (file.len() - 1024) / 16;
    file[0x1f4..0x1f8].copy_from_slice(&(paragraphs as u32).to_le_bytes());
    file
}

/// A kernel before compression.
pub fn vmlinux(list: Option<&[&str]>, strings: &[&str]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.shstrtab\0.liveupdate_versions\0";
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[0x10] = 2;
    file[0x12] = 62;
    let mut sections = vec![(0_u32, 0, 0), (1, file.len(), NAMES.len())];
    file.extend(NAMES);
    for text in strings {
        file.extend(text.as_bytes());
        file.push(0);
    }
    if let Some(list) = list {
        let start = file.len();
        file.extend(0x4c56_5550_u32.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        for name in list {
            let mut entry = [0; 48];
            entry[..name.len()].copy_from_slice(name.as_bytes());
            file.extend(entry);
        }
        sections.push((11, start, file.len() - start));
    }
    let table = file.len() as u64;
    for (name, at, length) in &sections {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[4] = 1;
        header[0x18..0x20].copy_from_slice(&(*at as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(*length as u64).to_le_bytes());
        file.extend(header);
    }
    file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    file[0x3a] = 64;
    file[0x3c] = sections.len() as u8;
    file[0x3e] = 1;
    file
}
