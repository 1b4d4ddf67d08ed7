// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Small images, built here.

mod arm64;
mod command_line;

use crate::{
    bzimage::BzImage, check_formats, worst, Formats, Image, ImageError, ModuleFormats, Needs,
    Verdict,
};
use flate2::{write::GzEncoder, Compression};
use proptest::prelude::*;
use std::{hash::Hasher, io::Write};
use twox_hash::XxHash64;

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
    elf_with(data, list, None)
}

/// The same, with feature masks if there are any.
fn elf_with(data: &[u8], list: Option<&[u8]>, masks: Option<&[u8]>) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.shstrtab\0.liveupdate_versions\0.liveupdate_features\0";
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[0x10] = 2;
    file[0x12] = 62;
    let mut sections = vec![(0_u32, 0_u32, 0, 0), (1, 3, file.len(), NAMES.len())];
    file.extend(NAMES);
    file.extend(data);
    if let Some(list) = list {
        sections.push((11, 1, file.len(), list.len()));
        file.extend(list);
    }
    if let Some(masks) = masks {
        sections.push((32, 1, file.len(), masks.len()));
        file.extend(masks);
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
    file[0x236..0x238].copy_from_slice(&0x3f_u16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
    file[0x260..0x264].copy_from_slice(&(32_u32 << 20).to_le_bytes());
    file.extend([0; 16]);
    file.extend(payload);
    file.extend((kernel_len as u32).to_le_bytes());
    finish(file)
}

/// Fills the last paragraph, and writes the length into the header.
fn finish(mut file: Vec<u8>) -> Vec<u8> {
    file.resize((file.len() + 100).next_multiple_of(16), 0xcc);
    let paragraphs = (file.len() - 1024) / 16;
    file[0x1f4..0x1f8].copy_from_slice(&(paragraphs as u32).to_le_bytes());
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
    // Strings elsewhere do not replace a missing entry in the list.
    assert_eq!(verdict(&with(&[])), Verdict::No);
}

#[test]
fn formats_of_modules_are_likely() {
    let names = ["kho-v4", "luo-v5", "memfd-v2"];
    let with_list = packed(&elf(b"", Some(&list(&names))));
    let without = packed(&elf(b"\0kho-v4\0luo-v5\0memfd-v2\0", None));
    let mut needs = complete();
    needs.in_use.insert("mydev-v1".to_owned());
    for (file, unsupported) in [(with_list, Verdict::No), (without, Verdict::Unknown)] {
        let mut image = Image::parse(&file).unwrap();
        assert_eq!(worst(&check_formats(&image, &needs)), unsupported);
        image.modules = ModuleFormats::parse("alias liveupdate:mydev-v1 mydev\n");
        let findings = check_formats(&image, &needs);
        assert_eq!(worst(&findings), Verdict::Likely, "{findings:?}");
        image.modules = ModuleFormats::parse("alias liveupdate:mydev-v2 mydev\n");
        assert_eq!(worst(&check_formats(&image, &needs)), unsupported);
    }
}

#[test]
fn release_is_a_name_of_a_directory() {
    let mut image = Image::parse(&packed(&elf(b"", None))).unwrap();
    assert_eq!(image.release(), Some("7.3.4"));
    for (version, release) in [
        ("7.3.4-1-luo (luo@sandbox) #1 SMP", Some("7.3.4-1-luo")),
        ("../7.3.4", None),
        ("7.3.4/..", None),
        ("", None),
    ] {
        image.version = Some(version.to_owned());
        assert_eq!(image.release(), release);
    }
    image.version = None;
    assert_eq!(image.release(), None);
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
    let verdict = |name: &str| {
        let mut needs = complete();
        needs.in_use.insert(name.to_owned());
        worst(&check_formats(&image, &needs))
    };
    assert_eq!(verdict("vfio-v1"), Verdict::Unknown);
    // This cannot be in a module.
    assert_eq!(verdict("hugetlb-memfd-v1"), Verdict::No);
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
fn configuration_beside_the_image() {
    let text = "CONFIG_KVM=m\nCONFIG_USB=y\n# CONFIG_LIVEUPDATE_MEMFD is not set\n";
    let mut image = Image::parse(&elf(b"\0kho-v4\0luo-v5\0memfd-v2\0", None)).unwrap();
    assert_eq!(image.setting("KVM"), None);
    image.add_config(text);
    assert_eq!(image.setting("KVM"), Some("m"));
    assert_eq!(image.setting("LIVEUPDATE_MEMFD"), Some("n"));
    // Others are not kept, and the first configuration is not replaced.
    assert_eq!(image.setting("USB"), Some("n"));
    image.add_config("CONFIG_KVM=y\n");
    assert_eq!(image.setting("KVM"), Some("m"));
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
    let bomb = bzimage(&lz4(&vec![0; 4 << 20]), 4 << 20);
    assert_eq!(
        Image::parse_within(&bomb, 1 << 20),
        Err(ImageError::TooLarge)
    );
    // Images whose header has a small length.
    for payload in [
        gzip(&vec![0; 8 << 20]),
        lz4(&vec![0; 4 << 20]),
        zstd(&vec![0; 8 << 20]),
    ] {
        assert!(matches!(
            Image::parse_within(&bzimage(&payload, 4096), 1 << 20),
            Err(ImageError::Damaged(_))
        ));
    }
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

/// A frame of blocks with a single repeated byte, or with raw data, and a checksum.
fn zstd_of(data: &[u8], has_checksum: bool) -> Vec<u8> {
    const BLOCK: usize = 128 << 10;
    let mut frame = vec![
        0x28,
        0xb5,
        0x2f,
        0xfd,
        if has_checksum { 4 } else { 0 },
        0x88,
    ];
    let mut blocks = data.chunks(BLOCK).peekable();
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let same = block.iter().all(|byte| *byte == block[0]);
        let header = ((block.len() as u32) << 3) | (u32::from(same) << 1) | last;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(if same { &block[..1] } else { block });
    }
    if has_checksum {
        let mut hash = XxHash64::with_seed(0);
        hash.write(data);
        frame.extend((hash.finish() as u32).to_le_bytes());
    }
    frame
}

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd_of(data, true)
}

/// A kernel that supports all formats.
fn good() -> Vec<u8> {
    let data: Vec<u8> = (0..3000_u32).flat_map(u32::to_le_bytes).collect();
    elf(&data, Some(&list(&["kho-v4", "luo-v5", "memfd-v2"])))
}

/// The checksum at the end of older kernels.
fn with_crc(mut file: Vec<u8>) -> Vec<u8> {
    let at = file.len() - 4;
    let mut crc = flate2::Crc::new();
    crc.update(&file[..at]);
    file[at..].copy_from_slice(&(!crc.sum()).to_le_bytes());
    file
}

#[test]
fn no_yes_without_a_checksum() {
    let kernel = good();
    let len = kernel.len();
    assert_eq!(verdict(&bzimage(&gzip(&kernel), len)), Verdict::Yes);
    assert_eq!(verdict(&bzimage(&zstd(&kernel), len)), Verdict::Yes);
    for payload in [zstd_of(&kernel, false), lz4(&kernel), kernel.clone()] {
        let file = bzimage(&payload, len);
        assert_eq!(verdict(&file), Verdict::Likely);
        // A checksum of the whole image is sufficient.
        let mut file = with_crc(file);
        assert_eq!(verdict(&file), Verdict::Yes);
        file[1024] ^= 1;
        assert_eq!(verdict(&file), Verdict::Likely);
    }
    assert_eq!(verdict(&kernel), Verdict::Likely);
}

#[test]
fn damage_is_seen() {
    let kernel = good();
    for payload in [gzip(&kernel), zstd(&kernel)] {
        let file = bzimage(&payload, kernel.len());
        // The preceding fields of a gzip header, such as the time, are not part of the kernel.
        for at in (10..payload.len()).step_by(7) {
            let mut file = file.clone();
            file[1040 + at] ^= 0xff;
            match Image::parse(&file) {
                Ok(image) => assert_ne!(
                    worst(&check_formats(&image, &complete())),
                    Verdict::Yes,
                    "{at}"
                ),
                Err(ImageError::Damaged(_) | ImageError::Unsupported(_) | ImageError::TooLarge) => {
                }
                Err(error) => panic!("{at}: {error}"),
            }
        }
        let mut file = file;
        let middle = 1040 + payload.len() / 2;
        file[middle] ^= 0xff;
        assert!(matches!(Image::parse(&file), Err(ImageError::Damaged(_))));
    }
}

#[test]
fn images_are_complete() {
    let good = packed(&good());
    assert_eq!(verdict(&good), Verdict::Yes);
    // A signature may follow.
    assert_eq!(verdict(&[&good[..], &[7; 1000]].concat()), Verdict::Yes);
    for len in 1024..good.len() {
        let error = Image::parse(&good[..len]).unwrap_err();
        assert!(matches!(error, ImageError::Damaged(_)), "{len}: {error}");
    }
    // The payload has the length in its header.
    let kernel = self::good();
    for len in [0, kernel.len() - 1, kernel.len() + 1] {
        for payload in [gzip(&kernel), zstd(&kernel), lz4(&kernel), kernel.clone()] {
            assert!(matches!(
                Image::parse(&bzimage(&payload, len)),
                Err(ImageError::Damaged(_))
            ));
        }
    }
    // A truncated kernel in a correct payload.
    for len in [100, kernel.len() / 2, kernel.len() - 64, kernel.len() - 1] {
        let cut = &kernel[..len];
        assert!(
            matches!(Image::parse(&packed(cut)), Err(ImageError::Damaged(_))),
            "{len}"
        );
    }
}

#[test]
fn kernels_for_other_machines() {
    let unbootable = |at: usize, value: u8| {
        let mut kernel = good();
        kernel[at] = value;
        for file in [packed(&kernel), kernel] {
            let error = Image::parse(&file).unwrap_err();
            assert!(matches!(error, ImageError::Unbootable(_)), "{error}");
        }
    };
    unbootable(0x12, 183); // arm64
    unbootable(4, 1); // 32 bits
    unbootable(5, 2); // big-endian
    unbootable(0x10, 1); // .o
    unbootable(0x10, 4); // core
    let mut file = packed(&good());
    file[0x236] = 0;
    assert!(matches!(
        Image::parse(&file),
        Err(ImageError::Unbootable(_))
    ));
}

#[test]
fn images_of_other_kinds() {
    let mut unified = b"MZ".to_vec();
    unified.resize(60, 0);
    unified.extend(0x80_u32.to_le_bytes());
    unified.resize(0x80, 0);
    unified.extend(b"PE\0\0");
    unified.resize(4096, 0);
    unified.extend(packed(&good()));
    for (file, name) in [
        (unified, "an EFI program"),
        (gzip(&good()), "a compressed file"),
    ] {
        let error = Image::parse(&file).unwrap_err();
        assert!(
            matches!(&error, ImageError::Unsupported(what) if what.starts_with(name)),
            "{error}"
        );
    }
    for file in [&b""[..], b"#!/bin/sh\n", &[0; 4096]] {
        assert_eq!(Image::parse(file), Err(ImageError::NotAKernel));
    }
}

/// Feature masks: names, and what is supported, required and active.
fn masks(entries: &[(&str, [u64; 3])]) -> Vec<u8> {
    let mut section = list(&[]);
    for (name, masks) in entries {
        let mut entry = [0; 48];
        entry[..name.len()].copy_from_slice(name.as_bytes());
        section.extend(entry);
        section.extend(8_u64.to_le_bytes());
        section.extend(masks.iter().flat_map(|mask| mask.to_le_bytes()));
    }
    section
}

#[test]
fn features_beside_the_list() {
    let all = list(&["kho-v4", "luo-v5", "memfd-v2"]);
    let features = masks(&[("luo", [7, 7, 7]), ("memfd", [3, 1, 0])]);
    let verdict_of =
        |list: Option<&[u8]>, masks: &[u8]| verdict(&packed(&elf_with(b"", list, Some(masks))));
    assert_eq!(verdict_of(Some(&all), &features), Verdict::Yes);
    let image = Image::parse(&packed(&elf_with(b"", Some(&all), Some(&features)))).unwrap();
    assert_eq!(image.features["memfd"].supported, 3);
    assert_eq!(image.features["luo"].required, 7);
    // Without a version, the verdict is unknown; without features of that name, it is known.
    let some = list(&["kho-v4", "luo-v5"]);
    assert_eq!(verdict_of(Some(&some), &features), Verdict::Unknown);
    assert_eq!(
        verdict_of(Some(&some), &masks(&[("luo", [7, 7, 7])])),
        Verdict::No
    );
    assert_eq!(verdict_of(None, &features), Verdict::Unknown);
    for damaged in [
        &features[..features.len() - 1],
        &features[..4],
        &masks(&[("luo", [1, 2, 1])]),
        &masks(&[("", [1, 1, 1])]),
        &list(&["kho-v4"]),
    ] {
        assert_eq!(verdict_of(Some(&all), damaged), Verdict::Unknown);
    }
}

#[test]
fn sections_with_long_names() {
    // The maximum number of sections, with names without an end: reading all of them would take
    // days.
    let names = vec![b'x'; 8 << 20];
    let mut file = good();
    file.truncate(64);
    file.extend(&names);
    let table = file.len() as u64;
    for _ in 0..0xffff {
        let mut header = [0; 64];
        header[4] = 1;
        header[0x18..0x20].copy_from_slice(&64_u64.to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(names.len() as u64).to_le_bytes());
        file.extend(header);
    }
    file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    file[0x3a..0x40].copy_from_slice(&[64, 0, 0xff, 0xff, 1, 0]);
    assert!(matches!(
        Image::parse(&file).unwrap().formats,
        Formats::Strings(_)
    ));
}

#[test]
fn zstd_windows_are_bounded() {
    let kernel = good();
    let mut payload = zstd(&kernel);
    payload[5] = 0xf8;
    assert!(matches!(
        Image::parse(&bzimage(&payload, kernel.len())),
        Err(ImageError::Unsupported(_))
    ));
}

proptest! {
    #[test]
    fn any_bytes(file in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = Image::parse(&file);
    }

    /// Random changes of a correct image cause no panic, and never add a missing format to a
    /// list.
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
