// SPDX-License-Identifier: GPL-2.0

//! `luoctl load` of installed kernels and of boot entries, on a fake system.
//!
//! The kernel of the machine that runs the tests refuses these images: which image it was, and what
//! the verdict on it is, shows which files and which command line were chosen.

mod common;

use common::{kernel::kernel, Output, Root, FORMATS};
use std::path::Path;

const ON: &str = "ro kho=on liveupdate=on";

/// A system without a record of a loaded image, whose command line has no `liveupdate=on`.
fn system() -> Root {
    let root = Root::new();
    root.put(
        "proc/cmdline",
        "BOOT_IMAGE=/vmlinuz-1 initrd=\\initrd ro kho=on\n",
    );
    root
}

fn load(root: &Root, args: &[&str]) -> Output {
    root.run(Path::new("/nonexistent"), &[&["load"], args].concat())
}

/// The image at `path` has the verdict "yes", and was given to the kernel.
#[track_caller]
fn given(said: Output, path: &str) {
    said.expect(1)
        .says("yes      all together")
        .says(&format!("the kernel cannot load {path}: "));
}

#[test]
fn installed_kernels() {
    let root = system();
    let ours = kernel(Some(&FORMATS), &[]);
    root.put("boot/vmlinuz-7.3.4-luo", &ours);
    root.put("boot/vmlinuz-7.3.3-luo", &ours);
    load(&root, &["--kernel", "7.3.4-luo"])
        .expect(1)
        .says("has no ")
        .says("initrd.img-7.3.4-luo: make it with update-initramfs -c -k 7.3.4-luo");
    root.put("boot/initrd.img-7.3.4-luo", vec![0; 3 << 20]);
    load(&root, &["--kernel", "7.3.4-luo"])
        .expect(4)
        .says("yes      command line: kho=on")
        .says("liveupdate=on is missing");
    let image = root.path("boot/vmlinuz-7.3.4-luo");
    let image = image.to_str().unwrap();
    given(
        load(&root, &["--kernel", "7.3.4-luo", "--cmdline", ON]),
        image,
    );
    load(&root, &["--kernel", "7.3.5-luo"])
        .expect(1)
        .says("installed are: 7.3.3-luo, 7.3.4-luo");

    let grub = ["--kernel", "7.3.4-luo", "--grub-cmdline"];
    load(&root, &grub).expect(1).says("boot/grub/grub.cfg");
    root.put(
        "boot/grub/grub.cfg",
        format!("linux /vmlinuz-7.3.4-luo {ON}\n"),
    );
    given(load(&root, &grub), image);
    for bad in [
        &["--kernel", "../x"][..],
        &["--kernel", "7.3.4-luo", image],
        &["--kernel", "7.3.4-luo", "--initrd", "x"],
        &["--grub-cmdline", image],
        &["--kernel", "7.3.4-luo", "--grub-cmdline", "--cmdline", "x"],
        &["--entry", "a/b"],
        &[],
    ] {
        load(&root, bad).expect(2);
    }
}

#[test]
fn boot_entries() {
    let root = system();
    load(&root, &["--entry", "debian"])
        .expect(1)
        .says("there are: none");
    let entry = format!("title Debian\nlinux /debian/linux\ninitrd /debian/initrd\noptions {ON}\n");
    root.put("efi/loader/entries/debian+3-1.conf", &entry);
    root.put("boot/efi/loader/entries/other.conf", "efi /EFI/x.efi\n");
    root.put(
        "efi/loader/entries/quiet.conf",
        "linux debian/linux\noptions kho=on\n",
    );
    root.put("efi/debian/linux", kernel(Some(&FORMATS), &[]));
    load(&root, &["--entry", "debian"])
        .expect(1)
        .says("efi/debian/initrd: ");
    root.put("efi/debian/initrd", "archive");
    let image = root.path("efi/debian/linux");
    let image = image.to_str().unwrap();
    given(load(&root, &["--entry", "debian"]), image);
    given(load(&root, &["--entry", "debian.conf"]), image);
    let reuse = ["--entry", "debian", "--reuse-cmdline"];
    load(&root, &reuse)
        .expect(4)
        .says("liveupdate=on is missing");
    // The command line of the running kernel is no default here.
    root.put("proc/cmdline", ON);
    load(&root, &["--entry", "quiet"])
        .expect(4)
        .says("liveupdate=on is missing");
    load(&root, &["--entry", "other"])
        .expect(1)
        .says("an EFI program");
    load(&root, &["--entry", "debia"])
        .expect(1)
        .says("there are: debian.conf, other.conf, quiet.conf");
    // The same ID twice.
    root.put("boot/EFI/Linux/debian.efi", "no image");
    load(&root, &["--entry", "debian"])
        .expect(1)
        .says("are both the boot entry debian");
    load(&root, &["--entry", "debian.efi"])
        .expect(1)
        .says("boot/EFI/Linux/debian.efi: it is not a unified kernel image");
}
