// SPDX-License-Identifier: GPL-2.0

//! A kernel without sessions does not hand over data of LUO.
//!
//! Otherwise, the next kernel would have to support a format that is not used.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    kernel_log::kernel_log,
    registry::{Case, Suite},
    sessions::create,
};
use std::fs;

/// Returns whether data of LUO is handed over.
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
            // The counter has an entry of its own, independent of the version.
            ensure!(
                kernel_log()?.contains("liveupdate number: 1"),
                "the kernel does not count updates"
            );
            ensure_eq!(is_published()?, false, "the presence of an entry");
            Ok(())
        },
    )
    .hazard("1A.13")
}

/// A suite of its own: sessions of other cases would be handed over.
pub fn suite() -> Suite {
    Suite::new("entry", vec![nothing()])
}
