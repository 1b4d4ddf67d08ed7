// SPDX-License-Identifier: GPL-2.0

//! `luo-guest`: what runs in the virtual machine.
//!
//! As process 1 it is the init of an initramfs; what it is to do comes from the kernel command
//! line, after ` -- `. See [`cli::USAGE`] for the commands.
//!
//! For a kexec, the program packs the root file system that it runs in and hands it to the next
//! kernel, together with the command line of this one and the number of the next stage. So a chain
//! of kernels can have any length, and a file written to the root file system is a way to tell the
//! next stage something that does not depend on what is being tested.
//!
//! Each command has a module here, in a file or a folder. [`tests`] has the tests that
//! [`selftest`] runs, and [`support`] what commands and tests share; it does not use either.

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
