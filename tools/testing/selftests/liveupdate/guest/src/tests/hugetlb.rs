// SPDX-License-Identifier: GPL-2.0

//! Memfds of huge pages, and the pool that they come from.

pub mod bad;
pub mod damage;
pub mod gigantic;
pub mod nodes;
pub mod retriever;

use super::damage::fate::{check_fate, damage, Fate};
use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    fault::{sweep, sweep_retrieve, Faults},
    kexec, memfd, meminfo,
    pattern::Pattern,
    process::{Child, End},
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
};
use rustix::{
    fs::{FallocateFlags, MemfdFlags, SealFlags},
    io::Errno,
    mm::{MapFlags, ProtFlags},
};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt},
    },
    ptr, slice,
};

/// The size of a huge page.
const HUGE: u64 = 2 << 20;

/// The pool of all tests.
const POOL: u64 = 32;

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

/// Whether the page structures of huge pages are freed (HVO). arm64 does not support this.
const OPTIMIZE: &str = "/proc/sys/vm/hugetlb_optimize_vmemmap";

/// The pool of huge pages of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    total: u64,
    free: u64,
    reserved: u64,
    surplus: u64,
}

impl Counts {
    /// A pool of the usual size without reservations.
    fn with_free(free: u64) -> Self {
        Self::of(POOL, free)
    }

    /// A pool without reservations.
    fn of(total: u64, free: u64) -> Self {
        Self {
            total,
            free,
            reserved: 0,
            surplus: 0,
        }
    }

    fn now() -> Result<Self> {
        Ok(Self {
            total: meminfo::line("HugePages_Total")?,
            free: meminfo::line("HugePages_Free")?,
            reserved: meminfo::line("HugePages_Rsvd")?,
            surplus: meminfo::line("HugePages_Surp")?,
        })
    }
}

fn set_pool(pages: u64) -> Result {
    fs::write(NR_HUGEPAGES, pages.to_string()).at(NR_HUGEPAGES)?;
    ensure_eq!(Counts::now()?.total, pages, "the size of the pool");
    Ok(())
}

/// A memfd of huge pages.
fn new(flags: MemfdFlags, pages: u64) -> Result<File> {
    let file = memfd::create(flags | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)?;
    file.set_len(pages * HUGE).at("set the size")?;
    Ok(file)
}

/// A mapping of all of a file.
struct Map {
    start: *mut u8,
    len: usize,
    /// The size of its huge pages.
    huge: usize,
}

impl Map {
    fn new(file: &impl AsFd, pages: u64, flags: MapFlags) -> io::Result<Self> {
        Self::of(HUGE, file, pages, flags)
    }

    /// A mapping of a file with huge pages of another size.
    fn of(huge: u64, file: &impl AsFd, pages: u64, flags: MapFlags) -> io::Result<Self> {
        let (prot, len) = (ProtFlags::READ | ProtFlags::WRITE, (pages * huge) as usize);
        // SAFETY: This is a new mapping without other users.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED | flags,
                file,
                0,
            )
        }?;
        Ok(Self {
            start: start.cast(),
            len,
            huge: huge as usize,
        })
    }

    /// A huge page.
    fn page(&mut self, index: u64) -> &mut [u8] {
        let offset = index as usize * self.huge;
        assert!(offset < self.len);
        // SAFETY: Within the mapping, which has no other users.
        unsafe { slice::from_raw_parts_mut(self.start.add(offset), self.huge) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: The mapping belongs to this object.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
    }
}

/// The content of a huge page of a file.
fn content(seed: u64, index: u64) -> Pattern {
    Pattern::new(seed * 100 + index, HUGE)
}

/// Fills huge pages of a file. The others stay holes, without a reservation.
fn fill(file: &File, pages: u64, seed: u64, which: &[u64]) -> Result {
    let mut map = Map::new(file, pages, MapFlags::NORESERVE).at("mmap")?;
    which
        .iter()
        .try_for_each(|index| content(seed, *index).copy_to(map.page(*index)))
}

fn filled(flags: MemfdFlags, pages: u64, seed: u64, which: &[u64]) -> Result<File> {
    let file = new(flags, pages)?;
    fill(&file, pages, seed, which)?;
    Ok(file)
}

/// Checks the size, the content and the holes of a file.
fn check(file: &File, pages: u64, seed: u64, which: &[u64]) -> Result {
    ensure_eq!(memfd::len(file)?, pages * HUGE, "the size");
    let blocks = file.metadata().at("fstat")?.blocks() * 512;
    ensure_eq!(blocks, which.len() as u64 * HUGE, "the memory of the file");
    for index in 0..pages {
        if which.contains(&index) {
            content(seed, index).check(file, index * HUGE)?;
            continue;
        }
        let mut bytes = vec![1; HUGE as usize];
        file.read_exact_at(&mut bytes, index * HUGE)
            .at("read a hole")?;
        ensure!(
            bytes.iter().all(|byte| *byte == 0),
            "page {index} is no hole"
        );
    }
    Ok(())
}

/// Operations that fail while a file is preserved, and succeed afterwards: the update is aborted.
fn frozen() -> Case {
    Case::one("size_and_holes_are_fixed_while_preserved", |_| {
        set_pool(POOL)?;
        let file = filled(MemfdFlags::ALLOW_SEALING, 4, 1, &[0, 2])?;
        let before = Counts::now()?;
        ensure_eq!(before, Counts::with_free(POOL - 2), "the pool");
        let session = create("hugetlb-frozen")?;
        session.preserve(&file, 1)?;
        ensure_eq!(
            Counts::now()?,
            before,
            "the pool while the file is preserved"
        );

        let refused = |what: &str, result: io::Result<()>| expect_errno(result, Errno::PERM, what);
        refused("growing", file.set_len(5 * HUGE))?;
        refused("shrinking", file.set_len(HUGE))?;
        let allocate = || rustix::fs::fallocate(&file, FallocateFlags::empty(), HUGE, HUGE);
        refused("fallocate", allocate().map_err(io::Error::from))?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punch = || rustix::fs::fallocate(&file, flags, 0, HUGE);
        refused("punching a hole", punch().map_err(io::Error::from))?;
        let mode = rustix::fs::fchmod(&file, 0o600.into());
        refused("fchmod", mode.map_err(io::Error::from))?;
        let touch = |index| {
            Child::start(|| {
                Map::new(&file, 4, MapFlags::NORESERVE)?.page(index)[0] ^= 1;
                Ok(())
            })?
            .wait()
        };
        let longer = Map::new(&file, 5, MapFlags::NORESERVE).map(drop);
        refused("mapping more than the file", longer)?;
        ensure_eq!(file.metadata().at("fstat")?.len(), 4 * HUGE, "the size");
        ensure_eq!(touch(1)?, End::Killed, "a task that has touched a hole");
        ensure_eq!(touch(2)?, End::Done, "a task that has touched a page");
        ensure_eq!(touch(2)?, End::Done, "a task that has touched a page");
        check(&file, 4, 1, &[0, 2])?;
        ensure_eq!(Counts::now()?, before, "the pool after that");

        drop(session);
        check(&file, 4, 1, &[0, 2])?;
        ensure_eq!(touch(1)?, End::Done, "a task that has touched a hole");
        punch().at("punch a hole")?;
        allocate().at("fallocate")?;
        file.set_len(5 * HUGE).at("grow")?;
        memfd::seal(&file, SealFlags::WRITE)?;
        drop(file);
        ensure_eq!(
            Counts::now()?,
            Counts::with_free(POOL),
            "the pool at the end"
        );
        Ok(())
    })
}

/// Files that cannot be handed over.
fn refused() -> Case {
    Case::one("what_cannot_be_expressed_is_refused", |_| {
        let session = create("hugetlb-refused")?;
        let file = new(MemfdFlags::empty(), 1)?;
        rustix::fs::fchmod(&file, 0o600.into()).at("fchmod")?;
        let result = session.preserve(&file, 1);
        expect_errno(result, Errno::OPNOTSUPP, "a file with another mode")
    })
}

/// Preserving a file fails at each possible place. Nothing has changed after that, and another attempt
/// succeeds.
fn failures() -> Case {
    Case::one("preserve_fd_fails_at_each_place", |stage| {
        set_pool(POOL)?;
        let faults = Faults::new()?;
        let file = filled(MemfdFlags::EXEC, 4, 6, &[0, 3])?;
        let before = Counts::now()?;
        let places = sweep(|nth| {
            let session = create("hugetlb-sweep")?;
            let outcome = faults.call(nth, || session.preserve(&file, 1))?;
            if outcome.result.is_err() {
                expect_errno(outcome.result, Errno::NOMEM, "PRESERVE_FD")?;
                file.set_len(5 * HUGE).at("grow")?;
                file.set_len(4 * HUGE).at("shrink")?;
                session.preserve(&file, 1).at("the second try")?;
            }
            ensure_eq!(Counts::now()?, before, "the pool after failure {nth}");
            Ok(outcome.failed)
        })?;
        stage.note(format_args!("PRESERVE_FD: {places} places to fail"));
        ensure!(places > 4, "there are only {places} places to fail");
        check(&file, 4, 6, &[0, 3])
    })
}

/// Damage to files of two pages, after which they cannot be retrieved. The structures have the layout of
/// those of other memfds, whose flags are at the place of the order.
const DAMAGED: [(&str, &str, Fate); 4] = [
    // No machine has pages of this size.
    ("order", "memfd @ 1 flags = 3", Fate::NotUnderstood),
    ("no_order", "memfd @ 1 flags = 0", INVAL),
    ("without_content", "folio @ 1 1 flags = 1", INVAL),
    ("twice", "folio @ 1 1 index = 0", INVAL),
];
const INVAL: Fate = Fate::Fails(Errno::INVAL);

const KEPT: &[u64] = &[0, 1, 4];
const LOST: &[u64] = &[0, 1, 2, 3];
const LATE: &[u64] = &[1, 2];
const SECOND: &[u64] = &[0];

/// Preserves files, in a pool that was set up while the kernel ran, without most page structures of its
/// pages.
fn hand_over(stage: &mut Stage<'_>) -> Result {
    set_pool(0)?;
    if !cfg!(target_arch = "aarch64") {
        fs::write(OPTIMIZE, "1").at(OPTIMIZE)?;
    }
    set_pool(POOL)?;
    let kept = filled(MemfdFlags::NOEXEC_SEAL, 6, 2, KEPT)?;
    memfd::seek(&kept, 12345)?;
    let lost = filled(MemfdFlags::EXEC, 4, 3, LOST)?;
    let late = filled(MemfdFlags::EXEC, 3, 4, LATE)?;
    for (name, file) in [("kept", kept), ("lost", lost), ("late", late)] {
        let session = create(&format!("hugetlb-{name}"))?;
        session.preserve(&file, 1)?;
        if name == "kept" {
            memfd::seal(&file, SealFlags::GROW)?;
        }
        stage.hold((session, file));
    }
    for (name, line, _) in DAMAGED {
        let name = format!("hugetlb-{name}");
        damage(&name, &[line])?;
        let file = filled(MemfdFlags::EXEC, 2, 7, &[0, 1])?;
        let session = create(&name)?;
        session.preserve(&file, 1)?;
        stage.hold((session, file));
    }
    let taken = (KEPT.len() + LOST.len() + LATE.len() + 2 * DAMAGED.len()) as u64;
    ensure_eq!(Counts::now()?, Counts::with_free(POOL - taken), "the pool");
    // Parameters that an administrator would use for all kernels.
    kexec::add_param(&format!("hugepages={POOL} hugetlb_free_vmemmap=on"))
}

/// One file is retrieved, one is dropped, and one is left for another update.
fn take_over(stage: &mut Stage<'_>) -> Result {
    let others = (LOST.len() + LATE.len() + 2 * DAMAGED.len()) as u64;
    let kept = KEPT.len() as u64;
    ensure_eq!(
        Counts::now()?,
        Counts::with_free(POOL - others - kept),
        "the pool after the kexec"
    );

    let session = retrieve("hugetlb-kept")?;
    let before = Counts::now()?;
    let file = sweep_retrieve(stage, &session, 1, || {
        ensure_eq!(Counts::now()?, before, "the pool after a failure");
        Ok(())
    })?;
    check(&file, 6, 2, KEPT)?;
    ensure_eq!(memfd::position(&file)?, 12345, "the position");
    ensure_eq!(
        memfd::seals(&file)?,
        SealFlags::EXEC | SealFlags::GROW,
        "the seals"
    );
    ensure_eq!(file.metadata()?.mode() & 0o777, 0o666, "the mode");
    let retrieved = Counts::with_free(POOL - others - kept);
    ensure_eq!(Counts::now()?, retrieved, "the pool with the file");

    // A mapping reserves pages for the holes only.
    let mut map = Map::new(&file, 6, MapFlags::empty()).at("mmap")?;
    let reserved = Counts {
        reserved: 3,
        ..retrieved
    };
    ensure_eq!(Counts::now()?, reserved, "the pool with a reservation");
    content(2, 5).copy_to(map.page(5))?;
    let used = Counts {
        reserved: 2,
        free: retrieved.free - 1,
        ..retrieved
    };
    ensure_eq!(Counts::now()?, used, "the pool with a hole filled");
    drop(map);
    check(&file, 6, 2, &[0, 1, 4, 5])?;
    session.finish()?;
    drop(file);
    ensure_eq!(
        Counts::now()?,
        Counts::with_free(POOL - others),
        "the pool without the file"
    );

    for (name, _, fate) in DAMAGED {
        let session = retrieve(&format!("hugetlb-{name}"))?;
        check_fate(&session, fate).at(name)?;
        session.finish()?;
    }
    retrieve("hugetlb-lost")?.finish()?;
    let late = LATE.len() as u64;
    ensure_eq!(
        Counts::now()?,
        Counts::with_free(POOL - late),
        "the pool without the files that were not retrieved"
    );
    Ok(())
}

/// The file that was not retrieved is carried over once more, and another one is preserved.
fn leave(stage: &mut Stage<'_>) -> Result {
    let late = LATE.len() as u64;
    ensure_eq!(Counts::now()?, Counts::with_free(POOL - late), "the pool");
    let second = filled(MemfdFlags::EXEC, 1, 5, SECOND)?;
    let session = create("hugetlb-second")?;
    session.preserve(&second, 1)?;
    stage.hold((session, second));
    Ok(())
}

/// The files of the first and the third kernel.
fn take_over_again(_: &mut Stage<'_>) -> Result {
    let taken = (LATE.len() + SECOND.len()) as u64;
    ensure_eq!(Counts::now()?, Counts::with_free(POOL - taken), "the pool");
    for (name, pages, seed, which) in [("late", 3, 4, LATE), ("second", 1, 5, SECOND)] {
        let session = retrieve(&format!("hugetlb-{name}"))?;
        check(&File::from(session.retrieve(1)?), pages, seed, which)?;
        session.finish()?;
    }
    ensure_eq!(
        Counts::now()?,
        Counts::with_free(POOL),
        "the pool at the end"
    );
    // All pages can be returned to the system.
    set_pool(0)
}

fn updates() -> Case {
    Case::chain(
        "files_and_counts_over_three_updates",
        [hand_over, take_over, leave, take_over_again],
    )
}

/// The suite. The cases share the pool.
pub fn suite() -> Suite {
    Suite::new("hugetlb", vec![frozen(), refused(), failures(), updates()])
}
