// SPDX-License-Identifier: GPL-2.0

//! Arguments of the program, from the kernel command line.

use crate::support::error::{Failure, Result};

/// Parameters that only the boot code of the kernel parses; the kernel passes them to init, before
/// its own arguments.
const OF_BOOT_CODE: [&str; 2] = ["no5lvl", "nokaslr"];

/// Arguments, parsed independent of the command.
pub struct Args {
    /// The command and its arguments.
    pub words: Vec<String>,
    options: Vec<(String, String)>,
}

impl Args {
    /// Options have the form `--name=value` and are recognized at any position, except that all
    /// arguments after the second word of `exec` belong to the program.
    pub fn parse(args: impl Iterator<Item = String>) -> Self {
        let mut this = Self {
            words: Vec::new(),
            options: Vec::new(),
        };
        for arg in args.skip_while(|arg| OF_BOOT_CODE.contains(&arg.as_str())) {
            let option = arg.strip_prefix("--").and_then(|arg| arg.split_once('='));
            match option {
                // `--stage` is appended for the next kernel.
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

    /// The number of this kernel in a chain; the first one is 1.
    pub fn stage(&self) -> Result<usize> {
        // CAST: Same size on all machines that have the subsystem.
        Ok(self.number("stage", 1)? as usize)
    }
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
