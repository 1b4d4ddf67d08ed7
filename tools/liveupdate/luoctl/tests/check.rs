// SPDX-License-Identifier: GPL-2.0

//! `luoctl check` and `luoctl load`, on a fake system.

mod common;

use common::{
    kernel::{bzimage, gzip, kernel, vmlinux},
    Output, Root, FORMATS,
};
use rustix::fs::{mkfifoat, Mode, CWD};
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
};

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
        .says("not a bzImage, vmlinux or arm64 Image");
    check(&root, b"", &[])
        .expect(1)
        .says("not a bzImage, vmlinux or arm64 Image");
    check(&root, &vmlinux(Some(&FORMATS), &[]), &[])
        .expect(6)
        .says("a vmlinux has no checksum");
    root.put("proc/meminfo", "MemAvailable:    0 kB\n");
    check(&root, &ours, &[]).expect(4).says("MiB are needed");
    root.run(Path::new("/nonexistent"), &["check", "/nonexistent"])
        .expect(1);
}

/// A file of a module is preserved.
#[test]
fn modules() {
    let root = Root::new();
    let ours = kernel(Some(&FORMATS), &[]);
    let in_use = format!("{}\nmydev-v1\n", FORMATS.join("\n"));
    root.put("sys/kernel/liveupdate/in_use", in_use);
    let aliases = "lib/modules/7.3.4/modules.alias";
    check(&root, &ours, &[]).expect(4).says("mydev-v1");
    root.put(aliases, "alias liveupdate:mydev-v1 mydev\n");
    check(&root, &ours, &[])
        .expect(6)
        .says("a module that is installed for the image supports mydev-v1");
    root.put(aliases, "alias liveupdate:mydev-v2 mydev\n");
    check(&root, &ours, &[]).expect(4).says("mydev-v1");
}

/// A kernel that reads memfds only, while other memory is preserved.
#[test]
fn kinds_of_memory() {
    let root = Root::new();
    for name in [
        "hugetlb-memfd-v1",
        "hugetlb-v2",
        "kvm-vm-v1",
        "guest-memfd-v1",
    ] {
        let all = [&FORMATS[..], &[name]].concat();
        root.put("sys/kernel/liveupdate/compatible", all.join("\n"));
        root.put(
            "sys/kernel/liveupdate/in_use",
            format!("{}\n", all.join("\n")),
        );
        let ours = kernel(Some(&FORMATS), &[]);
        check(&root, &ours, &[]).expect(4).says(name);
        // The implementation in C has no list, so that only the absence of the name is known. KVM may
        // be a module, whose formats are not in the image.
        let in_c = kernel(None, &FORMATS);
        let code = if name.starts_with("hugetlb") { 4 } else { 5 };
        check(&root, &in_c, &[]).expect(code).says(name);
        check(&root, &kernel(Some(&all), &[]), &[]).expect(0);
    }
}

/// Distributions install the configuration as a file beside the image.
#[test]
fn configuration_beside_the_image() {
    let root = Root::new();
    let image = root.path("boot/vmlinuz-7.3");
    let run = || {
        root.run(
            Path::new("/nonexistent"),
            &["check", image.to_str().unwrap()],
        )
    };
    root.put("boot/vmlinuz-7.3", kernel(Some(&FORMATS), &[]));
    run().expect(0);
    root.put(
        "boot/config-7.3",
        "CONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\n",
    );
    run().expect(4).says("CONFIG_LIVEUPDATE_MEMFD is not set");
    let config = "CONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\nCONFIG_LIVEUPDATE_MEMFD=y\n";
    root.put("boot/config-7.3", config);
    run().expect(0);
    // Something else is not read.
    fs::remove_file(root.path("boot/config-7.3")).unwrap();
    mkfifoat(CWD, root.path("boot/config-7.3"), Mode::RUSR).unwrap();
    run().expect(0);
}

/// An image that cannot be started is not loaded.
#[test]
fn images_that_do_not_boot() {
    let root = Root::new();
    let good = kernel(Some(&FORMATS), &[]);
    let mut damaged = good.clone();
    damaged[1024 + 40] ^= 0xff;
    let plain = vmlinux(Some(&FORMATS), &[]);
    let changed = |at: usize, value: u8| {
        let mut file = plain.clone();
        file[at] = value;
        file
    };
    for (file, why) in [
        (good[..good.len() - 1000].to_vec(), "its end is missing"),
        (good[..1100].to_vec(), "points beyond the file"),
        (damaged, "damaged"),
        (bzimage(&gzip(&plain[..plain.len() - 8])), "is missing"),
        (changed(0x12, 183), "another machine"),
        (changed(0x10, 1), "not an executable"),
        (changed(0x10, 4), "not an executable"),
        (bzimage(&gzip(&changed(0x12, 183))), "another machine"),
    ] {
        check(&root, &file, &[]).expect(4).says(why);
        let image = root.path("boot/next");
        root.run(
            Path::new("/nonexistent"),
            &["load", image.to_str().unwrap()],
        )
        .expect(4)
        .says("was not loaded");
    }
}

/// An image that cannot be examined is unknown.
#[test]
fn images_of_other_kinds() {
    let root = Root::new();
    let unified = [b"MZ".to_vec(), vec![0; 4094], kernel(Some(&FORMATS), &[])].concat();
    for (file, what) in [
        (unified, "unified kernel image"),
        (bzimage(b"\xfd7zXZ\0rest"), "xz"),
    ] {
        check(&root, &file, &[]).expect(5).says(what);
    }
}

/// An Image of arm64 is examined, and not for another architecture.
#[test]
fn images_of_arm64() {
    let root = Root::new();
    let mut image = vec![0; 4096];
    image[16..24].copy_from_slice(&8192_u64.to_le_bytes());
    image[24] = 0b010;
    image[56..60].copy_from_slice(b"ARMd");
    let expected = match cfg!(target_arch = "x86_64") {
        true => "the image is for arm64, and this machine is another one",
        false => "there is no luo-v5 in the image",
    };
    check(&root, &image, &[]).expect(4).says(expected);
}

/// All kinds of files are handled.
#[test]
fn files_of_other_kinds() {
    let root = Root::new();
    let nowhere = Path::new("/nonexistent");
    root.put("boot/next", kernel(Some(&FORMATS), &[]));
    let good = root.path("boot/next");
    let fifo = root.path("fifo");
    mkfifoat(CWD, &fifo, Mode::RWXU).unwrap();
    let dir = root.path("boot");
    for path in [
        fifo.to_str().unwrap(),
        dir.to_str().unwrap(),
        "/dev/zero",
        "/dev/tty",
    ] {
        for args in [
            &["check", path][..],
            &["load", path],
            &["load", good.to_str().unwrap(), "--initrd", path],
        ] {
            root.run(nowhere, args)
                .expect(1)
                .says("it is not a regular file");
        }
    }
    // A file of a tebibyte is not read, if the file system supports it.
    let sparse = root.path("sparse");
    let file = File::create(&sparse).unwrap();
    if file.set_len(1 << 40).is_err() {
        file.set_len(1 << 32).unwrap();
    }
    root.run(nowhere, &["check", sparse.to_str().unwrap()])
        .expect(5)
        .says("larger than");
    // A kernel of 64 MiB in 64 KiB, whose header has a smaller length, or one beyond the limit.
    let mut bomb = gzip(&vec![0; 64 << 20]);
    for length in [0, 1 << 20, u32::MAX] {
        bomb.extend(length.to_le_bytes());
        let said = check(&root, &bzimage(&bomb), &[]);
        assert!([4, 5].contains(&said.code), "{said:?}");
    }
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
    // The kernel cannot load this image: the previous image stays loaded.
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
    check(0).says("supports Kexec Handover").says("yes");
    // A record of another boot.
    root.put("proc/sys/kernel/random/boot_id", "another boot\n");
    check(5).says("not loaded by luoctl load");
    root.put("proc/sys/kernel/random/boot_id", "this boot\n");
    root.record(&["kho-v4", "luo-v5"]);
    check(4).says("memfd-v2");
    root.record(&FORMATS);
    // Another program has loaded an image.
    root.put("proc/sys/kernel/kexec_load_limit_reboot", "6\n");
    check(5).says("another program");
    // If this is uncertain, no verdict applies to the loaded image.
    root.put("proc/sys/kernel/kexec_load_limit_reboot", "-1\n");
    check(5).says("does not report whether");
    root.record(&["kho-v4"]);
    check(5).says("does not report whether");
    root.remove("proc/sys/kernel/kexec_load_limit_reboot");
    check(5).says("does not report whether");
    root.put("proc/sys/kernel/kexec_load_limit_reboot", "7\n");
    root.record(&FORMATS);
    check(0);
    // A record that other users could have written.
    let record = root.path("run/luod/image.json");
    fs::set_permissions(&record, PermissionsExt::from_mode(0o666)).unwrap();
    check(5).says("other users could have written it");
    root.record(&FORMATS);
    let mode = fs::metadata(&record).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
    fs::write(&record, "nonsense").unwrap();
    check(5).says("cannot be used");

    // A kernel with the implementation in C reports less.
    root.record(&FORMATS);
    fs::remove_dir_all(root.path("sys/kernel/liveupdate")).unwrap();
    check(5).says("is not known whether");
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
