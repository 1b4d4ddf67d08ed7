// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups, and what is charged to them.

use crate::support::{
    cgroup::Cgroup,
    error::{ensure, ensure_eq, At},
    mapping::large,
    process::{Child, End},
    registry::{Case, Suite},
    sessions::create,
    wait::eventually,
};

const LEN: usize = 512 << 20;

/// What the format needs for each page of a file.
const EACH: u64 = 16;

/// What describes a file is charged to the task that preserves it.
fn descriptions() -> Case {
    const CHARGED: u64 = LEN as u64 / 4096 * EACH;
    Case::one("descriptions_of_files", |_| {
        let group = Cgroup::new("charges")?;
        let file = large(LEN)?;
        let session = create("charges")?;
        let child = Child::start(|| {
            group.enter()?;
            session.preserve(&file, 1)
        })?;
        ensure_eq!(child.wait()?, End::Done, "the end of the child");
        // It takes a moment until the counters are up to date.
        eventually("nothing is charged", || Ok(group.kernel()? >= CHARGED))?;
        drop(session);
        eventually("something stays charged", || {
            Ok(group.kernel()? < CHARGED / 2)
        })
    })
    .hazard("1B.3")
}

/// Only the task that preserves the file runs into its limit.
fn limit() -> Case {
    Case::one("limit", |_| {
        let group = Cgroup::new("charges-limit")?;
        let file = large(LEN)?;
        let session = create("charges-limit")?;
        group.limit(1 << 20)?;
        let child = Child::start(|| {
            group.enter()?;
            session.preserve(&file, 1)
        })?;
        let end = child.wait()?;
        ensure!(end != End::Done, "the limit was not heeded");
        session.preserve(&file, 1).at("without the limit")
    })
}

pub fn suite() -> Suite {
    Suite::new("charges", vec![descriptions(), limit()])
}
