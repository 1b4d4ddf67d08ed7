// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Command lines of the next kernel.

use super::{good, packed};
use crate::{
    cmdline::{self, Scratch},
    worst, Image, Verdict,
};

#[test]
fn sizes_of_scratch() {
    let parse = Scratch::parse;
    assert_eq!(parse("200%"), Some(Scratch::Percent(200)));
    assert_eq!(
        parse("32M,1G,0"),
        Some(Scratch::Bytes([32 << 20, 1 << 30, 0]))
    );
    assert_eq!(parse("16k,0x10,1"), Some(Scratch::Bytes([16 << 10, 16, 1])));
    for bad in [
        "", "%", "32M", "32M,32M", "1,2,3,4", "0,0,0", "1M,x,2M", "1T,1,1",
    ] {
        assert_eq!(parse(bad), None, "{bad}");
    }
    let line = "kho=on liveupdate=on kho_bootmem=1M,2M,3M";
    assert_eq!(
        Scratch::of_cmdline(line),
        Some(Scratch::Bytes([1 << 20, 2 << 20, 3 << 20]))
    );
    assert_eq!(worst(&cmdline::check(line, None)), Verdict::Yes);
    let mut image = Image::parse(&packed(&good())).unwrap();
    let mut check = |version: &str, line: &str| {
        image.version = Some(version.to_owned());
        worst(&cmdline::check(
            &format!("kho=on liveupdate=on {line}"),
            Some(&image),
        ))
    };
    assert_eq!(check("7.3.4 (x)", "kho_scratch=200%"), Verdict::Yes);
    assert_eq!(check("7.3.4 (x)", "kho_scratch=lots"), Verdict::Likely);
    assert_eq!(check("7.3.4 (x)", "kho_bootmem=200%"), Verdict::Likely);
    assert_eq!(check("7.4.0-rc1", "kho_scratch=200%"), Verdict::Likely);
    assert_eq!(check("7.4.0-rc1", "kho_bootmem=200%"), Verdict::Yes);
    assert_eq!(
        check("7.4.0", "kho_bootmem=200% kho_scratch=200%"),
        Verdict::Yes
    );
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
