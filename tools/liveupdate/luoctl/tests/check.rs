// SPDX-License-Identifier: GPL-2.0

//! `luoctl check` and `luoctl load`, on a system that is none.

mod common;

use common::{Output, Root, FORMATS};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// A kernel with a list of formats, or with strings only.
fn kernel(list: Option<&[&str]>, strings: &[&str]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.shstrtab\0.liveupdate_versions\0";
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
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

/// Checks a kernel that is written to a file.
fn check(root: &Root, kernel: &[u8], args: &[&str]) -> Output {
    root.put("boot/next", kernel);
    let image = root.path("boot/next");
    let image = image.to_str().unwrap();
    root.run(
        Path::new("/nonexistent"),
        &[&["check", image], args].concat(),
    )
}

#[test]
fn verdicts() {
    let root = Root::new();
    let ours = kernel(Some(&FORMATS), &[]);
    check(&root, &ours, &[])
        .expect(0)
        .says("yes      all together");
    let json = check(&root, &ours, &["--json"]).expect(0).json();
    assert_eq!(json[0]["verdict"], "yes");
    check(&root, &ours, &["--cmdline", "kho=on"])
        .expect(4)
        .says("liveupdate=on is missing");
    check(&root, &ours, &["--cmdline", "liveupdate=on"]).expect(5);

    let in_c = kernel(None, &FORMATS);
    check(&root, &in_c, &[]).expect(6).says("likely");
    let other = kernel(None, &["kho-v4", "luo-v6", "memfd-v2"]);
    check(&root, &other, &[])
        .expect(4)
        .says("the image has luo-v6 where luo-v5 would be handed over");
    let without = kernel(None, &[]);
    check(&root, &without, &[])
        .expect(4)
        .says("there is no luo-v5 in the image");

    let old = kernel(Some(&["kho-v4", "luo-v5"]), &[]);
    check(&root, &old, &[]).expect(4).says("memfd-v2");
    check(&root, b"#!/bin/sh\n", &[])
        .expect(1)
        .says("no bzImage");
    root.put("proc/meminfo", "MemAvailable:    0 kB\n");
    check(&root, &ours, &[]).expect(4).says("MiB are needed");
    root.run(Path::new("/nonexistent"), &["check", "/nonexistent"])
        .expect(1);
}

#[test]
fn what_is_not_loaded() {
    let root = Root::new();
    root.put("boot/next", kernel(None, &[]));
    let image = root.path("boot/next");
    let image = image.to_str().unwrap();
    let before = fs::read(root.path("run/luod/image.json")).unwrap();
    let nowhere = Path::new("/nonexistent");
    root.run(nowhere, &["load", image])
        .expect(4)
        .says("was not loaded")
        .says("--force");
    let json = root.run(nowhere, &["--json", "load", image]).json();
    assert_eq!(json[0]["verdict"], "no");
    assert_eq!(json[1]["exit"], 4);
    // It is no kernel that any machine could load: what was loaded before is loaded still.
    root.run(nowhere, &["load", image, "--force"])
        .expect(1)
        .says("the kernel cannot load");
    let after = fs::read(root.path("run/luod/image.json")).unwrap();
    assert!(before == after);
    root.run(nowhere, &["load", image, "--initrd", "/nonexistent"])
        .expect(1);
}

#[test]
fn the_loaded_image() {
    let root = Root::new();
    let check = |code| root.run(Path::new("/nonexistent"), &["check"]).expect(code);
    check(0).says("carries Kexec Handover").says("yes");
    // Of which another boot knows.
    root.put("proc/sys/kernel/random/boot_id", "another boot\n");
    check(5).says("not loaded by luoctl load");
    root.put("proc/sys/kernel/random/boot_id", "this boot\n");
    root.record(&["kho-v4", "luo-v5"]);
    check(4).says("memfd-v2");
    root.record(&FORMATS);
    // Which others could have written.
    let record = root.path("run/luod/image.json");
    fs::set_permissions(&record, PermissionsExt::from_mode(0o666)).unwrap();
    check(5).says("others could have written it");
    root.record(&FORMATS);
    let mode = fs::metadata(&record).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
    fs::write(&record, "nonsense").unwrap();
    check(5).says("cannot be used");

    // A kernel in C tells less.
    root.record(&FORMATS);
    fs::remove_dir_all(root.path("sys/kernel/liveupdate")).unwrap();
    check(5).says("cannot be found out");
    root.put("sys/kernel/kexec_loaded", "1\n");
    check(6).says("luoctl has loaded the image");
    root.put("sys/kernel/kexec_loaded", "0\n");
    check(4).says("no kernel is loaded");
}

#[test]
fn what_is_generated() {
    let root = Root::new();
    let nowhere = Path::new("/nonexistent");
    for shell in ["bash", "zsh", "fish"] {
        let said = root.run_raw(nowhere, &["completions", shell]);
        assert!(said.contains("luoctl") && said.contains("discard"));
    }
    let dir = root.path("man");
    root.run(nowhere, &["man", dir.to_str().unwrap()]).expect(0);
    for page in ["luoctl.1", "luoctl-kexec.1", "luoctl-load.1"] {
        let text = fs::read_to_string(dir.join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
        assert!(!text.contains("for tests"), "{page}");
    }
}
