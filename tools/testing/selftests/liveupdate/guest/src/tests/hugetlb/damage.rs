// SPDX-License-Identifier: GPL-2.0

//! Damage to the numbers of huge pages that are handed over. No file is lost: only the size of the
//! pool is wrong, until the files are retrieved.

use super::{check, filled, set_pool, Counts, POOL};
use crate::{
    support::{
        error::{ensure_eq, Result},
        kexec,
        registry::{Case, Part, Stage, Suite},
        sessions::{create, retrieve},
    },
    tests::damage::fate::{damage, healthy, reported},
};
use rustix::fs::MemfdFlags;
use std::fs::File;

/// The pages of each file.
const PAGES: u64 = 4;
const ALL: &[u64] = &[0, 1, 2, 3];

/// The messages of a kernel that does not use the numbers.
pub(super) const MALFORMED: &[&str] = &["the number of preserved huge pages is malformed"];
pub(super) const TOO_MANY: &[&str] = &["HugeTLB:", "announced more pages than there is memory"];

/// The damage that each kernel does, and what the next one logs. The first entry in the list of
/// numbers is for the pages of the file.
const DAMAGED: [(&str, &str, Option<&[&str]>); 4] = [
    // More entries than there is room for.
    ("count", "u64 0 flb hugetlb-v2 data = 64", Some(MALFORMED)),
    ("order", "u16 18 flb hugetlb-v2 data = 99", Some(MALFORMED)),
    (
        "pages",
        "u64 8 flb hugetlb-v2 data = 0x10000000",
        Some(TOO_MANY),
    ),
    // This is the last one, since a kernel keeps data that it does not understand.
    ("version", "flb hugetlb-v2 name = \"hugetlb-v9\"", None),
];

fn name(number: usize) -> String {
    format!("hugetlb-flb-{}", DAMAGED[number].0)
}

fn hand_over(stage: &mut Stage<'_>, number: usize) -> Result {
    set_pool(POOL)?;
    let file = filled(MemfdFlags::EXEC, PAGES, 50 + number as u64, ALL)?;
    let session = create(&name(number))?;
    session.preserve(&file, 1)?;
    stage.hold((session, file));
    damage(&name(number), &[DAMAGED[number].1])?;
    kexec::add_param(&format!("hugepages={POOL}"))
}

/// The kernel allocates all pages of the command line, and adds those of the file to the pool.
fn take_over(number: usize) -> Result {
    let (what, _, message) = DAMAGED[number];
    if let Some(words) = message {
        reported(words)?;
    }
    ensure_eq!(Counts::now()?, Counts::with_free(POOL), "the pool, {what}");
    let name = name(number);
    let session = retrieve(&name)?;
    let file = File::from(session.retrieve(1)?);
    check(&file, PAGES, 50 + number as u64, ALL)?;
    let larger = Counts {
        total: POOL + PAGES,
        ..Counts::with_free(POOL)
    };
    ensure_eq!(Counts::now()?, larger, "the pool with the file, {what}");
    session.finish()?;
    healthy(&name)?;
    drop(file);
    set_pool(POOL)?;
    ensure_eq!(
        Counts::now()?,
        Counts::with_free(POOL),
        "the pool at the end, {what}"
    );
    Ok(())
}

/// The suite.
pub fn suite() -> Suite {
    let mut parts: Vec<Part> = vec![Box::new(|stage| hand_over(stage, 0))];
    for number in 1..DAMAGED.len() {
        parts.push(Box::new(move |stage| {
            take_over(number - 1)?;
            hand_over(stage, number)
        }));
    }
    parts.push(Box::new(|_| take_over(DAMAGED.len() - 1)));
    let case = Case::with_parts("numbers_of_pages_are_malformed", parts);
    Suite::new("hugetlb_damage", vec![case])
}
