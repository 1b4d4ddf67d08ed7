// SPDX-License-Identifier: GPL-2.0

//! How the next kernel gets to where it runs: nothing is copied any more when it is started.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    kernel_log::kernel_log,
    kexec,
    registry::{Case, Stage, Suite},
};
use std::fs;

const IN_PLACE: &str = "are loaded in place";
const WITHOUT_BOOT_CODE: &str = "without its boot code";

/// Whether this kernel has page tables of five levels.
fn has_five_levels() -> Result<bool> {
    let info = fs::read_to_string("/proc/cpuinfo").at("/proc/cpuinfo")?;
    Ok(info.split_ascii_whitespace().any(|word| word == "la57"))
}

/// Loads the next kernel with a further parameter; how often its log says `what` about that.
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
        // The kernel, the initramfs, the purgatory, parameters: whatever there is.
        ensure!(parts >= 4, "only {parts} parts were loaded in place");
        // Where the first one is, the second one cannot be yet.
        kexec::Plan::dry()?.load()?;
        liveupdate::raw::kexec_file_unload().at("unload")?;
        ensure!(said("", IN_PLACE)? >= parts, "the place was not given free");
        Ok(())
    })
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

/// Whoever asks for other page tables gets them, whatever started the kernel.
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

/// Where the code of this kernel begins.
fn address() -> Result<u64> {
    let symbols = fs::read_to_string("/proc/kallsyms").at("/proc/kallsyms")?;
    let line = symbols.lines().find(|line| line.ends_with(" _text"));
    let word = line.and_then(|line| line.split(' ').next());
    u64::from_str_radix(word.at("_text")?, 16).at("the address of _text")
}

/// The first two kernels have been started by their boot code, because of [`other_page_tables`]; it
/// is about those after them. Addresses can be the same by chance, but hardly three times.
fn random_addresses() -> Case {
    let note = |stage: &mut Stage<'_>, number: u32| stage.put(&format!("at{number}"), address()?);
    Case {
        name: "addresses_are_random".into(),
        parts: vec![
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
        hazard: None,
        reader_only: false,
    }
}

pub fn suite() -> Suite {
    let cases = vec![
        in_place(),
        without_boot_code(),
        other_page_tables(),
        random_addresses(),
    ];
    Suite::new("image", cases)
}
