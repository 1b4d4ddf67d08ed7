// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Images of arm64.

use super::{gzip, list, masks};
use crate::{
    arm64::Arm64Image, check_formats, unpack, worst, Formats, Image, ImageError, Machine, Needs,
    Verdict,
};
use proptest::prelude::*;

const FORMATS: [&str; 3] = ["kho-v4", "luo-v5", "memfd-v2"];

/// The header of a kernel of Debian, linux-image-6.12.117+deb13-cloud-arm64.
const DEBIAN: [u8; 64] = [
    0x4d, 0x5a, 0x40, 0xfa, 0x3b, 0x38, 0x62, 0x14, 0, 0, 0, 0, 0, 0, 0,
    0, // code, text_offset
    0, 0, 0xe7, 0x01, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, // image_size, flags
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // reserved
    0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0x52, 0x4d, 0x64, 0x40, 0, 0,
    0, // magic, offset of the PE header
];

/// An Image with the given flags in its header, and data after it.
fn image(flags: u64, data: &[u8]) -> Vec<u8> {
    let mut file = DEBIAN.to_vec();
    file[24..32].copy_from_slice(&flags.to_le_bytes());
    file.extend(data);
    file
}

#[test]
fn the_header_of_debian() {
    let header = Arm64Image {
        image_size: 0x1e7_0000,
        page_size: Some(4096),
    };
    assert_eq!(Arm64Image::parse(&DEBIAN), Ok(header));
}

const PAGES_4K: u64 = 0b1010;

/// An Image with the list of formats, and what follows it in a kernel.
fn good() -> Vec<u8> {
    let banner = b"Linux version %s\n\0Linux version 7.3.4 (luo@sandbox) #1 SMP\n\0";
    let mut data = [banner.as_slice(), &[0; 4]].concat();
    data.resize(data.len().next_multiple_of(8), 0);
    data.extend(list(&FORMATS));
    data.extend([0xff; 256]);
    image(PAGES_4K, &data)
}

/// An EFI program with a compressed kernel, and its length if it is not a part of it.
fn zboot(compression: &[u8], payload: &[u8], length: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..2].copy_from_slice(b"MZ");
    file[4..8].copy_from_slice(b"zimg");
    file[8..12].copy_from_slice(&512_u32.to_le_bytes());
    file[12..16].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    file[24..24 + compression.len()].copy_from_slice(compression);
    file[56..60].copy_from_slice(&0x8182_23cd_u32.to_le_bytes());
    file.resize(512, 0);
    file.extend(payload);
    file.extend(length);
    file.extend([0; 100]);
    file
}

fn length(kernel: &[u8]) -> [u8; 4] {
    u32::try_from(kernel.len()).unwrap().to_le_bytes()
}

#[test]
fn an_image_is_examined() {
    let image = Image::parse(&good()).unwrap();
    let page_size = Some(4096);
    assert_eq!(image.machine, Machine::Arm64 { page_size });
    assert_eq!(image.version.as_deref(), Some("7.3.4"));
    assert_eq!(image.init_size, 0x1e7_0000);
    assert_eq!(
        image.formats,
        Formats::List(FORMATS.map(str::to_owned).into())
    );
    assert!(image.unverified.is_some());
}

#[test]
fn the_size_of_pages_must_be_the_same() {
    for (flags, size) in [(0b010, 4), (0b100, 16), (0b110, 64)] {
        let machine = Image::parse(&image(flags, b"")).unwrap().machine;
        for here in [4, 16, 64] {
            let finding = machine.check("aarch64", here << 10);
            match size == here {
                true => assert_eq!(finding, None),
                false => assert_eq!(finding.unwrap().verdict, Verdict::No),
            }
        }
    }
    let machine = Image::parse(&image(0, b"")).unwrap().machine;
    assert_eq!(
        machine.check("aarch64", 4096).unwrap().verdict,
        Verdict::Unknown
    );
    assert_eq!(machine.check("x86_64", 4096).unwrap().verdict, Verdict::No);
    let other = Machine::X86_64.check("aarch64", 4096).unwrap();
    assert_eq!(other.verdict, Verdict::No);
    assert_eq!(Machine::X86_64.check("x86_64", 4096), None);
}

#[test]
fn other_headers_are_refused() {
    let error = Image::parse(&image(PAGES_4K | 1, b"")).unwrap_err();
    assert!(matches!(error, ImageError::Unbootable(_)), "{error}");
    let mut old = good();
    old[16..24].fill(0);
    let error = Image::parse(&old).unwrap_err();
    assert!(matches!(error, ImageError::Unbootable(_)), "{error}");
    let error = Image::parse(&good()[..62]).unwrap_err();
    assert!(matches!(error, ImageError::Damaged(_)), "{error}");
    assert_eq!(Arm64Image::parse(b"MZ"), Err(ImageError::NotAKernel));
}

#[test]
fn a_list_that_cannot_be_told_from_others_is_unreadable() {
    let formats = |data: &[u8]| Image::parse(&image(PAGES_4K, data)).unwrap().formats;
    let two = [list(&FORMATS), list(&["x-v1"])].concat();
    assert!(matches!(formats(&two), Formats::Unreadable(_)));
    let features = masks(&[("luo", [7, 7, 7])]);
    assert!(matches!(formats(&features), Formats::Unreadable(_)));
    let strings = Formats::Strings(["luo-v5".to_owned()].into());
    assert_eq!(formats(b"\0luo-v5\0"), strings);
}

#[test]
fn an_efi_program_is_unpacked() {
    let kernel = good();
    let zstd = zstd_frame(&kernel);
    for file in [
        zboot(b"gzip\0", &gzip(&kernel), b""),
        zboot(b"zstd22\0", &zstd, &length(&kernel)),
    ] {
        let image = Image::parse(&file).unwrap();
        assert_eq!(image.version.as_deref(), Some("7.3.4"));
        assert_eq!(image.file_size, kernel.len() as u64);
        assert_eq!(unpack(&file).unwrap().as_ref(), Some(&kernel));
    }
    let file = zboot(b"gzip\0", &gzip(&kernel), b"");
    let needs = Needs {
        complete: true,
        ..Needs::usual()
    };
    let findings = check_formats(&Image::parse(&file).unwrap(), &needs);
    assert_eq!(worst(&findings), Verdict::Yes);
    assert_eq!(unpack(&kernel), Ok(None));
}

/// A frame of zstd with one block that is not compressed.
fn zstd_frame(content: &[u8]) -> Vec<u8> {
    let size = u32::try_from(content.len()).unwrap();
    // The content size has four bytes, and there is no window.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000];
    frame.extend(size.to_le_bytes());
    // The last block.
    frame.extend(&((size << 3) | 1).to_le_bytes()[..3]);
    frame.extend(content);
    frame
}

#[test]
fn damaged_efi_programs_are_refused() {
    let kernel = good();
    let file = zboot(b"gzip\0", &gzip(&kernel), b"");
    let damaged = |file: &[u8]| {
        let error = Image::parse(file).unwrap_err();
        assert!(matches!(error, ImageError::Damaged(_)), "{error}");
        assert!(unpack(file).is_err());
    };
    damaged(&file[..600]);
    let mut other = file.clone();
    other[540] ^= 0xff;
    damaged(&other);
    let mut far = file;
    far[8..12].fill(0xff);
    damaged(&far);
    let elsewhere = zboot(b"gzip\0", &gzip(b"no kernel"), b"");
    let error = Image::parse(&elsewhere).unwrap_err();
    assert!(matches!(error, ImageError::Unsupported(_)), "{error}");
}

proptest! {
    #[test]
    fn any_header_is_handled(
        start in any::<[u8; 64]>(),
        rest in proptest::collection::vec(any::<u8>(), 0..600),
        zboot in any::<bool>(),
    ) {
        let mut file = start.to_vec();
        match zboot {
            true => {
                file[..2].copy_from_slice(b"MZ");
                file[4..8].copy_from_slice(b"zimg");
            }
            false => file[56..60].copy_from_slice(b"ARM\x64"),
        }
        file.extend(rest);
        let _ = Image::parse_within(&file, 1 << 20);
    }
}
