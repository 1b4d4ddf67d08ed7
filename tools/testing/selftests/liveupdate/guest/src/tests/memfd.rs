// SPDX-License-Identifier: GPL-2.0

//! All preserved properties of a memfd.

pub mod broken;
pub mod changes;
mod collapse;
pub mod holes;
mod moving;

use crate::support::{
    error::{ensure, ensure_eq, At, Failure, Result},
    memfd, meminfo,
    pattern::Pattern,
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
};
use rustix::{
    fs::{FallocateFlags, MemfdFlags, SealFlags},
    io::Errno,
};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
};

const MIB: u64 = 1 << 20;

/// A case with one memfd in one session.
fn one_file(
    name: &str,
    make: impl Fn(&mut Stage<'_>) -> Result<File> + 'static,
    check: impl Fn(&mut Stage<'_>, File) -> Result + 'static,
) -> Case {
    let before = format!("memfd-{name}");
    let after = before.clone();
    Case::two(
        name,
        move |stage| {
            let file = make(stage)?;
            let session = create(&before)?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        move |stage| {
            let session = retrieve(&after)?;
            check(stage, session.retrieve(1)?.into())?;
            Ok(session.finish()?)
        },
    )
}

fn size(name: &str, len: u64) -> Case {
    let pattern = Pattern::new(len + 1, len);
    one_file(
        name,
        move |_| memfd::with(pattern),
        move |_, file| {
            let file = memfd::check(file.into(), pattern)?;
            ensure_eq!(memfd::position(&file)?, 0, "the position");
            // Bytes after the end of the file in the last page must be zero.
            file.set_len(len + 5000).at("grow the file")?;
            let mut rest = vec![1; 5000];
            file.read_exact_at(&mut rest, len).at("read the new part")?;
            ensure!(
                rest.iter().all(|byte| *byte == 0),
                "the bytes after the end are not zero"
            );
            pattern.check(&file, 0)
        },
    )
}

fn position(name: &str, len: u64, position: u64) -> Case {
    one_file(
        name,
        move |_| {
            let file = memfd::with(Pattern::new(7, len))?;
            memfd::seek(&file, position)?;
            Ok(file)
        },
        move |_, file| {
            ensure_eq!(memfd::position(&file)?, position, "the position");
            Ok(())
        },
    )
}

/// The position is the one at the time of the kexec.
fn late_position() -> Case {
    Case::two(
        "position_changed_after_preserve",
        |stage| {
            let file = memfd::with(Pattern::new(8, 1000))?;
            let session = create("memfd-late-position")?;
            session.preserve(&file, 1)?;
            memfd::seek(&file, 321)?;
            stage.hold((session, file));
            Ok(())
        },
        |_| {
            let session = retrieve("memfd-late-position")?;
            let file = File::from(session.retrieve(1)?);
            ensure_eq!(memfd::position(&file)?, 321, "the position");
            Ok(session.finish()?)
        },
    )
}

/// The contents are those at the time of the kexec.
fn late_contents() -> Case {
    let (old, new) = (Pattern::new(9, 3 * MIB), Pattern::new(10, MIB));
    Case::two(
        "contents_changed_after_preserve",
        move |stage| {
            let file = memfd::with(old)?;
            let session = create("memfd-late-contents")?;
            session.preserve(&file, 1)?;
            new.write(&file, 0)?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("memfd-late-contents")?;
            let file = File::from(session.retrieve(1)?);
            ensure_eq!(memfd::len(&file)?, old.len, "the size");
            new.check(&file, 0)?;
            Ok(session.finish()?)
        },
    )
}

const SEALED: Pattern = Pattern {
    seed: 11,
    len: 8192,
};

/// Checks the effect of each seal, and that other operations work.
fn check_seals(file: &File, seals: SealFlags) -> Result {
    ensure_eq!(memfd::seals(file)?, seals, "the set of seals");
    let writable = !seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE);
    let attempt = |what: &str, allowed: bool, result: io::Result<()>| match allowed {
        true => result.at(what),
        false => expect_errno(result, Errno::PERM, what),
    };
    attempt("a write", writable, file.write_all_at(b"x", 100))?;
    let shrinks = !seals.contains(SealFlags::SHRINK);
    attempt("shrinking", shrinks, file.set_len(SEALED.len - 1))?;
    let grows = !seals.contains(SealFlags::GROW);
    attempt("growing", grows, file.set_len(2 * SEALED.len))?;
    let seals_more = !seals.contains(SealFlags::SEAL);
    let more = rustix::fs::fcntl_add_seals(file, SealFlags::SEAL);
    attempt("sealing", seals_more, more.map_err(io::Error::from))
}

fn sealed(name: &str, flags: MemfdFlags, seals: SealFlags) -> Case {
    one_file(
        name,
        move |stage| {
            let file = memfd::create(flags)?;
            SEALED.write(&file, 0)?;
            if !seals.is_empty() {
                memfd::seal(&file, seals)?;
            }
            stage.put("seals", memfd::seals(&file)?.bits())?;
            stage.put("mode", file.metadata()?.mode())?;
            Ok(file)
        },
        |stage, file| {
            let seals = SealFlags::from_bits_retain(stage.get("seals")? as u32);
            memfd::check(file.try_clone()?.into(), SEALED)?;
            ensure_eq!(
                u64::from(file.metadata()?.mode()),
                stage.get("mode")?,
                "the mode"
            );
            check_seals(&file, seals)
        },
    )
}

fn late_seals() -> Case {
    const SEALS: SealFlags = SealFlags::GROW
        .union(SealFlags::SHRINK)
        .union(SealFlags::SEAL);
    Case::two(
        "seals_added_after_preserve",
        |stage| {
            let file = memfd::with(SEALED)?;
            let session = create("memfd-late-seals")?;
            session.preserve(&file, 1)?;
            memfd::seal(&file, SEALS)?;
            stage.hold((session, file));
            Ok(())
        },
        |_| {
            let session = retrieve("memfd-late-seals")?;
            let file = memfd::check(session.retrieve(1)?, SEALED)?;
            check_seals(&file, SEALS)?;
            Ok(session.finish()?)
        },
    )
}

fn seal_cases() -> Vec<Case> {
    const ALLOW: MemfdFlags = MemfdFlags::ALLOW_SEALING.union(MemfdFlags::EXEC);
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    vec![
        sealed("seal_none", ALLOW, SealFlags::empty()),
        sealed("seal_not_allowed", MemfdFlags::EXEC, SealFlags::empty()),
        sealed("seal_seal", ALLOW, SealFlags::SEAL),
        sealed("seal_shrink", ALLOW, SealFlags::SHRINK),
        sealed("seal_grow", ALLOW, SealFlags::GROW),
        sealed("seal_write", ALLOW, SealFlags::WRITE),
        sealed("seal_future_write", ALLOW, SealFlags::FUTURE_WRITE),
        sealed("seal_exec", ALLOW, SealFlags::EXEC),
        sealed(
            "seal_shrink_grow",
            ALLOW,
            SealFlags::SHRINK | SealFlags::GROW,
        ),
        sealed("seal_all_but_exec", ALLOW, all | SealFlags::FUTURE_WRITE),
        sealed(
            "seal_all",
            ALLOW,
            all | SealFlags::FUTURE_WRITE | SealFlags::EXEC,
        ),
        sealed("noexec_seal", MemfdFlags::NOEXEC_SEAL, SealFlags::empty()).hazard("1A.9"),
        sealed("noexec_seal_grow", MemfdFlags::NOEXEC_SEAL, SealFlags::GROW),
        sealed(
            "noexec_seal_write",
            MemfdFlags::NOEXEC_SEAL,
            SealFlags::WRITE,
        ),
        late_seals(),
    ]
}

const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// The memory of memfds in huge folios, in KiB.
fn huge_kib() -> Result<u64> {
    meminfo::line("ShmemHugePages")
}

/// 16 MiB in huge folios, and some small ones.
fn huge(name: &'static str, setting: &'static str) -> Case {
    let pattern = Pattern::new(12, 16 * MIB + 5001);
    one_file(
        name,
        move |_| {
            if !fs::exists(SHMEM_ENABLED).unwrap_or(false) {
                return Err(Failure::skip("there are no transparent huge pages"));
            }
            fs::write(SHMEM_ENABLED, setting).at(SHMEM_ENABLED)?;
            let before = huge_kib()?;
            let file = memfd::new()?;
            if setting == "advise" {
                advise_huge(&file, 16 * MIB)?;
            }
            pattern.write(&file, 0)?;
            let grown = huge_kib()?.saturating_sub(before);
            fs::write(SHMEM_ENABLED, "never").at(SHMEM_ENABLED)?;
            ensure!(
                grown >= 16 * 1024,
                "only {grown} KiB of the memfd are in huge folios"
            );
            Ok(file)
        },
        move |_, file| {
            memfd::check(file.into(), pattern)?;
            let now = huge_kib()?;
            ensure!(now >= 16 * 1024, "only {now} KiB are in huge folios now");
            Ok(())
        },
    )
}

/// Enables huge folios, and makes the kernel use them.
fn advise_huge(file: &File, len: u64) -> Result {
    use rustix::mm::{Advice, MapFlags, ProtFlags};

    file.set_len(len).at("set the size")?;
    let len = len as usize;
    // SAFETY: This is a new mapping without other users.
    unsafe {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let map = rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, file, 0)
            .at("mmap")?;
        rustix::mm::madvise(map, len, Advice::LinuxHugepage).at("madvise")?;
        for offset in (0..len).step_by(1 << 21) {
            map.cast::<u8>().add(offset).write_volatile(1);
        }
        rustix::mm::munmap(map, len).at("munmap")
    }
}

/// Operations that fail while a file is preserved, and succeed afterwards.
fn frozen() -> Case {
    Case::one("size_is_fixed_while_preserved", |_| {
        let pattern = Pattern::new(21, 10_000);
        let file = memfd::with(pattern)?;
        let session = create("memfd-frozen")?;
        session.preserve(&file, 1)?;
        let refused = |what: &str, result: io::Result<()>| expect_errno(result, Errno::PERM, what);
        refused("growing", file.set_len(20_000))?;
        refused("shrinking", file.set_len(1))?;
        refused("writing beyond the end", file.write_all_at(b"x", 20_000))?;
        let allocated = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 20_000);
        refused("fallocate", allocated.map_err(io::Error::from))?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = rustix::fs::fallocate(&file, punch, 0, 4096);
        refused("punching a hole", punched.map_err(io::Error::from))?;
        let sealed = rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE);
        expect_errno(sealed.map_err(io::Error::from), Errno::BUSY, "F_SEAL_WRITE")?;

        Pattern::new(22, 10_000).write(&file, 0)?;
        pattern.write(&file, 0)?;
        drop(session);
        pattern.check(&file, 0)?;
        file.set_len(20_000).at("grow")?;
        memfd::seal(&file, SealFlags::WRITE)
    })
}

/// The name of a memfd, by which tools recognize it.
fn name() -> Case {
    one_file(
        "name",
        |_| memfd::new(),
        |_, file| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let link = fs::read_link(&path).at(path)?;
            ensure_eq!(link.to_string_lossy(), "/memfd:luo (deleted)", "the name");
            Ok(())
        },
    )
}

/// The suite.
pub fn suite() -> Suite {
    let mut cases = vec![
        size("size_0", 0),
        size("size_1", 1),
        size("size_4095", 4095),
        size("size_4096", 4096),
        size("size_4097", 4097),
        size("size_2m_and_1", 2 * MIB + 1),
        size("size_5m", 5 * MIB),
        position("position_inside", 5000, 4321),
        position("position_at_end", 5000, 5000),
        position("position_beyond_end", 5000, 1 << 40),
        position("position_in_empty_file", 0, 77),
        late_position(),
        late_contents(),
        frozen(),
        name(),
    ];
    cases.extend(seal_cases());
    cases.push(huge("huge_folios_always", "always"));
    cases.push(huge("huge_folios_advise", "advise"));
    cases.push(collapse::case());
    Suite::new("memfd", cases)
}
