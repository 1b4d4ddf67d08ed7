// SPDX-License-Identifier: GPL-2.0

//! Huge pages of 1 GiB that were allocated while the kernel ran, and damage to the data about them
//! that is handed over. The command lines of the first two kernels do not ask for such pages.

use super::{check, counts, filled, set_pool, Counts};
use crate::{
    support::{
        error::{ensure, ensure_eq, Result},
        kexec,
        registry::{Case, Stage, Suite},
        sessions::{create, retrieve},
    },
    tests::{
        damage::fate::{check_fate, damage, reported, Fate},
        hugetlb::damage::{MALFORMED, TOO_MANY},
        nodes::GROUP,
    },
};
use rustix::io::Errno;
use std::fs::File;

/// The number of pages on the command line of the later kernels.
const POOL: u64 = 2;

/// Preserves a file of one page.
fn preserve(stage: &mut Stage<'_>, name: &str, seed: u64) -> Result {
    let file = filled(1, seed, &[0])?;
    let session = create(name)?;
    session.preserve(&file, 1)?;
    stage.hold((session, file));
    Ok(())
}

/// Retrieves a file that [`preserve`] has preserved, and frees its page.
fn take(name: &str, seed: u64) -> Result {
    let session = retrieve(name)?;
    let file = File::from(session.retrieve(1)?);
    check(&file, 1, seed, &[0])?;
    Ok(session.finish()?)
}

fn hand_over(stage: &mut Stage<'_>) -> Result {
    set_pool(POOL)?;
    ensure_eq!(counts()?, Counts::of(POOL, POOL), "the pool at first");
    preserve(stage, "gigantic-plain", 1)?;
    ensure_eq!(counts()?, Counts::of(POOL, POOL - 1), "the pool");
    Ok(())
}

/// Without a size on the command line, the pool consists of the page of the file. Then the number of
/// pages is damaged.
fn no_parameter(stage: &mut Stage<'_>) -> Result {
    ensure_eq!(counts()?, Counts::of(1, 0), "the pool without a parameter");
    take("gigantic-plain", 1)?;
    ensure_eq!(counts()?, Counts::of(1, 1), "the pool without the file");
    preserve(stage, "gigantic-malformed", 2)?;
    damage("gigantic-malformed", &["u64 0 flb hugetlb-v2 data = 64"])?;
    kexec::add_param(&format!("hugepagesz=1G hugepages={POOL}"))
}

/// Checks that the kernel has allocated pages for the command line, up to the number for which
/// there is room beside the preserved ones, and counts none of them as in use.
fn check_pool(what: &str) -> Result<u64> {
    let found = counts()?;
    ensure_eq!(
        found,
        Counts::of(found.free, found.free),
        "the pool, {what}"
    );
    ensure!(found.total <= POOL, "the pool is {found:?}, {what}");
    Ok(found.total)
}

/// The page of the file is added to the pool.
fn malformed(stage: &mut Stage<'_>) -> Result {
    reported(MALFORMED)?;
    let total = check_pool("malformed")? + 1;
    take("gigantic-malformed", 2)?;
    ensure_eq!(
        counts()?,
        Counts::of(total, total),
        "the pool after a malformed number"
    );
    preserve(stage, "gigantic-many", 3)?;
    damage("gigantic-many", &["u64 8 flb hugetlb-v2 data = 0x10000000"])?;
    // The file has a page of 1 GiB, but says that its pages have 2 MiB.
    preserve(stage, "gigantic-order", 4)?;
    damage("gigantic-order", &["memfd @ 1 flags = 9"])
}

/// The pages of other files are added to the pool as well, also that of a file that cannot be
/// retrieved.
fn too_many(_: &mut Stage<'_>) -> Result {
    reported(TOO_MANY)?;
    let total = check_pool("too many")?;
    take("gigantic-many", 3)?;
    ensure_eq!(
        counts()?,
        Counts::of(total + 1, total + 1),
        "the pool after too large a number"
    );
    let session = retrieve("gigantic-order")?;
    check_fate(&session, Fate::Fails(Errno::INVAL))?;
    session.finish()?;
    ensure_eq!(
        counts()?,
        Counts::of(total + 2, total + 2),
        "the pool after a wrong size"
    );
    Ok(())
}

/// The suite.
pub fn suite() -> Suite {
    let case = Case::chain(
        "pages_that_no_parameter_announces",
        [hand_over, no_parameter, malformed, too_many],
    );
    Suite::on_machine(GROUP, "gigantic_damage", case)
}
