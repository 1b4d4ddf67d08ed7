// SPDX-License-Identifier: GPL-2.0

//! The result of a case.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::machine::console::Console;
use crate::machine::vm::Run;
use crate::report::ktap::{self, Status};

/// The result of a case on one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "message")]
pub enum Outcome {
    Passes,
    /// The test has failed.
    Fails(String),
    Panics(String),
    Oopses(String),
    /// The test has passed, but the kernel log has a warning.
    Warns(String),
    /// The time limit was reached.
    Hangs,
    /// The machine restarted before the end of the test.
    Resets,
    /// The test has skipped itself.
    NotTried(String),
}

impl Outcome {
    /// The result of the only case of a run of a machine.
    pub fn of(run: &Run, case: &str) -> Self {
        Self::read(&run.console, run.timed_out.is_some(), case)
    }

    fn read(console: &Console, timed_out: bool, case: &str) -> Self {
        let splats = console.splats();
        let about = |word: &str| splats.iter().find(|line| line.contains(word));
        if let Some(line) = about("Kernel panic") {
            let why = line
                .split_once("not syncing: ")
                .map_or(*line, |(_, why)| why);
            return Outcome::Panics(cause(&splats).map_or(why.to_owned(), plain));
        }
        if let Some(line) = cause(&splats) {
            return Outcome::Oopses(plain(line));
        }
        if timed_out {
            return Outcome::Hangs;
        }
        let ktap = ktap::parse(console.user.iter().map(String::as_str));
        let result = ktap.results.iter().find(|result| result.name == case);
        match result.map(|result| (&result.status, &result.diagnostics)) {
            None => Outcome::Resets,
            Some((Status::Failed, said)) => {
                let why = said.last().map_or("", String::as_str);
                let why = why.strip_prefix(case).unwrap_or(why);
                Outcome::Fails(why.trim_start_matches(": ").to_owned())
            }
            Some((Status::Skipped(why), _)) => Outcome::NotTried(why.clone()),
            Some((Status::Passed, _)) => match splats.first() {
                Some(line) => Outcome::Warns(plain(line)),
                None if console.exit() == Some(0) => Outcome::Passes,
                None => Outcome::Fails("luo-guest did not end as it should".to_owned()),
            },
        }
    }

    /// The outcome without the details.
    pub fn verb(&self) -> &'static str {
        match self {
            Outcome::Passes => "passes",
            Outcome::Fails(_) => "fails",
            Outcome::Panics(_) => "panics",
            Outcome::Oopses(_) => "oopses",
            Outcome::Warns(_) => "warns",
            Outcome::Hangs => "hangs",
            Outcome::Resets => "resets the machine",
            Outcome::NotTried(_) => "was not tried",
        }
    }
}

/// The line of the kernel log about an exception, if there is one.
fn cause<'a>(splats: &[&'a str]) -> Option<&'a str> {
    let is_cause = |line: &&&str| {
        ["BUG:", "Oops", "general protection"]
            .iter()
            .any(|w| line.contains(w))
    };
    splats.iter().find(is_cause).copied()
}

/// A line of the kernel log without its time and other varying parts.
fn plain(line: &str) -> String {
    let line = line.split_once("] ").map_or(line, |(_, line)| line);
    let words = line.split(' ').map(|word| {
        let digits = word.trim_start_matches("0x").trim_end_matches([',', ':']);
        let is_address = digits.len() >= 12 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if is_address {
            "..."
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())?;
        match self {
            Outcome::Fails(why)
            | Outcome::Panics(why)
            | Outcome::Oopses(why)
            | Outcome::Warns(why)
            | Outcome::NotTried(why) => write!(f, ": {why}"),
            Outcome::Passes | Outcome::Hangs | Outcome::Resets => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "luo-guest: exit 0\n";

    fn read(text: &str) -> Outcome {
        Outcome::read(&Console::read(text), false, "s.c")
    }

    fn ktap(result: &str, more: &str) -> String {
        format!("KTAP version 1\n1..1\n    KTAP version 1\n    1..1\n{result}\n{more}ok 1 s\n")
    }

    #[test]
    fn results_of_the_test() {
        let good = ktap("    ok 1 c", "");
        assert_eq!(read(&format!("{good}{END}")), Outcome::Passes);
        let skipped = ktap("    ok 1 c # SKIP no", "");
        assert_eq!(read(&skipped), Outcome::NotTried("no".into()));
        let failed = ktap("    # s.c: why: because\n    not ok 1 c", "");
        assert_eq!(read(&failed), Outcome::Fails("why: because".into()));
    }

    #[test]
    fn ends_of_the_machine() {
        assert_eq!(read("# stage 1 of 2\n"), Outcome::Resets);
        let console = Console::read("# stage 1 of 2\n");
        assert_eq!(Outcome::read(&console, true, "s.c"), Outcome::Hangs);
        let panic = "[    1.000000] Kernel panic - not syncing: bad tree\n";
        assert_eq!(read(panic), Outcome::Panics("bad tree".into()));
        let oops =
            "[    1.000000] BUG: unable to handle page fault for address: ffff88807f001000\n";
        let said = "BUG: unable to handle page fault for address: ...".to_owned();
        assert_eq!(read(oops), Outcome::Oopses(said.clone()));
        assert_eq!(read(&format!("{oops}{panic}")), Outcome::Panics(said));
    }

    #[test]
    fn a_warning_is_no_pass() {
        let good = ktap("    ok 1 c", "");
        let text = format!("[    1.000000] WARNING: lib/refcount.c:28\n{good}{END}");
        assert_eq!(
            read(&text),
            Outcome::Warns("WARNING: lib/refcount.c:28".into())
        );
    }
}
