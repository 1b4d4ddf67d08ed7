// SPDX-License-Identifier: GPL-2.0

//! Damage to one memfd, whose session has another one.

use super::fate::{check_fate, damage, healthy, preserve, Fate, BAD, GOOD};
use crate::support::{
    error::{ensure_eq, At, Result},
    mapping::map_shared,
    memfd,
    registry::{Case, Stage},
    sessions::retrieve,
};
use rustix::{io::Errno, mm::Advice};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

const PAGE: u64 = 4096;

/// One file of a session is damaged by `lines`.
fn file_case(
    name: &'static str,
    hazard: Option<&'static str>,
    make: impl Fn() -> Result<File> + 'static,
    lines: &'static [&'static str],
    fate: Fate,
) -> Case {
    let before = move |stage: &mut Stage<'_>| {
        damage(name, lines)?;
        preserve(stage, name, make()?)
    };
    let after = move |_: &mut Stage<'_>| {
        let session = retrieve(name)?;
        // Before and after the other file, which must be retrievable in any case.
        check_fate(&session, fate)?;
        memfd::check(session.retrieve(2)?, GOOD).at("the other file")?;
        healthy(name)?;
        Ok(session.finish()?)
    };
    let case = Case::two(name, before, after).reader_only();
    match hazard {
        Some(item) => case.hazard(item),
        None => case,
    }
}

/// Folios of a file are recorded as clean, as by an older or a damaged writer. The kernel must not
/// drop them: there is no other copy of their contents.
pub fn clean_folios() -> Case {
    const NAME: &str = "folios_clean";
    /// The folios of the damaged file.
    const FOLIOS: u64 = BAD.len.div_ceil(PAGE);
    Case::two(
        NAME,
        |stage| {
            for folio in 0..FOLIOS {
                let line = format!("folio @ 1 {folio} flags = 2");
                damage(NAME, &[&line])?;
            }
            preserve(stage, NAME, small()?)
        },
        |_| {
            let session = retrieve(NAME)?;
            let file = memfd::check(session.retrieve(1)?, BAD)?;
            let memory = map_shared(&file, 0, BAD.len)?;
            for at in (0..BAD.len).step_by(PAGE as usize) {
                // SAFETY: Within the mapping, which belongs to this function.
                unsafe { memory.cast::<u8>().add(at as usize).read_volatile() };
            }
            // SAFETY: The mapping belongs to this function; its contents do not change.
            unsafe { rustix::mm::madvise(memory, BAD.len as usize, Advice::LinuxPageOut) }
                .at("MADV_PAGEOUT")?;
            BAD.check(&file, 0).at("after MADV_PAGEOUT")?;
            // SAFETY: The mapping belongs to this function.
            unsafe { rustix::mm::munmap(memory, BAD.len as usize) }.at("munmap")?;
            fs::write("/proc/sys/vm/drop_caches", "1").at("drop_caches")?;
            BAD.check(&file, 0).at("after drop_caches")?;
            Ok(session.finish()?)
        },
    )
    .reader_only()
    .hazard("1D.10")
}

pub fn small() -> Result<File> {
    memfd::with(BAD)
}

/// Checks the content of [`huge`].
pub fn check_huge(file: &File) -> Result {
    for offset in (0..4 << 20).step_by(4096) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).at("read")?;
        let wanted = u8::from(offset % (1 << 21) == 0);
        ensure_eq!(byte[0], wanted, "the byte at {offset:#x}");
    }
    Ok(())
}

/// A file of two huge folios.
pub fn huge() -> Result<File> {
    use rustix::mm::{MapFlags, ProtFlags};

    const LEN: usize = 4 << 20;
    const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    fs::write(ENABLED, "advise").at(ENABLED)?;
    let file = memfd::new()?;
    file.set_len(LEN as u64).at("set the size")?;
    // SAFETY: This is a new mapping without other users.
    unsafe {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let map = rustix::mm::mmap(std::ptr::null_mut(), LEN, prot, MapFlags::SHARED, &file, 0)
            .at("mmap")?;
        rustix::mm::madvise(map, LEN, Advice::LinuxHugepage).at("madvise")?;
        for offset in (0..LEN).step_by(1 << 21) {
            map.cast::<u8>().add(offset).write_volatile(1);
        }
        rustix::mm::munmap(map, LEN).at("munmap")?;
    }
    fs::write(ENABLED, "never").at(ENABLED)?;
    Ok(file)
}

pub fn cases() -> Vec<Case> {
    const INVAL: Fate = Fate::Fails(Errno::INVAL);
    const OPNOTSUPP: Fate = Fate::Fails(Errno::OPNOTSUPP);
    let case = |name, hazard, lines, fate| file_case(name, hazard, small, lines, fate);
    let huge = |name, hazard, lines, fate| file_case(name, hazard, huge, lines, fate);
    // Rows without an item are errors in C as well.
    vec![
        case(
            "handler_unknown",
            Some("1A.5"),
            &["file @ 1 compatible = \"memfd-v9\""],
            Fate::NoHandler,
        ),
        case(
            "handler_not_terminated",
            Some("1A.5"),
            &["file @ 1 compatible = fill x"],
            Fate::NoHandler,
        ),
        case("data_zero", Some("1D.2"), &["file @ 1 data = 0"], INVAL),
        case(
            "data_nowhere",
            Some("1D.2"),
            &["file @ 1 data = 0x7f0000001000"],
            INVAL,
        ),
        // There is memory, but it is not preserved: the first pages of the machine.
        case(
            "data_not_preserved",
            Some("1D.2"),
            &["file @ 1 data = 0x1000"],
            INVAL,
        ),
        case(
            "data_unaligned",
            Some("1D.2"),
            &["file @ 1 data = +8"],
            INVAL,
        ),
        case(
            "nr_folios_huge",
            Some("1D.3"),
            &["memfd @ 1 nr_folios = 0x100000000"],
            INVAL,
        ),
        case(
            "nr_folios_one_more",
            Some("1D.3"),
            &["memfd @ 1 nr_folios = +1"],
            INVAL,
        ),
        case(
            "size_negative",
            Some("1D.4"),
            &["memfd @ 1 size = 0x8000000000000000"],
            INVAL,
        ),
        case(
            "size_too_small",
            Some("1D.4"),
            &["memfd @ 1 size = 4096"],
            INVAL,
        ),
        case(
            "position_negative",
            Some("1D.4"),
            &["memfd @ 1 pos = 0x8000000000000000"],
            INVAL,
        ),
        case(
            "index_twice",
            None,
            &["folio @ 1 1 index = folio @ 1 0 index"],
            INVAL,
        ),
        case(
            "index_behind_the_end",
            Some("1D.5"),
            &["folio @ 1 4 index = 0x10000000"],
            INVAL,
        ),
        huge(
            "index_unaligned",
            Some("1D.5"),
            &["folio @ 1 0 index = +1"],
            INVAL,
        ),
        huge("folio_overlap", None, &["folio @ 1 1 index = 0"], INVAL),
        huge("folio_tail", None, &["folio @ 1 0 pfn = +1"], INVAL),
        case("folio_not_preserved", None, &["folio @ 1 2 pfn = 1"], INVAL),
        case(
            "folio_nowhere",
            None,
            &["folio @ 1 0 pfn = 0xfffffffffffff"],
            INVAL,
        ),
        case(
            "folio_twice",
            None,
            &["folio @ 1 3 pfn = folio @ 1 0 pfn"],
            INVAL,
        ),
        case(
            "folio_flags",
            Some("1D.7"),
            &["folio @ 1 0 flags = 0x7"],
            OPNOTSUPP,
        ),
        case(
            "array_order",
            None,
            &["memfd @ 1 folios.order = 200"],
            INVAL,
        ),
        case(
            "array_order_large",
            None,
            &["memfd @ 1 folios.order = 20"],
            INVAL,
        ),
        case(
            "array_empty",
            None,
            &["memfd @ 1 folios.total_pages = 0"],
            INVAL,
        ),
        case(
            "array_longer",
            Some("1D.6"),
            &["memfd @ 1 folios.total_pages = 0xffffffff"],
            Fate::Intact,
        ),
        case(
            "array_flags",
            Some("1D.6"),
            &["memfd @ 1 folios.flags = 0x8000"],
            Fate::NotUnderstood,
        ),
        case(
            "array_nowhere",
            Some("1D.6"),
            &["memfd @ 1 folios.first = 0x7f0000001000"],
            INVAL,
        ),
        case(
            "array_missing",
            None,
            &["memfd @ 1 folios.first = 0"],
            INVAL,
        ),
        case(
            "chunk_not_preserved",
            None,
            &["chunk @ 1 0 page 0 = 0x1000"],
            INVAL,
        ),
        case(
            "chunk_cycle",
            Some("1D.6"),
            &["chunk @ 1 0 next = here"],
            Fate::Intact,
        ),
        case(
            "chunk_next_nowhere",
            Some("1D.6"),
            &["chunk @ 1 0 next = 0x7f0000001000"],
            Fate::Intact,
        ),
        case(
            "memfd_flags",
            Some("1D.7"),
            &["memfd @ 1 flags = 2"],
            Fate::NotUnderstood,
        ),
    ]
}
