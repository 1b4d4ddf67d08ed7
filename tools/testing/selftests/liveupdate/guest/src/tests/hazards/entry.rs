// SPDX-License-Identifier: GPL-2.0

//! A kernel that has nothing to hand over hands over nothing.
//!
//! Otherwise, the next kernel would have to understand the format although nobody needs it.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    kernel_log::kernel_log,
    registry::{Case, Suite},
    sessions::create,
};
use std::fs;

/// Whether there is something of ours among what is handed over.
fn is_published() -> Result<bool> {
    const ENTRY: &str = "/sys/kernel/debug/kho/out/sub_fdts/LUO";
    fs::exists(ENTRY).at(ENTRY)
}

fn nothing() -> Case {
    Case::two(
        "nothing_is_handed_over",
        |_| {
            ensure_eq!(is_published()?, false, "the presence of an entry");
            let sessions = [create("entry-1")?, create("entry-2")?];
            ensure_eq!(is_published()?, true, "its presence with sessions");
            drop(sessions);
            ensure_eq!(is_published()?, false, "its presence in the end");
            Ok(())
        },
        |_| {
            // What only counts has an entry of its own, which is not of any version.
            ensure!(
                kernel_log()?.contains("liveupdate number: 1"),
                "the kernel does not count"
            );
            ensure_eq!(is_published()?, false, "the presence of an entry");
            Ok(())
        },
    )
    .hazard("1A.13")
}

/// By itself: sessions of others would be something to hand over.
pub fn suite() -> Suite {
    Suite::new("entry", vec![nothing()])
}
