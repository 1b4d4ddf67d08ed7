// SPDX-License-Identifier: GPL-2.0

//! A file with an unknown seal: another kernel may be able to retrieve it, so that no kexec may drop it,
//! though this kernel has tried to retrieve it.

use super::{
    alone,
    fate::{check_fate, damage, preserve, Fate, GOOD},
};
use crate::support::{
    error::Result,
    kexec, memfd, meminfo,
    pattern::Pattern,
    registry::{Case, Stage, Suite},
    sessions::{expect_errno, retrieve},
    wait::eventually,
};
use crate::tests::nodes::GROUP;
use liveupdate::IncomingSession;
use rustix::io::Errno;
use std::io;

const NAME: &str = "unknown_seals";
const LEN: u64 = 32 << 20;

fn hand_over(stage: &mut Stage<'_>) -> Result {
    damage(NAME, &["memfd @ 1 seals = 0x40000000"])?;
    let file = memfd::with(Pattern::new(604, LEN))?;
    preserve(stage, NAME, file)
}

/// The memory is there until the session is finished.
fn finish(session: IncomingSession) -> Result {
    check_fate(&session, Fate::NotUnderstood)?;
    memfd::check(session.retrieve(2)?, GOOD)?;
    let before = meminfo::free()?;
    session.finish()?;
    eventually("memory is missing", || {
        Ok(meminfo::free()? >= before + LEN / 1024 * 3 / 4)
    })
}

/// The test handlers have retrieved the shared states of all files, so that these cannot be carried over
/// unchanged.
pub fn refused_suite() -> Suite {
    let case = Case::two(
        "kexec_is_refused_if_a_shared_state_is_used",
        hand_over,
        |_| {
            let session = retrieve(NAME)?;
            check_fate(&session, Fate::NotUnderstood)?;
            kexec::Plan::dry()?.load()?;
            let result: io::Result<()> = Err(kexec::try_jump());
            expect_errno(result, Errno::OPNOTSUPP, "reboot(KEXEC)")?;
            finish(session)
        },
    );
    alone("damage_not_understood", case)
}

/// The second kernel has no test handlers.
pub fn carried_suite() -> Suite {
    let case = Case::chain(
        "file_is_carried_over",
        [
            hand_over,
            |stage| {
                let session = retrieve(NAME)?;
                check_fate(&session, Fate::NotUnderstood)?;
                stage.hold(session);
                Ok(())
            },
            |_| finish(retrieve(NAME)?),
        ],
    );
    Suite::on_machine(GROUP, "damage_carried", case)
}
