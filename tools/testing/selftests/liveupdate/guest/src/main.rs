// SPDX-License-Identifier: GPL-2.0

//! `luo-guest`: the program for the virtual machine.
//!
//! As process 1 it is the init of an initramfs; its command follows ` -- ` on the kernel command
//! line. See [`cli::USAGE`] for the commands.
//!
//! For a kexec, the program packs its root file system and passes it to the next kernel, together
//! with the command line of this one and the number of the next stage. A chain of kernels can
//! therefore have any length, and files in the root file system pass data to the next stage
//! independent of the tested code.
//!
//! Each command has a module here, in a file or a folder. [`tests`] has the tests that
//! [`selftest`] runs, and [`support`] the code that commands and tests share; it uses neither of
//! them.

mod bench;
mod boot;
mod cli;
mod demo;
mod exec;
mod luod;
mod selftest;
mod soak;
mod stress;
mod support;
mod tests;
mod vm;

use crate::support::{args::Args, clock};
use std::process::ExitCode;

fn main() -> ExitCode {
    clock::program_starts();
    let args = Args::parse(std::env::args().skip(1));
    if std::process::id() == 1 {
        boot::init(&args)
    } else {
        cli::run(&args)
    }
}
