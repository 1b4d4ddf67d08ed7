// SPDX-License-Identifier: GPL-2.0

//! Memfds with holes, and holes that are filled after the file was preserved.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    kexec,
    mapping::map_shared,
    memfd, meminfo,
    pattern::Pattern,
    registry::{Case, Suite},
    sessions::{create, retrieve},
    wait::eventually,
};
use rustix::fs::FallocateFlags;
use std::{
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The number of bytes of a file that have memory.
fn allocated(file: &File) -> Result<u64> {
    Ok(file.metadata().at("fstat")?.blocks() * 512)
}

/// The approximate amount of memory that cannot be reclaimed.
fn used() -> Result<u64> {
    Ok((meminfo::line("MemTotal")? - meminfo::line("MemAvailable")?) * 1024)
}

/// Pieces of data, in a file of a given size.
#[derive(Clone, Copy)]
struct Sparse {
    len: u64,
    pieces: &'static [(u64, Pattern)],
}

const SPARSE_1G: Sparse = Sparse {
    len: GIB,
    pieces: &[
        (0, Pattern { seed: 13, len: 100 }),
        (
            5 * PAGE,
            Pattern {
                seed: 14,
                len: PAGE,
            },
        ),
        (512 * MIB - 10, Pattern { seed: 15, len: 20 }),
        (
            GIB - PAGE,
            Pattern {
                seed: 16,
                len: PAGE,
            },
        ),
    ],
};

const SPARSE_256M: Sparse = Sparse {
    len: 256 * MIB,
    pieces: &[(
        100 * MIB,
        Pattern {
            seed: 17,
            len: PAGE,
        },
    )],
};

/// More than a C kernel can preserve, and far more than the memory of the machine.
const SPARSE_4T: Sparse = Sparse {
    len: 1 << 42,
    pieces: &[
        (MIB, Pattern { seed: 18, len: 10 }),
        ((1 << 42) - 5, Pattern { seed: 19, len: 5 }),
    ],
};

impl Sparse {
    fn make(&self) -> Result<File> {
        let file = memfd::new()?;
        file.set_len(self.len).at("set the size")?;
        for (at, pattern) in self.pieces {
            pattern.write(&file, *at)?;
        }
        Ok(file)
    }

    fn check(&self, file: &File) -> Result {
        ensure_eq!(memfd::len(file)?, self.len, "the size");
        for (at, pattern) in self.pieces {
            pattern.check(file, *at)?;
        }
        let mut byte = [1];
        file.read_exact_at(&mut byte, self.len / 3)
            .at("read a hole")?;
        ensure_eq!(byte, [0], "a byte in a hole");
        Ok(())
    }
}

/// A sparse file stays sparse in both kernels, and needs little memory.
fn stays_sparse(name: &'static str, sparse: Sparse) -> Case {
    Case::two(
        name,
        move |stage| {
            let file = sparse.make()?;
            let before = allocated(&file)?;
            let session = create(&format!("holes-{name}"))?;
            let used_before = used()?;
            session.preserve(&file, 1)?;
            let taken = used()?.saturating_sub(used_before);
            ensure_eq!(allocated(&file)?, before, "the memory of the file");
            ensure!(taken < 4 * MIB, "{taken} bytes of memory are gone");
            stage.put("allocated", before)?;
            stage.hold((session, file));
            Ok(())
        },
        move |stage| {
            let session = retrieve(&format!("holes-{name}"))?;
            let file = File::from(session.retrieve(1)?);
            ensure_eq!(
                allocated(&file)?,
                stage.get("allocated")?,
                "the memory of the file"
            );
            sparse.check(&file)?;
            Ok(session.finish()?)
        },
    )
}

/// Closing a session leaves the file unchanged.
fn abort() -> Case {
    Case::one("abort_leaves_holes", |_| {
        let file = SPARSE_256M.make()?;
        let before = allocated(&file)?;
        for _ in 0..3 {
            let session = create("holes-abort")?;
            session.preserve(&file, 1)?;
            drop(session);
            ensure_eq!(allocated(&file)?, before, "the memory of the file");
        }
        SPARSE_256M.check(&file)?;
        file.set_len(10).at("shrink the file")
    })
    .hazard("1E.2")
}

/// The positions of holes that are filled after the file was preserved: before, between and after
/// the existing pages.
const LATE: [(u64, Pattern); 4] = [
    (0, Pattern { seed: 30, len: 50 }),
    (
        20 * PAGE,
        Pattern {
            seed: 31,
            len: 3 * PAGE,
        },
    ),
    (
        700 * PAGE,
        Pattern {
            seed: 32,
            len: 600 * PAGE,
        },
    ),
    (
        16 * MIB - PAGE,
        Pattern {
            seed: 33,
            len: PAGE,
        },
    ),
];

fn late_writes() -> Case {
    let early = [
        (10 * PAGE, Pattern::new(34, 2 * PAGE)),
        (8 * MIB, Pattern::new(35, 5000)),
    ];
    let faulted = 12 * MIB;
    Case::two(
        "filled_after_preserve",
        move |stage| {
            let file = memfd::new()?;
            file.set_len(16 * MIB).at("set the size")?;
            for (at, pattern) in early {
                pattern.write(&file, at)?;
            }
            let session = create("holes-late")?;
            session.preserve(&file, 1)?;
            // Some are filled before a kexec that fails, others after it.
            LATE[0].1.write(&file, LATE[0].0)?;
            LATE[2].1.write(&file, LATE[2].0)?;
            kexec::load_legacy().at("kexec_load")?;
            let _ = kexec::try_jump();
            LATE[1].1.write(&file, LATE[1].0)?;
            LATE[3].1.write(&file, LATE[3].0)?;
            let page = map_shared(&file, faulted, PAGE)?;
            // SAFETY: The page was just mapped, and has no other users.
            unsafe { page.cast::<u8>().write_volatile(77) };
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("holes-late")?;
            let file = File::from(session.retrieve(1)?);
            for (at, pattern) in early.iter().chain(&LATE) {
                pattern.check(&file, *at)?;
            }
            let mut byte = [0];
            file.read_exact_at(&mut byte, faulted).at("read")?;
            ensure_eq!(byte, [77], "the byte that was written by a page fault");
            Ok(session.finish()?)
        },
    )
}

/// Threads fill holes during the kexec; completed writes are handed over.
fn filled_during_kexec() -> Case {
    const THREADS: u64 = 3;
    const SIZE: u64 = 64 * MIB;
    let value = |thread: u64, page: u64| ((thread << 32) | page) ^ 0x5555_aaaa;
    Case::two(
        "filled_during_kexec",
        move |stage| {
            let counters = memfd::with(Pattern::new(1, PAGE))?;
            counters
                .write_all_at(&[0; PAGE as usize], 0)
                .at("write the counters")?;
            let session = create("holes-during")?;
            // The counters are frozen last, so that they include all completed writes.
            for thread in 0..THREADS {
                let file = memfd::new()?;
                file.set_len(SIZE).at("set the size")?;
                session.preserve(&file, thread)?;
                let data = map_shared(&file, 0, SIZE)? as usize;
                let counter = map_shared(&counters, 0, PAGE)? as usize + 8 * thread as usize;
                let other = file.try_clone().at("dup")?;
                thread::spawn(move || {
                    for page in 0..SIZE / PAGE {
                        let value = value(thread, page);
                        if thread == 0 {
                            let _ = other.write_all_at(&value.to_ne_bytes(), page * PAGE);
                        } else {
                            let at = data as u64 + page * PAGE;
                            // SAFETY: Within the mapping, which stays; only this thread uses it.
                            unsafe { (at as *mut u64).write_volatile(value) };
                        }
                        // SAFETY: Within the other mapping, which stays; aligned, and atomic for the readers.
                        unsafe { &*(counter as *const AtomicU64) }
                            .store(page + 1, Ordering::Release);
                        thread::sleep(Duration::from_micros(300));
                    }
                });
                stage.hold(file);
            }
            session.preserve(&counters, THREADS)?;
            let all_counters = counters.try_clone().at("dup")?;
            stage.hold((session, counters));
            eventually("a thread does nothing", || {
                let mut done = [0; 8 * THREADS as usize];
                all_counters
                    .read_exact_at(&mut done, 0)
                    .at("read the counters")?;
                Ok(done
                    .chunks(8)
                    .all(|count| count.iter().any(|&byte| byte != 0)))
            })
        },
        move |stage| {
            let session = retrieve("holes-during")?;
            let counters = File::from(session.retrieve(THREADS)?);
            for thread in 0..THREADS {
                let mut done = [0; 8];
                counters
                    .read_exact_at(&mut done, 8 * thread)
                    .at("read a counter")?;
                let done = u64::from_ne_bytes(done);
                stage.note(format_args!("thread {thread}: {done} pages"));
                ensure!(done > 0, "thread {thread} did nothing");
                let file = File::from(session.retrieve(thread)?);
                for page in 0..done {
                    let mut found = [0; 8];
                    file.read_exact_at(&mut found, page * PAGE).at("read")?;
                    ensure_eq!(
                        u64::from_ne_bytes(found),
                        value(thread, page),
                        "page {page} of thread {thread}"
                    );
                }
            }
            Ok(session.finish()?)
        },
    )
}

/// Pages that were only allocated exist, and contain zeroes.
fn reserved() -> Case {
    const LEN: u64 = 50 * PAGE;
    Case::two(
        "fallocated",
        |stage| {
            let file = memfd::new()?;
            file.set_len(MIB).at("set the size")?;
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 10 * PAGE, LEN)
                .at("fallocate")?;
            let session = create("holes-reserved")?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        |_| {
            let session = retrieve("holes-reserved")?;
            let file = File::from(session.retrieve(1)?);
            ensure_eq!(allocated(&file)?, LEN, "the memory of the file");
            let mut bytes = vec![1; MIB as usize];
            file.read_exact_at(&mut bytes, 0).at("read")?;
            ensure!(bytes.iter().all(|&byte| byte == 0), "a page is not zero");
            Ok(session.finish()?)
        },
    )
}

pub fn suite() -> Suite {
    Suite::new(
        "memfd_holes",
        vec![
            stays_sparse("sparse_256m", SPARSE_256M).hazard("1E.2"),
            stays_sparse("sparse_1g", SPARSE_1G).hazard("1E.2"),
            stays_sparse("sparse_4t", SPARSE_4T).hazard("1B.5"),
            abort(),
            late_writes(),
            filled_during_kexec(),
            reserved(),
        ],
    )
}
