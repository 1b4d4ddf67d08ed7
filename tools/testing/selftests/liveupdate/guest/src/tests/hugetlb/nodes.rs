// SPDX-License-Identifier: GPL-2.0

//! The pool of huge pages on a machine with two nodes.

use super::{check, content, new, set_pool, Map, HUGE};
use crate::{
    support::{
        error::{ensure_eq, At, Result},
        kexec,
        registry::{Case, Stage, Suite},
        sessions::{create, retrieve},
    },
    tests::nodes::{bind, GROUP},
};
use rustix::{fs::MemfdFlags, mm::MapFlags};
use std::fs::{self, File};

const NAME: &str = "hugetlb-nodes";

/// The pages of the file. Page 3 is on the first node, the others on the second one, and one is a hole.
const PAGES: u64 = 11;
const FIRST: u64 = 3;
const HOLE: u64 = 7;

/// The pages of the pool on each node.
const EQUAL: [u64; 2] = [12, 12];
const UNEQUAL: [u64; 2] = [10, 14];

/// The size in the names of files.
const DIRECTORY: &str = "hugepages-2048kB";

fn path(node: usize, directory: &str, what: &str) -> String {
    format!("/sys/devices/system/node/node{node}/hugepages/{directory}/{what}")
}

/// A number of pages on each of two nodes; the directory has the size of the pages in its name.
pub(super) fn on_nodes(directory: &str, what: &str) -> Result<[u64; 2]> {
    let read = |node| -> Result<u64> {
        let path = path(node, directory, what);
        Ok(fs::read_to_string(&path).at(&path)?.trim().parse()?)
    };
    Ok([read(0)?, read(1)?])
}

/// Checks the pages of the pool, and how many of them are in use, on each node.
fn check_pool(total: [u64; 2], used: [u64; 2], when: &str) -> Result {
    ensure_eq!(
        on_nodes(DIRECTORY, "nr_hugepages")?,
        total,
        "the pool on each node {when}"
    );
    let free = [total[0] - used[0], total[1] - used[1]];
    ensure_eq!(
        on_nodes(DIRECTORY, "free_hugepages")?,
        free,
        "the free pages on each node {when}"
    );
    ensure_eq!(
        on_nodes(DIRECTORY, "surplus_hugepages")?,
        [0, 0],
        "the surplus pages on each node {when}"
    );
    Ok(())
}

fn filled() -> impl Iterator<Item = u64> {
    (0..PAGES).filter(|page| *page != HOLE)
}

/// The pages of the file on each node, at first.
const USED: [u64; 2] = [1, PAGES - 2];

/// Saves how many pages of the file are on each node. PRESERVE_FD may have moved some of them out
/// of memory that the next kernel needs, to another node if there is too little room on their own.
fn put_used(stage: &Stage<'_>, used: [u64; 2]) -> Result {
    stage.put("used on the first node", used[0])
}

fn get_used(stage: &Stage<'_>) -> Result<[u64; 2]> {
    let first = stage.get("used on the first node")?;
    Ok([first, USED.iter().sum::<u64>() - first])
}

fn hand_over(stage: &mut Stage<'_>) -> Result {
    set_pool(EQUAL.iter().sum())?;
    check_pool(EQUAL, [0, 0], "at first")?;
    let file = new(MemfdFlags::EXEC, PAGES)?;
    let mut map = Map::new(&file, PAGES, MapFlags::NORESERVE).at("mmap")?;
    bind(map.start.cast(), map.len, 2)?;
    bind(map.page(FIRST).as_mut_ptr().cast(), HUGE as usize, 1)?;
    for page in filled() {
        content(40, page).copy_to(map.page(page))?;
    }
    drop(map);
    check_pool(EQUAL, USED, "with the file")?;
    let session = create(NAME)?;
    session.preserve(&file, 1)?;
    let (total, free) = (
        on_nodes(DIRECTORY, "nr_hugepages")?,
        on_nodes(DIRECTORY, "free_hugepages")?,
    );
    put_used(stage, [total[0] - free[0], total[1] - free[1]])?;
    check_pool(EQUAL, get_used(stage)?, "with the preserved file")?;
    stage.hold((session, file));
    kexec::add_param(&format!("hugepages={}", EQUAL.iter().sum::<u64>()))
}

/// The pool is distributed as before, although most of the file is on one node. Then it gets other
/// sizes on the nodes. The next kernel does not know these: its pool is as the command line says.
fn resize(stage: &mut Stage<'_>) -> Result {
    let used = get_used(stage)?;
    put_used(stage, used)?;
    check_pool(EQUAL, used, "after the kexec")?;
    for (node, pages) in UNEQUAL.iter().enumerate() {
        let path = path(node, DIRECTORY, "nr_hugepages");
        fs::write(&path, pages.to_string()).at(&path)?;
    }
    check_pool(UNEQUAL, used, "with other sizes")
}

fn take_over(stage: &mut Stage<'_>) -> Result {
    let used = get_used(stage)?;
    check_pool(EQUAL, used, "after the second kexec")?;
    let session = retrieve(NAME)?;
    let file = File::from(session.retrieve(1)?);
    check_pool(EQUAL, used, "with the file again")?;
    check(&file, PAGES, 40, &filled().collect::<Vec<_>>())?;
    session.finish()?;
    check_pool(EQUAL, used, "with the file, finished")?;
    drop(file);
    check_pool(EQUAL, [0, 0], "without the file")
}

/// The suite.
pub fn suite() -> Suite {
    let case = Case::chain(
        "the_pool_stays_on_its_nodes",
        [hand_over, resize, take_over],
    );
    Suite::on_machine(GROUP, "hugetlb_nodes", case)
}
