// SPDX-License-Identifier: GPL-2.0

//! `luo-qemu`: runs a QEMU guest that survives live updates of its host.

mod cli;
mod output;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
