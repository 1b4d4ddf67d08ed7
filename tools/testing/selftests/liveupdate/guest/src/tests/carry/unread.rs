// SPDX-License-Identifier: GPL-2.0

//! Sessions that are carried over just as they came, without being read.
//!
//! That is only possible while nobody in the kernel uses a state that files share, as the handlers
//! of the base's in-kernel test do. So it is hidden from them that there is one.

use super::steps::{chain, fill, refused, take, FILES};
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

/// Why these are not tried on C; others show what they are about.
const OURS_FIRST: &str =
    "the first kernel has to hide that there are states, which that in C cannot";

/// Hands something over, but not the states that files share.
fn first(stage: &mut Stage<'_>, name: &str) -> Result {
    damage(name, &["flbs count = 0"])?;
    fill(stage, name)
}

/// How many pages the kernel would carry over as they are: it says so before it freezes anything.
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
    pages.at("the kernel log does not say how many pages are carried over")
}

/// Nobody asks for the session in between.
fn untouched() -> Case {
    const NAME: &str = "unread-untouched";
    chain(
        "untouched",
        [
            |stage| first(stage, NAME),
            |_| {
                // What take() looks for, and some for the metadata.
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
    Case {
        name: "many_sessions".into(),
        parts,
        hazard: None,
        reader_only: false,
    }
    .hazard("1A.7")
}

/// Reading which formats are in use changes nothing: what a session lacks, it still lacks.
fn formats() -> Case {
    const NAME: &str = "unread-formats";
    const IN_USE: &str = "/sys/kernel/liveupdate/in_use";
    chain(
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
                    "the fifth file is forgotten"
                );
                drop(session);
                take(NAME)
            },
        ],
    )
    .hazard_unseen("1A.7", OURS_FIRST)
}

pub fn suite() -> Suite {
    Suite::new("carry_unread", vec![untouched(), formats(), many()])
}

/// Memory that nobody can free is given up as soon as nothing else has to be carried over as it is.
fn nobodys_memory() -> Case {
    const NAME: &str = "unread-kept";
    const LOST: &str = "unread-lost";
    const LEN: u64 = 32 << 20;
    chain(
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
}

/// By itself: what others carry over takes that memory along.
pub fn memory_suite() -> Suite {
    Suite::new("carry_memory", vec![nobodys_memory()])
}

/// Passing something on over and over takes no more memory than passing it on once.
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
                // Where the kernel and its tables lie may differ by a few pages.
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
    Case {
        name: "no_memory_is_lost".into(),
        parts,
        hazard: None,
        reader_only: false,
    }
    .hazard_unseen("1A.7", OURS_FIRST)
}

/// By itself, since other cases would change the memory that the machine has.
pub fn drift_suite() -> Suite {
    Suite::new("carry_drift", vec![no_drift()])
}
