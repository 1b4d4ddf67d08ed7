// SPDX-License-Identifier: GPL-2.0

//! Kernels with signatures and lockdown, with measurements, and with an IOMMU.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    kexec::Plan,
    registry::{Case, Suite},
    sessions::expect_errno,
};
use liveupdate::raw;
use rustix::{
    fs::{memfd_create, MemfdFlags},
    io::Errno,
    mount::MountFlags,
};
use std::{
    fs::{self, File},
    io::Read,
};

/// The group of these suites, which need machines and kernels of their own.
const GROUP: &str = "machines";

const SECURITYFS: &str = "/sys/kernel/security";

/// Mounts the file system of security modules, once.
fn mount_securityfs() -> Result {
    if fs::exists(format!("{SECURITYFS}/lsm")).unwrap_or(false) {
        return Ok(());
    }
    rustix::mount::mount(
        "securityfs",
        SECURITYFS,
        "securityfs",
        MountFlags::empty(),
        None,
    )
    .at(SECURITYFS)
}

/// The part of a PE image with the address and the size of its signature.
fn signature(image: &mut [u8]) -> Result<&mut [u8; 8]> {
    /// The location of the offset of the PE header.
    const POINTER: usize = 0x3c;
    /// After the PE header: the entry for certificates, the fifth directory of a 64-bit image.
    const CERTIFICATES: usize = 24 + 112 + 4 * 8;

    let pointer = image.get(POINTER..).and_then(|rest| rest.first_chunk());
    let header = u32::from_le_bytes(*pointer.at("the offset of the PE header")?) as usize;
    let rest = image.get_mut(header..).at("the PE header")?;
    ensure!(rest.starts_with(b"PE"), "there is no PE header");
    let entry = rest.get_mut(CERTIFICATES..);
    entry
        .and_then(|rest| rest.first_chunk_mut())
        .at("the entry for the signature")
}

/// Tries to load an image, which is the kernel after `change`.
fn load_changed(change: impl FnOnce(&mut Vec<u8>) -> Result) -> Result<std::io::Result<()>> {
    const PATH: &str = "/tmp/changed";

    let mut image = Plan::dry()?.image()?;
    change(&mut image)?;
    fs::write(PATH, &image).at(PATH)?;
    drop(image);
    let initramfs = memfd_create("initramfs", MemfdFlags::CLOEXEC).at("memfd_create")?;
    let initramfs = File::from(initramfs);
    initramfs.set_len(4096).at("ftruncate")?;
    let outcome = Plan::dry()?.kernel(PATH).load_with(&initramfs)?;
    fs::remove_file(PATH).at(PATH)?;
    raw::kexec_file_unload().at("unload")?;
    Ok(outcome)
}

/// A locked-down kernel loads only images with a signature that it trusts; each kernel of the chain
/// does.
fn signatures_are_verified() -> Case {
    let part = || -> Result {
        mount_securityfs()?;
        let lockdown = format!("{SECURITYFS}/lockdown");
        let lockdown = fs::read_to_string(&lockdown).at(lockdown)?;
        ensure!(lockdown.contains("[integrity]"), "lockdown is {lockdown}");

        load_changed(|_| Ok(()))?.at("load the signed kernel")?;
        let unsigned = load_changed(|image| {
            let entry = signature(image)?;
            ensure!(*entry != [0; 8], "the kernel is not signed");
            *entry = [0; 8];
            Ok(())
        })?;
        expect_errno(unsigned, Errno::PERM, "loading a kernel without signature")?;
        let changed = load_changed(|image| {
            let middle = image.len() / 2;
            image[middle] ^= 1;
            Ok(())
        })?;
        expect_errno(changed, Errno::PERM, "loading a kernel with another byte")
    };
    Case::two("signatures_are_verified", move |_| part(), move |_| part())
}

/// The kernel measures files, before and after an update.
fn files_are_measured() -> Case {
    let part = || -> Result {
        mount_securityfs()?;
        let count = format!("{SECURITYFS}/ima/runtime_measurements_count");
        let text = fs::read_to_string(&count).at(&count)?;
        let number: u64 = text.trim().parse().at(count)?;
        // The first one is about the boot.
        ensure!(number > 1, "there are {number} measurements");
        Ok(())
    };
    Case::two("files_are_measured", move |_| part(), move |_| part())
}

/// A device reaches memory through an IOMMU, before and after an update.
fn iommu_translates() -> Case {
    let part = || -> Result {
        const UNITS: &str = "/sys/class/iommu";
        const RANDOM: &str = "/dev/hwrng";

        let units = fs::read_dir(UNITS).at(UNITS)?.count();
        ensure_eq!(units, 1, "the number of IOMMUs");
        let groups = "/sys/kernel/iommu_groups";
        let groups = fs::read_dir(groups).at(groups)?.count();
        ensure!(groups > 1, "there are {groups} groups of devices");
        let mut bytes = [0; 256];
        let mut file = File::open(RANDOM).at(RANDOM)?;
        file.read_exact(&mut bytes).at(RANDOM)?;
        let zeros = bytes.iter().filter(|byte| **byte == 0).count();
        ensure!(zeros < 64, "{zeros} of 256 random bytes are 0");
        Ok(())
    };
    Case::two("iommu_translates", move |_| part(), move |_| part())
}

/// With parameters, a suite is not among those that run if none is named.
fn suite(name: &'static str, cases: Vec<Case>) -> Suite {
    Suite {
        group: GROUP,
        cmdline: "liveupdate=on",
        ..Suite::new(name, cases)
    }
}

pub fn signed_suite() -> Suite {
    suite(
        "signed",
        vec![signatures_are_verified(), files_are_measured()],
    )
}

pub fn iommu_suite() -> Suite {
    suite("iommu", vec![iommu_translates()])
}
