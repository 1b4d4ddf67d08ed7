// SPDX-License-Identifier: GPL-2.0

//! The command line.

use crate::{
    bench, demo, exec, luod, selftest, soak, stress,
    support::{agent, args::Args, error::Result, kexec},
    tests::hazards,
    vm,
};
use std::process::ExitCode;

pub const USAGE: &str = "\
luo-guest COMMAND [ARGUMENT...] [--OPTION=VALUE...]

  demo [--mb=64] [--next=/boot/next]    one live update of a memfd, with a timeline
  bench WORKLOAD [--n=...]              one live update, measured; see src/bench.rs
  selftest [NAME|GROUP]...              run tests (all if none are named)
  list                                  list the tests as JSON
  hazards                               list the faults of C as JSON
  soak [--count=5] [--seed=1]           that number of kexecs with random sessions and files
  stress [--seconds=20] [--kexecs=1] [--seed=1]
                                        stress tests, each followed by a kexec
  luod                                  luod and its clients, in two live updates
  luoctl [--to=c]                       luoctl and luod, in one live update, to C or not
  exec [--stages=1] PROGRAM [ARG...]    run a program once; with --stages=N, run it
                                        with `-s 1` ... `-s N`, with kexecs between
  vm [--mb=64] [--pair=ADDRESS] [--beat-ms=100]
                                        count, and check memory, in a guest of luo-qemu or luo-vmm
  vmm [--updates=3]                     luo-vmm with a guest, in that number of live updates
  gap [--guests=1] [--cpus=1] [--ram=256] [--huge=0]
                                        guests of luo-vmm in one live update, measured
  shell                                 busybox sh
  kexec [--next=/boot/next]             start the next kernel with the command line of this one
";

fn dispatch(args: &Args) -> Result<u8> {
    match args.command() {
        "demo" => demo::run(args),
        "bench" => bench::run(args),
        "selftest" => selftest::run(args),
        "list" => {
            selftest::list();
            Ok(0)
        }
        "hazards" => {
            hazards::list();
            Ok(0)
        }
        "soak" => soak::run(args),
        "stress" => stress::run(args),
        "luod" => luod::run(args),
        "luoctl" => luod::luoctl::run(args),
        "vm" => vm::run(args),
        "vmm" => luod::vmm::run(args),
        "gap" => luod::gap::run(args),
        "exec" => exec::program(args),
        "shell" => exec::shell(),
        "kexec" => {
            kexec::Plan::same(args)?.load()?;
            Err(kexec::jump())
        }
        "child" => agent::run(args.rest()),
        _ => {
            eprint!("{USAGE}");
            Ok(2)
        }
    }
}

/// Runs the command and returns its exit status.
pub fn status(args: &Args) -> u8 {
    dispatch(args).unwrap_or_else(|error| {
        println!("# {}: {error}", args.command());
        1
    })
}

/// Runs the command as an ordinary process.
pub fn run(args: &Args) -> ExitCode {
    ExitCode::from(status(args))
}
