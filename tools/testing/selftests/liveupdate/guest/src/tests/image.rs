// SPDX-License-Identifier: GPL-2.0

//! Loading of the next kernel to its final address: nothing is copied when it is started.

use crate::support::{
    error::{ensure, ensure_eq, At, Failure, Result},
    kernel_log::kernel_log,
    kexec, meminfo,
    registry::{Case, Part, Stage, Suite},
    sessions::expect_errno,
};
use crate::tests::hazards::not_in_c;
use rustix::{
    fs::{memfd_create, MemfdFlags},
    io::Errno,
};
use std::fs::{self, File};

/// The number of kernels.
const STAGES: usize = 5;

const IN_PLACE: &str = "are loaded in place";
const WITHOUT_BOOT_CODE: &str = "without its boot code";

/// Whether this kernel has page tables of five levels.
fn has_five_levels() -> Result<bool> {
    let info = fs::read_to_string("/proc/cpuinfo").at("/proc/cpuinfo")?;
    Ok(info.split_ascii_whitespace().any(|word| word == "la57"))
}

/// Loads the next kernel with another parameter; returns the number of log lines with `what`.
fn said(param: &str, what: &str) -> Result<usize> {
    let count = || -> Result<usize> { Ok(kernel_log()?.matches(what).count()) };
    let before = count()?;
    kexec::Plan::dry()?.with(param).load_loudly()?;
    Ok(count()? - before)
}

fn in_place() -> Case {
    Case::one("loaded_in_place", |_| {
        liveupdate::raw::kexec_file_unload().at("unload")?;
        let parts = said("", IN_PLACE)?;
        // The kernel, the initramfs, the purgatory, and parameters.
        ensure!(parts >= 4, "only {parts} parts were loaded in place");
        // The second image cannot be loaded to the address of the first one.
        kexec::Plan::dry()?.load()?;
        liveupdate::raw::kexec_file_unload().at("unload")?;
        ensure!(said("", IN_PLACE)? >= parts, "the memory was not freed");
        Ok(())
    })
}

/// All kernels except the first one lie in the memory from which the next image is allocated. The
/// same number of parts is loaded in place.
fn in_place_again() -> Case {
    let parts = || -> Result<usize> {
        liveupdate::raw::kexec_file_unload().at("unload")?;
        said("", IN_PLACE)
    };
    let mut stages: Vec<Part> = vec![Box::new(move |stage| stage.put("parts", parts()?))];
    for _ in 2..=STAGES {
        stages.push(Box::new(move |stage| {
            let (found, first) = (parts()? as u64, stage.get("parts")?);
            ensure_eq!(found, first, "the parts that were loaded in place");
            Ok(())
        }));
    }
    Case::with_parts("loaded_in_place_again", stages)
}

fn without_boot_code() -> Case {
    Case::one("started_without_boot_code", |_| {
        let expected = usize::from(kexec::Plan::dry()?.is_plain()?);
        ensure_eq!(said("", WITHOUT_BOOT_CODE)?, expected, "starts like that");
        if has_five_levels()? {
            let found = said("no5lvl", WITHOUT_BOOT_CODE)?;
            ensure_eq!(found, 0, "starts like that with other page tables");
        }
        let found = said("mem_encrypt=on", WITHOUT_BOOT_CODE)?;
        ensure_eq!(found, 0, "starts like that with encrypted memory");
        Ok(())
    })
}

/// An image whose payload has an unknown format is started by its boot code.
fn unknown_payload() -> Case {
    Case::one("unknown_payload", |_| {
        const IMAGE: &str = "/tmp/image";
        /// Fields of the setup header.
        const SETUP_SECTS: usize = 0x1f1;
        const KERNEL_INFO_OFFSET: usize = 0x268;
        /// Fields of kernel_info.
        const MAGIC: &[u8] = b"LToP";
        const PAYLOAD_FORMAT: usize = 16;

        let plan = kexec::Plan::dry()?;
        if !plan.is_plain()? {
            return Err(Failure::skip("the kernel is compressed"));
        }
        let mut image = plan.image()?;
        let sectors = image.get(SETUP_SECTS).copied().at("a setup header")?;
        let offset = image
            .get(KERNEL_INFO_OFFSET..)
            .and_then(<[u8]>::first_chunk);
        let offset = u32::from_le_bytes(*offset.at("kernel_info_offset")?) as usize;
        let info = (usize::from(sectors) + 1) * 512 + offset;
        let info = image.get_mut(info..).at("kernel_info")?;
        ensure!(info.starts_with(MAGIC), "there is no kernel_info");
        let format = info.get_mut(PAYLOAD_FORMAT).at("payload_format")?;
        ensure_eq!(*format, 1, "the format of the payload");
        *format = 2;
        fs::create_dir_all("/tmp").at("/tmp")?;
        fs::write(IMAGE, &image).at(IMAGE)?;
        let count = || -> Result<usize> { Ok(kernel_log()?.matches(WITHOUT_BOOT_CODE).count()) };
        let before = count()?;
        kexec::Plan::dry()?.kernel(IMAGE).load_loudly()?;
        fs::remove_file(IMAGE).at(IMAGE)?;
        ensure_eq!(
            count()?,
            before,
            "starts without boot code, with another payload"
        );
        Ok(())
    })
    .hazard_unseen("5.10", not_in_c::BOOT_CODE)
}

/// Failed attempts to load an image free all memory.
fn failed_loads() -> Case {
    Case::one("failed_loads", |_| {
        /// Tolerance for caches.
        const SLACK_KIB: u64 = 8 << 10;

        liveupdate::raw::kexec_file_unload().at("unload")?;
        let parts = said("", IN_PLACE)?;
        liveupdate::raw::kexec_file_unload().at("unload")?;
        let scratch = "/sys/kernel/debug/kho/out/scratch_len";
        let scratch = fs::read_to_string(scratch).at(scratch)?;
        let mut largest = 0;
        for line in scratch.lines() {
            let len = u64::from_str_radix(line.trim_start_matches("0x"), 16).at(line)?;
            largest = largest.max(len);
        }
        // The kernel fits, the initramfs does not.
        let initramfs = memfd_create("initramfs", MemfdFlags::CLOEXEC).at("memfd_create")?;
        let initramfs = File::from(initramfs);
        initramfs.set_len(largest + 4096).at("ftruncate")?;

        let before = meminfo::free_without_caches()?;
        for _ in 0..4 {
            let plan = kexec::Plan::dry()?;
            expect_errno(
                plan.load_with(&initramfs)?,
                Errno::ADDRNOTAVAIL,
                "loading an initramfs that does not fit",
            )?;
        }
        let after = meminfo::free_without_caches()?;
        ensure!(
            after + SLACK_KIB > before,
            "of {before} KiB, {after} KiB are free after failed loads"
        );
        ensure!(said("", IN_PLACE)? >= parts, "the memory was not freed");
        Ok(())
    })
    .hazard_unseen("5.16", not_in_c::NOT_IN_PLACE)
}

/// Page table parameters are applied, independent of how the kernel was started.
fn other_page_tables() -> Case {
    Case::two(
        "other_page_tables",
        |_| kexec::add_param("no5lvl"),
        |_| {
            ensure!(!has_five_levels()?, "there are five levels of page tables");
            Ok(())
        },
    )
}

/// The start of the code of this kernel.
fn address() -> Result<u64> {
    let symbols = fs::read_to_string("/proc/kallsyms").at("/proc/kallsyms")?;
    let line = symbols.lines().find(|line| line.ends_with(" _stext"));
    let word = line.and_then(|line| line.split(' ').next());
    u64::from_str_radix(word.at("_stext")?, 16).at("the address of _stext")
}

/// The first two kernels were started by their boot code, because of [`other_page_tables`]; this
/// tests the following ones. Addresses can be equal by chance, but not three times.
fn random_addresses() -> Case {
    let note = |stage: &mut Stage<'_>, number: u32| stage.put(&format!("at{number}"), address()?);
    Case::with_parts(
        "addresses_are_random",
        vec![
            Box::new(|_| Ok(())),
            Box::new(|_| Ok(())),
            Box::new(move |stage| note(stage, 3)),
            Box::new(move |stage| note(stage, 4)),
            Box::new(|stage| {
                let now = address()?;
                let others = [stage.get("at3")?, stage.get("at4")?];
                ensure!(others != [now; 2], "all kernels are at {now:#x}");
                Ok(())
            }),
        ],
    )
}

/// An update is counted whether or not data is handed over.
fn counted() -> Case {
    let part = |stage: usize| -> Part {
        Box::new(move |_| {
            let line = format!(
                "luo: Retrieved live update data, liveupdate number: {}",
                stage - 1
            );
            let log = kernel_log()?;
            // The first kernel has not been started by a live update.
            let found = log.lines().any(|found| found.ends_with(&line));
            ensure_eq!(found, stage > 1, "the presence of '{line}'");
            Ok(())
        })
    };
    Case::with_parts(
        "updates_without_sessions_are_counted",
        (1..=STAGES).map(part).collect(),
    )
    .hazard_unseen("5.12", not_in_c::COUNTS)
}

pub fn suite() -> Suite {
    let cases = vec![
        counted(),
        in_place(),
        in_place_again(),
        without_boot_code(),
        unknown_payload(),
        failed_loads(),
        other_page_tables(),
        random_addresses(),
    ];
    Suite::new("image", cases)
}
