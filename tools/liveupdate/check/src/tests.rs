// SPDX-License-Identifier: GPL-2.0

//! Small images, built here.

use crate::{
    bzimage::BzImage, check_formats, cmdline, worst, Formats, Image, ImageError, Needs, Verdict,
};
use flate2::{write::GzEncoder, Compression};
use proptest::prelude::*;
use std::io::Write;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn lz4(data: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(data);
    let mut out = vec![0x02, 0x21, 0x4c, 0x18];
    out.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
    out.extend(block);
    out
}

fn list(names: &[&str]) -> Vec<u8> {
    let mut section = Vec::new();
    section.extend(0x4c56_5550_u32.to_le_bytes());
    section.extend(1_u32.to_le_bytes());
    for name in names {
        let mut entry = [0; 48];
        entry[..name.len()].copy_from_slice(name.as_bytes());
        section.extend(entry);
    }
    section
}

/// An ELF file with the given data, and a list if there is one.
fn elf(data: &[u8], list: Option<&[u8]>) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.shstrtab\0.liveupdate_versions\0";
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut sections = vec![(0_u32, 0_u32, 0, 0), (1, 3, file.len(), NAMES.len())];
    file.extend(NAMES);
    file.extend(data);
    if let Some(list) = list {
        sections.push((11, 1, file.len(), list.len()));
        file.extend(list);
    }
    let table = file.len() as u64;
    for (name, kind, at, len) in &sections {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(*at as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(*len as u64).to_le_bytes());
        file.extend(header);
    }
    file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    file[0x3a..0x3c].copy_from_slice(&64_u16.to_le_bytes());
    file[0x3c..0x3e].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    file[0x3e..0x40].copy_from_slice(&1_u16.to_le_bytes());
    file
}

fn bzimage(payload: &[u8], kernel_len: usize) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    file[0x300..0x306].copy_from_slice(b"7.3.4\0");
    file[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
    file[0x260..0x264].copy_from_slice(&(32_u32 << 20).to_le_bytes());
    file.extend([0; 16]);
    file.extend(payload);
    file.extend((kernel_len as u32).to_le_bytes());
    file
}

fn packed(kernel: &[u8]) -> Vec<u8> {
    bzimage(&gzip(kernel), kernel.len())
}

fn complete() -> Needs {
    Needs {
        complete: true,
        ..Needs::usual()
    }
}

fn verdict(file: &[u8]) -> Verdict {
    worst(&check_formats(&Image::parse(file).unwrap(), &complete()))
}

#[test]
fn list_decides() {
    let with = |names: &[&str]| packed(&elf(b"kho-v4\0luo-v5\0memfd-v2\0", Some(&list(names))));
    let image = Image::parse(&with(&["kho-v4", "luo-v5"])).unwrap();
    assert_eq!(image.version.as_deref(), Some("7.3.4"));
    assert_eq!(image.init_size, 32 << 20);
    assert_eq!(
        verdict(&with(&["kho-v4", "luo-v5", "memfd-v2", "x-v1"])),
        Verdict::Yes
    );
    assert_eq!(
        verdict(&with(&["kho-v4", "luo-v5", "memfd-v3"])),
        Verdict::No
    );
    // Strings elsewhere do not make up for what the list has not got.
    assert_eq!(verdict(&with(&[])), Verdict::No);
}

#[test]
fn no_yes_if_the_kernel_does_not_tell_what_is_in_use() {
    let file = packed(&elf(b"", Some(&list(&["kho-v4", "luo-v5", "memfd-v2"]))));
    let findings = check_formats(&Image::parse(&file).unwrap(), &Needs::usual());
    assert_eq!(worst(&findings), Verdict::Likely);
}

#[test]
fn strings_are_likely_at_most() {
    assert_eq!(
        verdict(&packed(&elf(b"\0kho-v4\0luo-v5\0\xffmemfd-v2\0", None))),
        Verdict::Likely
    );
    assert_eq!(
        verdict(&packed(&elf(b"\0kho-v4\0luo-v6\0memfd-v2\0", None))),
        Verdict::No
    );
    assert_eq!(
        verdict(&packed(&elf(b"\0xkho-v4\0luo-v5\0memfd-v2\0", None))),
        Verdict::No
    );
    // Without CONFIG_LIVEUPDATE, with CONFIG_KEXEC_HANDOVER and without.
    let text = b"\0kho-v4\0";
    assert_eq!(verdict(&packed(&elf(text, None))), Verdict::No);
    assert_eq!(verdict(&packed(&elf(b"nothing", None))), Verdict::No);
    let kernel = elf(b"\0kho-v4\0luo-v5\0memfd-v2\0", None);
    assert_eq!(
        verdict(&bzimage(&lz4(&kernel), kernel.len())),
        Verdict::Likely
    );
}

#[test]
fn unknown_formats_of_a_kernel_without_list() {
    let image = Image::parse(&elf(b"\0kho-v4\0luo-v5\0memfd-v2\0", None)).unwrap();
    let mut needs = complete();
    needs.in_use.insert("vfio-v1".to_owned());
    assert_eq!(worst(&check_formats(&image, &needs)), Verdict::Unknown);
}

#[test]
fn configuration_decides_against() {
    let mut data = b"\0kho-v4\0luo-v5\0memfd-v2\0IKCFG_ST".to_vec();
    data.extend(gzip(
        b"CONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\n# CONFIG_LIVEUPDATE_MEMFD is not set\n",
    ));
    data.extend(b"IKCFG_ED");
    let image = Image::parse(&packed(&elf(&data, None))).unwrap();
    assert_eq!(image.setting("LIVEUPDATE"), Some("y"));
    assert_eq!(worst(&check_formats(&image, &complete())), Verdict::No);
}

#[test]
fn damaged_lists_are_no_lists() {
    for damage in [
        b"".to_vec(),
        list(&["kho-v4"])[..30].to_vec(),
        list(&["kho-v4"])[..8 + 47].to_vec(),
        [&[0; 8][..], &list(&["kho-v4"])[8..]].concat(),
        [&list(&[])[..4], &[2, 0, 0, 0]].concat(),
        [list(&[]), vec![b'x'; 48]].concat(),
        [list(&[]), vec![0; 48]].concat(),
    ] {
        let image = Image::parse(&elf(b"", Some(&damage))).unwrap();
        assert!(
            matches!(image.formats, Formats::Unreadable(_)),
            "{:?}",
            image.formats
        );
        assert_eq!(worst(&check_formats(&image, &complete())), Verdict::Unknown);
    }
}

#[test]
fn kernels_do_not_grow_without_end() {
    let bomb = packed(&vec![0; 8 << 20]);
    assert_eq!(
        Image::parse_within(&bomb, 1 << 20),
        Err(ImageError::TooLarge)
    );
    let bomb = bzimage(&lz4(&vec![0; 4 << 20]), 0);
    assert_eq!(
        Image::parse_within(&bomb, 1 << 20),
        Err(ImageError::TooLarge)
    );
    let mut lies = lz4(b"abc");
    lies[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        Image::parse(&bzimage(&lies, 3)),
        Err(ImageError::Damaged(_))
    ));
}

#[test]
fn unsupported_compressions_are_named() {
    for (magic, name) in [
        (&b"\xfd7zXZ\0"[..], "xz"),
        (b"BZh9", "bzip2"),
        (b"\x5d\0\0\0", "lzma"),
        (b"\x89LZO", "lzo"),
    ] {
        let error = Image::parse(&bzimage(magic, 0)).unwrap_err().to_string();
        assert!(
            error.contains(&format!("compression with {name} is")),
            "{error}"
        );
    }
}

#[test]
fn header_points_into_the_file() {
    let good = packed(&elf(b"", None));
    for len in 0..good.len() {
        assert!(Image::parse(&good[..len]).is_err(), "{len} bytes");
    }
    let mut file = good;
    file[0x248..0x24c].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(BzImage::parse(&file), Err(ImageError::Damaged(_))));
}

#[test]
fn last_switch_wins() {
    let check = |line: &str| worst(&cmdline::check(line, None));
    assert_eq!(check("kho=on liveupdate=on"), Verdict::Yes);
    assert_eq!(
        check("kho=off liveupdate=0 kho=1 liveupdate=Y"),
        Verdict::Yes
    );
    assert_eq!(check("kho=on liveupdate=on kho=0"), Verdict::No);
    assert_eq!(check("kho=on liveupdate=on liveupdate=off"), Verdict::No);
    assert_eq!(check("kho=on liveupdate=on liveupdate=what"), Verdict::Yes);
    assert_eq!(check("kho=on liveupdate=disable"), Verdict::No);
    assert_eq!(check("kho=on -- liveupdate=on"), Verdict::No);
    assert_eq!(check("kho=on x=\"a liveupdate=on b\""), Verdict::No);
    assert_eq!(check("liveupdate=on"), Verdict::Unknown);
    assert_eq!(check(""), Verdict::No);
}

proptest! {
    #[test]
    fn any_bytes(file in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = Image::parse(&file);
    }

    /// Whatever is changed in a good image: there is no panic, and a list that lacks a format
    /// never becomes one that has it.
    #[test]
    fn any_damage(at in 0_usize..2048, byte in any::<u8>(), kernel_too in any::<bool>()) {
        let mut kernel = elf(b"\0kho-v4\0luo-v5\0memfd-v2\0", Some(&list(&["kho-v4", "luo-v5"])));
        if kernel_too {
            let at = at % kernel.len();
            kernel[at] = byte;
        }
        let mut file = packed(&kernel);
        if !kernel_too {
            let at = at % file.len();
            file[at] = byte;
        }
        if let Ok(image) = Image::parse(&file) {
            prop_assert_ne!(worst(&check_formats(&image, &complete())), Verdict::Yes);
        }
    }
}
