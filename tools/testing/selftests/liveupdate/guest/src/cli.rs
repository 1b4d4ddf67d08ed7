// SPDX-License-Identifier: GPL-2.0

//! The command line.

use crate::{
    bench, child, demo,
    error::{Failure, Result},
    exec, hazards, kexec, luoctl, luod, runner, soak, stress,
};
use std::process::ExitCode;

pub const USAGE: &str = "\
luo-guest COMMAND [ARGUMENT...] [--OPTION=VALUE...]

  demo [--mb=64] [--next=/boot/next]    one live update of a memfd, with a timeline
  bench WORKLOAD [--n=...]              one live update, measured; see bench.rs
  selftest [NAME|GROUP]...              run tests (all if none are named)
  list                                  list the tests as JSON
  hazards                               list the weaknesses of C as JSON
  soak [--count=5] [--seed=1]           so many kexecs with random sessions and files
  stress [--seconds=20] [--kexecs=1] [--seed=1]
                                        everything at once, then a kexec, and again
  luod                                  luod and its clients, in two live updates
  luoctl [--to=c]                       luoctl and luod, in one live update, to C or not
  exec [--stages=1] PROGRAM [ARG...]    run a program once; with --stages=N, run it
                                        with `-s 1` ... `-s N`, with kexecs between
  shell                                 busybox sh
  kexec [--next=/boot/next]             start the next kernel with the command line of this one
";

/// Parameters that only the boot code of the kernel understands; the kernel takes them for words
/// that init is to get, before its own ones.
const OF_BOOT_CODE: [&str; 2] = ["no5lvl", "nokaslr"];

/// Arguments, as far as they can be told apart without knowing the command.
pub struct Args {
    /// The command and its arguments.
    pub words: Vec<String>,
    options: Vec<(String, String)>,
}

impl Args {
    /// Options come as `--name=value` and are recognized anywhere, except that everything after the
    /// second word of `exec` belongs to the program.
    pub fn parse(args: impl Iterator<Item = String>) -> Self {
        let mut this = Self {
            words: Vec::new(),
            options: Vec::new(),
        };
        for arg in args.skip_while(|arg| OF_BOOT_CODE.contains(&arg.as_str())) {
            let option = arg.strip_prefix("--").and_then(|arg| arg.split_once('='));
            match option {
                // `--stage` is what we append for the next kernel.
                Some((name, value)) if name == "stage" || !this.is_program() => {
                    this.options.push((name.into(), value.into()));
                }
                _ => this.words.push(arg),
            }
        }
        this
    }

    fn is_program(&self) -> bool {
        self.words.len() >= 2 && self.command() == "exec"
    }

    pub fn command(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The words after the command.
    pub fn rest(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The value of an option, the last one if there are several.
    pub fn option(&self, name: &str) -> Option<&str> {
        let mut options = self.options.iter().rev();
        options
            .find(|(option, _)| option == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of an option that is a number.
    pub fn number(&self, name: &str, default: u64) -> Result<u64> {
        self.option(name).map_or(Ok(default), |value| {
            value
                .parse()
                .map_err(|_| Failure::new(format!("--{name}={value} is not a number")))
        })
    }

    /// Which kernel of a chain this is; the first one is 1.
    pub fn stage(&self) -> Result<usize> {
        // CAST: Same size on all machines that have the subsystem.
        Ok(self.number("stage", 1)? as usize)
    }
}

fn dispatch(args: &Args) -> Result<u8> {
    match args.command() {
        "demo" => demo::run(args),
        "bench" => bench::run(args),
        "selftest" => runner::run(args),
        "list" => {
            runner::list();
            Ok(0)
        }
        "hazards" => {
            hazards::list();
            Ok(0)
        }
        "soak" => soak::run(args),
        "stress" => stress::run(args),
        "luod" => luod::run(args),
        "luoctl" => luoctl::run(args),
        "exec" => exec::program(args),
        "shell" => exec::shell(),
        "kexec" => {
            kexec::Plan::same(args)?.load()?;
            Err(kexec::jump())
        }
        "child" => child::run(args.rest()),
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

#[cfg(test)]
mod unit {
    use super::*;

    fn parse(line: &str) -> Args {
        Args::parse(line.split(' ').map(String::from))
    }

    #[test]
    fn options_anywhere() {
        let args = parse("demo --mb=8 --mb=9 --stage=2");
        assert_eq!(args.words, ["demo"]);
        assert_eq!(args.option("mb"), Some("9"));
        assert_eq!(args.stage().unwrap(), 2);
    }

    #[test]
    fn options_of_programs() {
        let args = parse("exec --stages=2 /bin/x --a=b --stage=2");
        assert_eq!(args.words, ["exec", "/bin/x", "--a=b"]);
        assert_eq!(args.option("stages"), Some("2"));
        assert_eq!(args.option("stage"), Some("2"));
    }
}
