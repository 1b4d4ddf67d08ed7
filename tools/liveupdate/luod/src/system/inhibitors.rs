// SPDX-License-Identifier: GPL-2.0

//! Block inhibitors of systemd-logind.

use super::manager::{is_systemd, systemctl};
use crate::{command::output_in_time, text::printable};
use serde::Deserialize;
use std::{fs, io, process::Command, time::Duration};

/// The directory in which logind has a file for each inhibitor.
const DIR: &str = "/run/systemd/inhibit";

/// The unit of logind.
const LOGIND: &str = "systemd-logind.service";

/// The time limit for an answer of logind.
const PATIENCE: Duration = Duration::from_secs(12);

/// The maximum length of a text of another program in an error, in characters.
const TEXT_MAX: usize = 100;

/// An answer of `busctl`.
#[derive(Debug, Deserialize)]
struct Answer {
    data: (Vec<Lock>,),
}

/// The inhibited actions, the program, the reason, the mode, the user, the process.
type Lock = (String, String, String, String, u32, u32);

/// Checks that no program blocks the shutdown, which a live update is for it.
///
/// # Errors
///
/// A sentence that names the program, or the reason why it is not known whether there is one.
pub(super) fn check() -> io::Result<()> {
    let none = fs::read_dir(DIR).map_or(true, |mut entries| entries.next().is_none());
    if none || !is_systemd() {
        return Ok(());
    }
    let mut command = Command::new("busctl");
    command.args([
        "--json=short",
        "--auto-start=no",
        "call",
        "org.freedesktop.login1",
        "/org/freedesktop/login1",
        "org.freedesktop.login1.Manager",
        "ListInhibitors",
    ]);
    match output_in_time(&mut command, PATIENCE) {
        Ok(text) => judge(&text),
        // Inhibitors need logind: without it, the files are left over.
        Err(_)
            if is_stopped(&systemctl(&[
                "show",
                "--property=ActiveState",
                "--value",
                LOGIND,
            ])) =>
        {
            Ok(())
        }
        Err(error) => Err(io::Error::other(format!(
            "systemd-logind does not list its inhibitors: {error}; try again, or use --force"
        ))),
    }
}

/// Returns whether logind does not run, according to the answer of systemd.
fn is_stopped(state: &io::Result<String>) -> bool {
    let state = state.as_ref().map(|state| state.trim());
    state.is_ok_and(|state| state == "inactive" || state == "failed")
}

/// Returns an error if there is a block lock for shutdown. Locks of the mode `block-weak` are not
/// meant for privileged users.
fn judge(text: &str) -> io::Result<()> {
    let answer: Answer = serde_json::from_str(text).map_err(|error| {
        io::Error::other(format!(
            "the list of inhibitors of systemd-logind cannot be read: {error}"
        ))
    })?;
    let mut locks = answer.data.0.into_iter();
    let lock = locks.find(|(what, _, _, mode, _, _)| {
        mode == "block" && what.split(':').any(|what| what == "shutdown")
    });
    let Some((_, who, why, _, _, pid)) = lock else {
        return Ok(());
    };
    Err(io::Error::other(format!(
        "{} (process {pid}) inhibits the shutdown: {}; wait for its end, or use --force",
        printable(&who, TEXT_MAX),
        printable(&why, TEXT_MAX)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks() {
        let list = |locks: &str| format!(r#"{{"type":"a(ssssuu)","data":[[{locks}]]}}"#);
        for (locks, blocks) in [
            ("", false),
            (r#"["sleep","a","b","block",0,7]"#, false),
            (r#"["shutdown","a","b","delay",0,7]"#, false),
            (r#"["shutdown","a","b","block-weak",1000,7]"#, false),
            (r#"["shutdown","a","b","block",0,7]"#, true),
            (
                r#"["sleep","a","b","block",0,7],["sleep:shutdown","a","b","block",0,7]"#,
                true,
            ),
        ] {
            let judged = judge(&list(locks));
            assert_eq!(judged.is_err(), blocks, "{locks}");
            if let Err(error) = judged {
                let text = error.to_string();
                assert!(
                    text.starts_with("a (process 7) inhibits the shutdown: b;"),
                    "{text}"
                );
            }
        }
        assert!(judge("").is_err());
        assert!(judge("{}").is_err());
    }

    /// If it is not known whether logind runs, it may have inhibitors.
    #[test]
    fn logind_is_stopped() {
        for (state, stopped) in [("inactive\n", true), ("failed", true), ("active\n", false)] {
            assert_eq!(is_stopped(&Ok(state.to_owned())), stopped);
        }
        assert!(!is_stopped(&Err(io::Error::other("no answer"))));
    }
}
