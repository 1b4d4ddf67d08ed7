// SPDX-License-Identifier: GPL-2.0

//! The task that retrieves a memfd of huge pages: it is charged for them, and may die.

use super::{check, filled, set_pool, Counts, HUGE, POOL};
use crate::support::{
    cgroup::Cgroup,
    error::{ensure_eq, Result},
    kexec,
    process::{Child, End},
    registry::{Case, Stage, Suite},
    sessions::{create, retrieve},
};
use liveupdate::{Device, IncomingSession};
use rustix::{fs::MemfdFlags, io::Errno};
use std::fs::File;

/// The size of a page in the names of cgroup files.
const SIZE: &str = "2MB";

/// The pages of each file.
const PAGES: u64 = 4;
const ALL: &[u64] = &[0, 1, 2, 3];

/// The pool as long as both files have their pages.
const BOTH: u64 = POOL - 2 * PAGES;

fn preserve(stage: &mut Stage<'_>, name: &str, seed: u64) -> Result {
    set_pool(POOL)?;
    let file = filled(MemfdFlags::EXEC, PAGES, seed, ALL)?;
    let session = create(name)?;
    session.preserve(&file, 1)?;
    stage.hold((session, file));
    Ok(())
}

/// Retrieves the file in a task of the cgroup, which ends then.
fn retrieve_in(group: &Cgroup, session: &IncomingSession) -> Result<End> {
    Child::start(|| {
        group.enter()?;
        session.retrieve(1).map(drop)
    })?
    .wait()
}

/// A task that has reached a limit cannot retrieve the file; another one can.
fn charged() -> Case {
    const NAME: &str = "hugetlb-charged";
    Case::two(
        "retriever_is_charged",
        |stage| {
            preserve(stage, NAME, 30)?;
            kexec::add_param(&format!("hugepages={POOL}"))
        },
        |_| {
            let group = Cgroup::of_huge_pages("retriever")?;
            let session = retrieve(NAME)?;
            let before = Counts::now()?;
            ensure_eq!(before.total, POOL, "the size of the pool");
            let less = (PAGES * HUGE - HUGE).to_string();
            for (used, reserved) in [(&*less, "max"), ("max", &*less), ("0", "0")] {
                group.limit_huge_pages(SIZE, used, reserved)?;
                let end = retrieve_in(&group, &session)?;
                ensure_eq!(
                    end,
                    End::Error(Errno::NOMEM),
                    "a task that may use {used} and reserve {reserved} bytes"
                );
                ensure_eq!(
                    group.huge_pages(SIZE)?,
                    [0, 0],
                    "the charges after a failure"
                );
                ensure_eq!(Counts::now()?, before, "the pool after a failure");
            }
            let enough = (PAGES * HUGE).to_string();
            group.limit_huge_pages(SIZE, &enough, &enough)?;
            ensure_eq!(retrieve_in(&group, &session)?, End::Done, "the retriever");
            ensure_eq!(group.huge_pages(SIZE)?, [PAGES * HUGE; 2], "the charges");
            let file = File::from(session.retrieve(1)?);
            check(&file, PAGES, 30, ALL)?;
            session.finish()?;
            ensure_eq!(
                group.huge_pages(SIZE)?,
                [PAGES * HUGE; 2],
                "the charges, finished"
            );
            drop(file);
            ensure_eq!(
                group.huge_pages(SIZE)?,
                [0, 0],
                "the charges without the file"
            );
            Ok(())
        },
    )
}

/// An agent dies after it has retrieved the file, which the next one gets.
fn killed() -> Case {
    const NAME: &str = "hugetlb-killed";
    Case::two(
        "retriever_dies",
        |stage| {
            preserve(stage, NAME, 31)?;
            ensure_eq!(Counts::now()?, Counts::with_free(BOTH), "the pool");
            Ok(())
        },
        |_| {
            let before = Counts::now()?;
            let child = Child::start(|| {
                let session = Device::open()?.retrieve_session(NAME)?;
                let _file = session.retrieve(1)?;
                // SAFETY: Always safe.
                unsafe { libc::raise(libc::SIGKILL) };
                Ok(())
            })?;
            ensure_eq!(child.wait()?, End::Killed, "the end of the agent");
            ensure_eq!(Counts::now()?, before, "the pool without the agent");
            let session = retrieve(NAME)?;
            let file = File::from(session.retrieve(1)?);
            check(&file, PAGES, 31, ALL)?;
            session.finish()?;
            drop(file);
            ensure_eq!(
                Counts::now()?,
                Counts::with_free(before.free + PAGES),
                "the pool at the end"
            );
            Ok(())
        },
    )
}

/// A kexec retrieves one file, because another one was retrieved. The pages are not charged to the
/// process that starts the next kernel.
///
/// Must be the last case, since it changes that process.
fn caller() -> Case {
    const NAMES: [(&str, u64); 2] = [("hugetlb-caller", 32), ("hugetlb-other", 33)];
    Case::chain(
        "caller_of_kexec_is_not_charged",
        [
            |stage: &mut Stage<'_>| {
                NAMES
                    .iter()
                    .try_for_each(|(name, seed)| preserve(stage, name, *seed))?;
                kexec::add_param(&format!("hugepages={POOL}"))
            },
            |stage: &mut Stage<'_>| {
                let group = Cgroup::of_huge_pages("caller")?;
                group.limit_huge_pages(SIZE, "0", "0")?;
                let session = retrieve(NAMES[0].0)?;
                drop(session.retrieve(1)?);
                group.enter()?;
                stage.hold((session, group));
                Ok(())
            },
            |_: &mut Stage<'_>| {
                for (name, seed) in NAMES {
                    let session = retrieve(name)?;
                    check(&File::from(session.retrieve(1)?), PAGES, seed, ALL)?;
                    session.finish()?;
                }
                Ok(())
            },
        ],
    )
}

/// The suite. The cases share the pool.
pub fn suite() -> Suite {
    Suite::new("hugetlb_retriever", vec![charged(), killed(), caller()])
}
