// SPDX-License-Identifier: GPL-2.0

//! Memory on the nodes of a machine that has two.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    mapping::Map,
    memfd,
    registry::{Case, Suite},
    sessions::{create, retrieve},
};
use std::{ffi::c_void, io, ptr};

const PAGE: usize = 4096;
const PAGES: usize = 4096;
const LEN: usize = PAGES * PAGE;

/// The group of suites that need a machine with two nodes.
pub const GROUP: &str = "machines";

/// Lets memory come from the nodes in the mask, one after the other if there are several.
pub fn bind(memory: *mut c_void, len: usize, nodes: u64) -> Result {
    let policy = match nodes.count_ones() {
        1 => libc::MPOL_BIND,
        _ => libc::MPOL_INTERLEAVE,
    };
    // SAFETY: The kernel reads one word of the mask. What it does to the mapping does not change the
    // contents.
    let status = unsafe { libc::syscall(libc::SYS_mbind, memory, len, policy, &nodes, 64, 0) };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).at("mbind"),
    }
}

/// The number of pages on each node.
fn nodes(memory: *mut c_void) -> Result<[usize; 2]> {
    let pages: Vec<_> = (0..PAGES)
        .map(|page| memory.wrapping_byte_add(page * PAGE))
        .collect();
    let mut found = vec![-1_i32; PAGES];
    // SAFETY: Both lists have the length that is passed. Without a list of nodes, the kernel only
    // returns the locations of the pages.
    let status = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            PAGES,
            pages.as_ptr(),
            ptr::null::<i32>(),
            found.as_mut_ptr(),
            0,
        )
    };
    if status < 0 {
        return Err(io::Error::last_os_error()).at("move_pages");
    }
    let on = |node| found.iter().filter(|found| **found == node).count();
    let all = [on(0), on(1)];
    ensure_eq!(
        all[0] + all[1],
        PAGES,
        "pages on both nodes, of which {all:?} were found"
    );
    Ok(all)
}

/// A file keeps its memory, on the same nodes.
fn stays(name: &'static str, mask: u64) -> Case {
    Case::two(
        name,
        move |stage| {
            let file = memfd::new()?;
            file.set_len(LEN as u64).at("set the size")?;
            let map = Map::new(&file, LEN)?;
            bind(map.start(), LEN, mask)?;
            map.fill();
            let before = nodes(map.start())?;
            let wanted = match mask {
                1 => before == [PAGES, 0],
                2 => before == [0, PAGES],
                _ => before == [PAGES / 2, PAGES / 2],
            };
            ensure!(wanted, "the pages are on other nodes: {before:?}");
            let session = create(name)?;
            session.preserve(&file, 1)?;
            ensure_eq!(nodes(map.start())?, before, "pages on each node, preserved");
            stage.put("second", before[1])?;
            stage.hold((session, file));
            Ok(())
        },
        move |stage| {
            let session = retrieve(name)?;
            let map = Map::new(&session.retrieve(1)?, LEN)?;
            map.check()?;
            let second = stage.get("second")? as usize;
            ensure_eq!(
                nodes(map.start())?,
                [PAGES - second, second],
                "pages on each node"
            );
            Ok(session.finish()?)
        },
    )
}

pub fn suite() -> Suite {
    let cases = vec![
        stays("first", 1),
        stays("second", 2),
        stays("interleaved", 3),
    ];
    Suite {
        group: GROUP,
        // A suite with parameters only runs if it is named.
        cmdline: "liveupdate=on",
        ..Suite::new("nodes", cases)
    }
}
