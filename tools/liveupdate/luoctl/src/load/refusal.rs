// SPDX-License-Identifier: GPL-2.0

//! Reasons why the kernel does not load an image, and their solutions.

use luo_check::{
    cmdline::{has_bootmem, Scratch},
    System,
};
use rustix::io::Errno;
use std::{fs, io};

const MIB: u64 = 1 << 20;

/// Sizes of the files to load, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The memory that the kernel needs to start; 0 if this is not known.
    pub kernel: u64,
    /// The initial RAM file system.
    pub initrd: u64,
}

/// Returns a sentence with the reason why an image was not loaded, and the solution.
pub fn reason(system: &System, sizes: Sizes, error: &io::Error) -> String {
    let text = match Errno::from_io_error(error).unwrap_or(Errno::IO) {
        Errno::ADDRNOTAVAIL => return too_small(system, sizes),
        Errno::PERM => return not_permitted(system),
        Errno::NOEXEC => "the kernel finds no image for this machine in the file: use another one",
        Errno::KEYREJECTED
        | Errno::KEYEXPIRED
        | Errno::KEYREVOKED
        | Errno::NOKEY
        | Errno::NODATA
        | Errno::BADMSG
        | Errno::NOPKG
        | Errno::LIBBAD => {
            "its signature is missing, wrong, or made with a key that this kernel does not trust: \
             sign it with a key that is in the kernel or in the firmware"
        }
        Errno::NOMEM => {
            "there is not enough free memory: free as much as the kernel, the initrd and a copy of \
             both need"
        }
        Errno::BUSY => "another program is loading or starting an image: try again",
        Errno::NOSYS => "this kernel is built without CONFIG_KEXEC_FILE: use one that has it",
        Errno::FBIG => {
            "the kernel or the initrd is larger than the kernel accepts: use a smaller one"
        }
        Errno::INVAL => {
            "it accepts neither a command line of more than 2047 bytes nor an empty file: shorten \
             the one, or use another one"
        }
        Errno::ACCESS => "a security policy of this machine forbids it: see its audit log",
        _ => return error.to_string(),
    };
    format!("{text} ({error})")
}

/// For `EPERM`.
fn not_permitted(system: &System) -> String {
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
    let sysctl = |name: &str| read(system.procfs.join("sys/kernel").join(name));
    let lockdown = read(system.sysfs.join("kernel/security/lockdown"));
    if sysctl("kexec_load_disabled").trim() == "1" {
        "kernel.kexec_load_disabled is 1, which cannot be undone: reboot without setting it"
    } else if system.loads_left() == Some(0) {
        "kernel.kexec_load_limit_reboot is 0, which cannot be undone: reboot without setting it"
    } else if lockdown.contains("[integrity]") || lockdown.contains("[confidentiality]") {
        "the kernel is locked down: use an image that is signed with a key that it trusts"
    } else {
        "this needs CAP_SYS_BOOT: use it as root, outside of containers"
    }
    .to_owned()
}

/// For `EADDRNOTAVAIL`: with Kexec Handover, an image is loaded to the scratch area, in which
/// the next kernel boots and nothing is preserved.
fn too_small(system: &System, sizes: Sizes) -> String {
    let line = system.cmdline().unwrap_or_default();
    let release = fs::read_to_string(system.procfs.join("sys/kernel/osrelease"));
    let meminfo = fs::read_to_string(system.procfs.join("meminfo")).unwrap_or_default();
    let bootmem = release.ok().and_then(|release| has_bootmem(&release));
    let name = if bootmem == Some(true) {
        "kho_bootmem"
    } else {
        "kho_scratch"
    };
    let [low, anywhere, node] = scratch(&line, &meminfo, sizes).map(|size| size / MIB);
    let kernel = if sizes.kernel == 0 {
        String::new()
    } else {
        format!("{} MiB for the kernel and ", sizes.kernel.div_ceil(MIB))
    };
    format!(
        "{kernel}{} MiB for the initrd do not fit into the scratch area of Kexec Handover: boot \
         this kernel with {name}={low}M,{anywhere}M,{node}M, or use a smaller initrd",
        sizes.initrd.div_ceil(MIB)
    )
}

/// The sizes for `kho_scratch=`, in bytes, with which the files fit.
fn scratch(cmdline: &str, meminfo: &str, sizes: Sizes) -> [u64; 3] {
    /// The alignment of kernels, which also need some more memory to boot.
    const SPARE: u64 = 32 * MIB;

    let total = meminfo.lines().find_map(|line| {
        let value = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?;
        value.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    // The next kernel allocates the array of pages from this area: 64 bytes for 4 KiB.
    let pages = total.unwrap_or(0) / 64;
    let round = |size: u64| size.max(1).div_ceil(SPARE).saturating_mul(SPARE);
    let files = sizes.kernel.saturating_add(sizes.initrd);
    let needed = files.saturating_add(pages).saturating_add(2 * SPARE);
    match Scratch::of_cmdline(cmdline) {
        // The result must be larger than the existing area.
        Some(Scratch::Bytes([low, anywhere, node])) => [
            low.div_ceil(MIB).saturating_mul(MIB),
            round(needed.max(anywhere.saturating_add(MIB))),
            node.max(pages).div_ceil(MIB).saturating_mul(MIB),
        ],
        _ => [SPARE, round(needed), round(pages + SPARE)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:        1048576 kB\nMemFree:  5 kB\n";

    fn in_mib(cmdline: &str, kernel: u64, initrd: u64) -> [u64; 3] {
        let sizes = Sizes {
            kernel: kernel * MIB,
            initrd: initrd * MIB,
        };
        scratch(cmdline, MEMINFO, sizes).map(|size| size / MIB)
    }

    #[test]
    fn the_files_fit() {
        for (kernel, initrd) in [(0, 0), (15, 20), (48, 300), (100, 4000)] {
            for line in [
                "",
                "kho_scratch=200%",
                "kho_scratch=32M,32M,32M",
                "kho_scratch=1M,4G,1M",
            ] {
                let [_, anywhere, node] = in_mib(line, kernel, initrd);
                // Both of them, at multiples of 16 MiB, and 16 MiB for the pages.
                assert!(
                    anywhere >= kernel + initrd + 16 + 32,
                    "{line} {kernel} {initrd}"
                );
                assert!(node >= 16);
            }
        }
    }

    #[test]
    fn more_than_there_was() {
        let [low, anywhere, node] = in_mib("kho=on kho_scratch=48M,1000M,64M", 15, 20);
        assert_eq!((low, node), (48, 64));
        assert!(anywhere > 1000);
        let [_, anywhere, _] = in_mib("kho_bootmem=32M,2G,32M", 15, 20);
        assert!(anywhere > 2048);
    }

    #[test]
    fn absurd_sizes() {
        let sizes = Sizes {
            kernel: u64::MAX,
            initrd: u64::MAX,
        };
        scratch("", "MemTotal: 18446744073709551615 kB", sizes);
        scratch(
            "kho_scratch=0xffffffffffffffff,0xffffffffffffffff,1",
            MEMINFO,
            sizes,
        );
    }
}
