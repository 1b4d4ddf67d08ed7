// SPDX-License-Identifier: GPL-2.0

//! `luo-qemu`: runs a QEMU guest that survives live updates of its host.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("luo-qemu: {error}");
            ExitCode::FAILURE
        }
    }
}
