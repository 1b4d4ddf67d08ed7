// SPDX-License-Identifier: GPL-2.0

//! Charges to memory cgroups.

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

/// The bytes of the format for each page of a file.
const EACH: u64 = 16;

/// The description of a file is charged to the task that preserves it.
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
        // The counters are updated with a delay.
        eventually("nothing is charged", || Ok(group.kernel()? >= CHARGED))?;
        drop(session);
        eventually("memory stays charged", || Ok(group.kernel()? < CHARGED / 2))
    })
    .hazard("1B.3")
}

/// Only the task that preserves the file reaches its limit.
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
        ensure!(end != End::Done, "the limit was not applied");
        session.preserve(&file, 1).at("without the limit")
    })
}

pub fn suite() -> Suite {
    Suite::new("charges", vec![descriptions(), limit()])
}
