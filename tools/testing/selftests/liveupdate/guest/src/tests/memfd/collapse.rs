// SPDX-License-Identifier: GPL-2.0

//! Memory that is moved into large folios before it is preserved.

use super::moving::keep_in_pipe;
use crate::support::{
    error::{ensure_eq, At, Result},
    mapping::Map,
    memfd, meminfo,
    registry::Case,
    sessions::{create, retrieve},
};
use liveupdate::{collapse, Collapsed};
use std::{fs::File, os::unix::fs::MetadataExt};

const NAME: &str = "collapsed";
const HUGE: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// The parts of the file, of 2 MiB each: two that are full, one of which has pages in a pipe, one without
/// its last page, and a hole.
const PARTS: u64 = 4;
const IN_PIPE: u64 = 1;
const FILLED: u64 = 3 * HUGE - PAGE;

fn collapsed(large: u64) -> Collapsed {
    let mut collapsed = Collapsed::default();
    collapsed.large = large * HUGE;
    collapsed.left = FILLED - large * HUGE;
    collapsed
}

/// Large folios, in KiB.
fn large() -> Result<u64> {
    meminfo::line("ShmemHugePages")
}

fn check(file: &File) -> Result {
    Map::new(file, FILLED as usize)?.check()?;
    let blocks = file.metadata().at("fstat")?.blocks();
    ensure_eq!(blocks * 512, FILLED, "the memory of the file");
    Ok(())
}

/// Only parts without holes whose pages have no other users are moved; nothing else changes.
pub fn case() -> Case {
    Case::two(
        NAME,
        |stage| {
            memfd::set_huge(false)?;
            let file = memfd::new()?;
            file.set_len(PARTS * HUGE).at("set the size")?;
            let map = Map::new(&file, FILLED as usize)?;
            map.fill();
            memfd::seek(&file, 321)?;
            let pages = map.start().wrapping_byte_add((IN_PIPE * HUGE) as usize);
            let pipe = keep_in_pipe(pages, 4)?;

            let before = large()?;
            ensure_eq!(collapse(&file)?, collapsed(1), "the first time");
            ensure_eq!(large()? - before, HUGE >> 10, "KiB in large folios");
            drop(pipe);
            ensure_eq!(collapse(&file)?, collapsed(2), "without the pipe");
            ensure_eq!(large()? - before, (2 * HUGE) >> 10, "KiB in large folios");
            ensure_eq!(memfd::position(&file)?, 321, "the position");
            check(&file)?;

            let session = create(NAME)?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        |_| {
            let before = large()?;
            let session = retrieve(NAME)?;
            let file = File::from(session.retrieve(1)?);
            ensure_eq!(large()? - before, (2 * HUGE) >> 10, "KiB in large folios");
            check(&file)?;
            Ok(session.finish()?)
        },
    )
}
