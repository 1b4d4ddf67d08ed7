// SPDX-License-Identifier: GPL-2.0

//! Kernels that Debian's packages have installed: `/boot/vmlinuz-VERSION`.

use super::partition::listed;
use crate::{
    cli::{Exit, Failure},
    image::{self, failed},
    name::Version,
};
use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

/// The maximum size of GRUB's configuration, in bytes.
const GRUB_MAX: u64 = 4 << 20;

/// The files of a kernel.
#[derive(Debug)]
pub struct Installed {
    pub image: PathBuf,
    pub initrd: PathBuf,
}

/// Finds the files of a kernel below `root`.
pub fn find(root: &Path, version: &Version) -> Result<Installed, Failure> {
    let (boot, version) = (root.join("boot"), version.as_str());
    let installed = Installed {
        image: boot.join(format!("vmlinuz-{version}")),
        initrd: boot.join(format!("initrd.img-{version}")),
    };
    if !installed.image.exists() {
        let names = fs::read_dir(&boot).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let there = names.filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()));
        let why = format!(
            "no kernel {version} is installed in {}; installed are: {}",
            boot.display(),
            listed(there.collect())
        );
        return Err(Failure::new(Exit::Failed, why));
    }
    if !installed.initrd.exists() {
        let why = format!(
            "the kernel {version} has no {}: make it with update-initramfs -c -k {version}, or, if \
             the kernel needs none, use luoctl load {}",
            installed.initrd.display(),
            installed.image.display()
        );
        return Err(Failure::new(Exit::Failed, why));
    }
    Ok(installed)
}

/// The command line that GRUB's configuration has for a kernel: that of its first entry, which is
/// not the one for recovery.
pub fn grub_cmdline(root: &Path, version: &Version) -> Result<String, Failure> {
    let path = root.join("boot/grub/grub.cfg");
    let mut text = String::new();
    let read = image::open(&path)?.take(GRUB_MAX).read_to_string(&mut text);
    let length = read.map_err(|error| failed(&path, error))?;
    if u64::try_from(length).map_or(true, |length| length == GRUB_MAX) {
        return Err(failed(&path, io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    of_grub(&text, version).map_err(|why| failed(&path, why))
}

fn of_grub(text: &str, version: &Version) -> Result<String, String> {
    let version = version.as_str();
    let name = format!("vmlinuz-{version}");
    let line = text.lines().find_map(|line| {
        let mut words = line.trim().splitn(2, char::is_whitespace);
        let command = words.next()?;
        let rest = words.next()?.trim_start();
        let (path, cmdline) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let loads = matches!(command, "linux" | "linux16" | "linuxefi");
        (loads && path.rsplit('/').next() == Some(&name)).then_some(cmdline)
    });
    let Some(line) = line else {
        return Err(format!(
            "it has no entry for the kernel {version}: run update-grub, or use --cmdline"
        ));
    };
    if let Some(c) = line.chars().find(|c| "$'\"\\;{}#".contains(*c)) {
        return Err(format!(
            "the command line of the kernel {version} contains {c}, which only GRUB can interpret: \
             use --cmdline"
        ));
    }
    Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As update-grub of Debian writes it.
    const GRUB: &str = "\
set default=\"0\"
menuentry 'Debian GNU/Linux' --class debian {
\tload_video
\techo\t'Loading Linux 7.3.4-2 ...'
\tlinux\t/boot/vmlinuz-7.3.4-2 root=UUID=0a ro  kho=on liveupdate=on quiet
\tinitrd\t/boot/initrd.img-7.3.4-2
}
submenu 'Advanced options for Debian GNU/Linux' {
\tmenuentry 'with Linux 7.3.4-2 (recovery mode)' {
\t\tlinux\t/boot/vmlinuz-7.3.4-2 root=UUID=0a ro single
\t}
\tmenuentry 'with Linux 7.3.4-1' {
\t\tlinux\t/vmlinuz-7.3.4-1 root=UUID=0a ro kho=on
\t}
\tmenuentry 'of hand' {
\t\tlinux /vmlinuz-7.3.4-0 root=$root
\t\tlinux /vmlinuz-bare
\t}
}
";

    #[test]
    fn command_lines_of_grub() {
        let of = |name: &str| of_grub(GRUB, &name.parse().unwrap());
        let newest = "root=UUID=0a ro kho=on liveupdate=on quiet";
        assert_eq!(of("7.3.4-2").unwrap(), newest);
        assert_eq!(of("7.3.4-1").unwrap(), "root=UUID=0a ro kho=on");
        assert_eq!(of("bare").unwrap(), "");
        assert!(of("7.3.4").unwrap_err().contains("update-grub"));
        assert!(of("7.3.4-0").unwrap_err().contains("contains $"));
    }
}
