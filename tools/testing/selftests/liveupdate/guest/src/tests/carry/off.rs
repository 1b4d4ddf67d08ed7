// SPDX-License-Identifier: GPL-2.0

//! An intermediate kernel is booted without live updates.

use super::steps::{fill, take};
use crate::support::{
    error::{ensure, ensure_eq},
    kernel_log::kernel_log,
    kexec,
    registry::{Case, Suite},
};
use std::fs;

/// A suite of its own, since live updates are disabled in the second kernel.
pub fn suite() -> Suite {
    const NAME: &str = "carry-off";
    let case = Case::chain(
        "off_in_between",
        [
            |stage| {
                kexec::add_param("liveupdate=off")?;
                fill(stage, NAME)
            },
            |_| {
                ensure_eq!(
                    fs::exists("/dev/liveupdate").ok(),
                    Some(false),
                    "the existence of the device"
                );
                ensure!(
                    kernel_log()?.contains("luo: liveupdate=on is missing"),
                    "the kernel log does not report the sessions"
                );
                kexec::add_param("liveupdate=on")
            },
            |_| take(NAME),
        ],
    )
    .hazard("1A.12");
    Suite {
        // A suite with parameters only runs if it is named.
        cmdline: "liveupdate=on",
        ..Suite::new("carry_off", vec![case])
    }
}
