// SPDX-License-Identifier: GPL-2.0

//! Sessions that are carried over unchanged, without being read.
//!
//! This is only possible while no kernel code uses a state that files share. The handlers of the
//! base's in-kernel test do, so that the states are hidden from them.

use super::steps::{fill, refused, take, FILES};
use crate::{
    support::{
        error::{ensure, At, Result},
        kernel_log::kernel_log,
        kexec, memfd, meminfo,
        pattern::Pattern,
        registry::{Case, Part, Stage, Suite},
        sessions::{create, fdinfo, retrieve},
        test_device::TestDevice,
    },
    tests::damage::fate::damage,
};
use rustix::io::Errno;
use std::fs;

/// Why these are not tested on C; other cases show the same faults.
const OURS_FIRST: &str = "the first kernel must hide shared states, which the one in C cannot";

/// Hands over sessions, but not the states that files share.
fn first(stage: &mut Stage<'_>, name: &str) -> Result {
    damage(name, &["flbs count = 0"])?;
    fill(stage, name)
}

/// The number of pages that the kernel would carry over unchanged, which it logs before it freezes
/// files.
fn pages_carried_over() -> Result<u64> {
    let device = TestDevice::open(TestDevice::C)?;
    device.write("fail-freeze 5")?;
    let session = create("unread-failing")?;
    session.preserve(&device, 1)?;
    kexec::Plan::dry()?.load()?;
    refused(Errno::IO)?;
    let log = kernel_log()?;
    let line = log
        .lines()
        .filter(|line| line.contains("carrying over"))
        .last();
    let pages = line
        .and_then(|line| line.split_once(" pages as they are")?.0.rsplit(' ').next())
        .and_then(|number| number.parse().ok());
    pages.at("the kernel log has no number of pages")
}

/// The session is not retrieved in between.
fn untouched() -> Case {
    const NAME: &str = "unread-untouched";
    Case::chain(
        "untouched",
        [
            |stage| first(stage, NAME),
            |_| {
                // The files of take(), and some pages for the metadata.
                let pages = pages_carried_over()?;
                ensure!(pages > 3_000_000 / 4096 + 17, "only {pages} pages");
                Ok(())
            },
            |_| Ok(()),
            |_| take(NAME),
        ],
    )
    .hazard_unseen("1A.7", OURS_FIRST)
}

/// Many sessions, of which some are opened in each kernel.
fn many() -> Case {
    const COUNT: u64 = 150;
    const STAGES: usize = 4;
    let name = |i: u64| format!("unread-many-{i}");
    let pattern = |i: u64| Pattern::new(1000 + i, 5000);
    let mut parts: Vec<Part> = vec![Box::new(move |stage| {
        for i in 0..COUNT {
            let file = memfd::with(pattern(i))?;
            let session = create(&name(i))?;
            session.preserve(&file, i)?;
            stage.hold((session, file));
        }
        Ok(())
    })];
    for round in 2..STAGES as u64 {
        parts.push(Box::new(move |stage| {
            for i in (0..COUNT).filter(|i| i % STAGES as u64 == round) {
                let session = retrieve(&name(i))?;
                memfd::check(session.retrieve(i)?, pattern(i))?;
                stage.hold(session);
            }
            Ok(())
        }));
    }
    parts.push(Box::new(move |_| {
        for i in 0..COUNT {
            let session = retrieve(&name(i))?;
            memfd::check(session.retrieve(i)?, pattern(i))?;
            session.finish()?;
        }
        Ok(())
    }));
    Case::with_parts("many_sessions", parts).hazard("1A.7")
}

/// Reading the formats in use has no effect: a session still lacks the same files.
fn formats() -> Case {
    const NAME: &str = "unread-formats";
    const IN_USE: &str = "/sys/kernel/liveupdate/in_use";
    Case::chain(
        "list_of_formats",
        [
            |stage| {
                damage(NAME, &["session @ count = 5"])?;
                first(stage, NAME)
            },
            |_| {
                let formats = fs::read_to_string(IN_USE).at(IN_USE)?;
                let found = formats.lines().any(|line| line == "memfd-v2");
                ensure!(found, "memfd-v2 is not in use");
                Ok(())
            },
            |_| {
                let session = retrieve(NAME)?;
                let state = ("luo-state".into(), "damaged".into());
                ensure!(
                    fdinfo(&session)?.contains(&state),
                    "the fifth file is missing"
                );
                drop(session);
                take(NAME)
            },
        ],
    )
    .hazard_unseen("1A.7", OURS_FIRST)
    .hazard("5.13")
}

pub fn suite() -> Suite {
    Suite::new("carry_unread", vec![untouched(), formats(), many()])
}

/// Memory that cannot be freed is dropped when no other memory must be carried over unchanged.
fn nobodys_memory() -> Case {
    const NAME: &str = "unread-kept";
    const LOST: &str = "unread-lost";
    const LEN: u64 = 32 << 20;
    Case::chain(
        "memory_without_owner",
        [
            |stage| {
                damage(LOST, &["file @ 1 compatible = \"nobody-v1\""])?;
                let file = memfd::with(Pattern::new(820, LEN))?;
                let session = create(LOST)?;
                session.preserve(&file, 1)?;
                stage.hold((session, file));
                first(stage, NAME)
            },
            |stage| {
                retrieve(LOST)?.finish()?;
                ensure!(
                    kernel_log()?.contains("cannot be freed"),
                    "the kernel could free the memory"
                );
                stage.put("total", meminfo::line("MemTotal")?)?;
                let session = retrieve(NAME)?;
                for (token, pattern) in FILES {
                    stage.hold(memfd::check(session.retrieve(token)?, pattern)?);
                }
                stage.hold(session);
                Ok(())
            },
            |stage| {
                let before: u64 = stage.get("total")?;
                let now = meminfo::line("MemTotal")?;
                ensure!(
                    now >= before + LEN / 1024 * 3 / 4,
                    "{before} kB before, and {now} kB after another update"
                );
                take(NAME)
            },
        ],
    )
    .hazard_unseen("1A.7", OURS_FIRST)
    .hazard("5.13")
}

/// A suite of its own: other carried over sessions would include that memory.
pub fn memory_suite() -> Suite {
    Suite::new("carry_memory", vec![nobodys_memory()])
}

/// Carrying over repeatedly needs no more memory than carrying over once.
fn no_drift() -> Case {
    const NAME: &str = "unread-drift";
    const LAST: usize = 7;
    let mut parts: Vec<Part> = vec![Box::new(|stage| first(stage, NAME))];
    for number in 2..LAST {
        parts.push(Box::new(move |stage| {
            let total = meminfo::line("MemTotal")?;
            stage.note(format_args!("{total} kB in stage {number}"));
            stage.put(&number.to_string(), total)?;
            if number > 3 {
                // The size of the kernel and its tables may differ by a few pages.
                let before = stage.get("3")?;
                ensure!(
                    total + 64 >= before,
                    "{before} kB in stage 3, but {total} kB in stage {number}"
                );
            }
            Ok(())
        }));
    }
    parts.push(Box::new(|_| take(NAME)));
    Case::with_parts("no_memory_is_lost", parts).hazard_unseen("1A.7", OURS_FIRST)
}

/// A suite of its own, since other cases would change the amount of free memory.
pub fn drift_suite() -> Suite {
    Suite::new("carry_drift", vec![no_drift()])
}
