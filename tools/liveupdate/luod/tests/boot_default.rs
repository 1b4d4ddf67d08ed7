// SPDX-License-Identifier: GPL-2.0

//! The hook that makes the boot entry of the running kernel the default.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

struct Hook(PathBuf);

impl Hook {
    /// The hook on a machine whose kernel has the release 7.3-2.
    fn new(name: &str) -> Self {
        let dir = env::temp_dir().join(format!("luod-boot-{name}-{}", std::process::id()));
        let hook = Self(dir);
        fs::create_dir_all(hook.0.join("bin")).unwrap();
        hook.program("uname", "echo 7.3-2");
        let said = format!("echo $@ >> {}/said", hook.0.display());
        hook.program("bootctl", &said);
        hook.program(
            "grub-set-default",
            &format!("printf 'grub ' >> {}/said; {said}", hook.0.display()),
        );
        hook
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.0.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn entry(&self, path: &str, version: &str) {
        self.file(path, &format!("title x\nversion    {version}\nlinux /l\n"));
    }

    fn run(&self, stage: &str, input: &str) -> (Output, String) {
        let path = env::var("PATH").unwrap_or_default();
        let hook = concat!(env!("CARGO_MANIFEST_DIR"), "/hooks/boot-default");
        let mut child = Command::new("sh")
            .arg(hook)
            .env("LUOD_STAGE", stage)
            .env("LUOD_BOOT_ROOT", &self.0)
            .env("PATH", format!("{}/bin:{path}", self.0.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A hook need not read its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let said = fs::read_to_string(self.0.join("said")).unwrap_or_default();
        let _ = fs::remove_file(self.0.join("said"));
        (output, said)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_entry_of_the_running_kernel_becomes_the_default() {
    let hook = Hook::new("entry");
    let (output, said) = hook.run("pre", "{}\n");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.is_empty());
    assert!(
        error.contains("no boot entry with the version 7.3-2"),
        "{error}"
    );

    hook.entry("efi/loader/entries/a-7.3-1.conf", "7.3-1");
    hook.entry("efi/loader/entries/a-7.3-22.conf", "7.3-22");
    hook.entry("efi/loader/entries/a-7.3-2+3-1.conf", "7.3-2");
    for (stage, input) in [
        ("pre", "{}\n"),
        ("post", "{\"missing\":[],\"report\":{}}\n"),
    ] {
        let (output, said) = hook.run(stage, input);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(said, "set-default a-7.3-2.conf\n", "{stage}");
    }
}

#[test]
fn nothing_is_changed_without_all_required_sessions() {
    let hook = Hook::new("lost");
    hook.entry("boot/loader/entries/a.conf", "7.3-2");
    let (output, said) = hook.run("post", "{\"missing\":[\"vm-1\"]}\n");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.is_empty(), "{said}");
    assert!(error.contains("a required session was lost"), "{error}");
    let (output, said) = hook.run("abort", "{}\n");
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// As update-grub of Debian writes it, with two kernels.
const GRUB: &str = r#"
set default="${saved_entry}"
menuentry 'Debian' --class os $menuentry_id_option 'gnulinux-simple-uuid' {
	linux /boot/vmlinuz-7.3-22 root=x ro
}
submenu 'Advanced options, the administrator'\''s' $menuentry_id_option 'gnulinux-advanced-uuid' {
	menuentry 'Debian, with 7.3-22' $menuentry_id_option 'gnulinux-7.3-22-advanced-uuid' {
		linux /boot/vmlinuz-7.3-22 root=x ro
	}
	menuentry 'Debian, with 7.3-2 (recovery)' $menuentry_id_option 'gnulinux-7.3-2-recovery-uuid' {
		linux /boot/vmlinuz-7.3-2 root=x ro single
	}
	menuentry 'Debian, with 7.3-2' $menuentry_id_option 'gnulinux-7.3-2-advanced-uuid' {
		linux /boot/vmlinuz-7.3-2 root=x ro
	}
}
"#;

#[test]
fn the_entry_of_grub_becomes_the_default() {
    let hook = Hook::new("grub");
    hook.file("boot/grub/grub.cfg", GRUB);
    let set = "grub gnulinux-advanced-uuid>gnulinux-7.3-2-advanced-uuid\n";
    let (output, said) = hook.run("pre", "{}\n");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said, set);

    // GRUB does not read these entries.
    hook.entry("efi/loader/entries/a.conf", "7.3-2");
    let (output, said) = hook.run("post", "{\"missing\":[]}\n");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said, set);

    // Without a submenu (GRUB_DISABLE_SUBMENU=y).
    let flat = GRUB.replace("submenu", "# submenu").replace("\t", "");
    hook.file("boot/grub/grub.cfg", &flat);
    let (output, said) = hook.run("pre", "{}\n");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said, "grub gnulinux-7.3-2-advanced-uuid\n");

    // GRUB is installed, but systemd-boot has started this machine.
    let info: Vec<u8> = "systemd-boot 262"
        .bytes()
        .flat_map(|byte| [byte, 0])
        .collect();
    hook.file(
        "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
        &String::from_utf8(info).unwrap(),
    );
    let (output, said) = hook.run("pre", "{}\n");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said, "set-default a.conf\n");
}

#[test]
fn what_grub_cannot_do_is_refused() {
    let hook = Hook::new("grub-refused");
    for (text, why) in [
        (GRUB.replace("7.3-2-adv", "7.3-3-adv"), "run update-grub"),
        (GRUB.replace("${saved_entry}", "0"), "GRUB_DEFAULT=saved"),
    ] {
        hook.file("boot/grub/grub.cfg", &text);
        let (output, said) = hook.run("pre", "{}\n");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.is_empty(), "{said}");
        assert!(error.contains(why), "{error}");
    }
}
