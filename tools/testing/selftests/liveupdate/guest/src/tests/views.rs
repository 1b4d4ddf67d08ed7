// SPDX-License-Identifier: GPL-2.0

//! Reports: fdinfo of sessions, and the list of all sessions in debugfs.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    fault::Faults,
    memfd, meminfo,
    pattern::Pattern,
    registry::{Case, Suite},
    sessions::{create, expect_errno, fdinfo, report_lines, retrieve},
    test_device::{TestDevice, NO_HANDLER},
};
use rustix::io::Errno;
use std::fs;

const LIST: &str = "/sys/kernel/debug/liveupdate/sessions";

type Lines = Vec<(String, String)>;

/// The expected lines of a session.
fn expected(name: &str, direction: &str, state: &str, files: &[(u64, &str)]) -> Lines {
    let line = |key: &str, value: &str| (format!("luo-{key}"), value.to_owned());
    let mut lines = vec![
        line("session", name),
        line("direction", direction),
        line("state", state),
        line("files", &files.len().to_string()),
    ];
    for (token, state) in files {
        let value = format!("token {token} handler memfd-v2 state {state}");
        lines.push(line("file", &value));
    }
    lines
}

/// The lines of the list about one session; none if it is missing.
fn listed(name: &str, direction: &str) -> Result<Lines> {
    let text = fs::read_to_string(LIST).at(LIST)?;
    let lines = report_lines(&text);
    let is_start = |line: &(String, String)| line.0 == "luo-session";
    let sessions = lines.chunk_by(|_, next| !is_start(next));
    let wanted = expected(name, direction, "", &[]);
    let session = sessions
        .into_iter()
        .find(|lines| lines.iter().take(2).eq(wanted.iter().take(2)));
    Ok(session.unwrap_or_default().to_vec())
}

fn fdinfo_case() -> Case {
    const NAME: &str = "views-fdinfo";
    Case::two(
        "fdinfo",
        |stage| {
            let session = create(NAME)?;
            let empty = expected(NAME, "outgoing", "active", &[]);
            ensure_eq!(fdinfo(&session)?, empty, "fdinfo without files");
            for token in [5, u64::MAX] {
                session.preserve(memfd::with(Pattern::new(700, 10))?, token)?;
            }
            let files = [(5, "preserved"), (u64::MAX, "preserved")];
            let full = expected(NAME, "outgoing", "active", &files);
            ensure_eq!(fdinfo(&session)?, full, "fdinfo with files");
            stage.hold(session);
            Ok(())
        },
        |_| {
            let session = retrieve(NAME)?;
            let files = [(5, "incoming"), (u64::MAX, "incoming")];
            let before = expected(NAME, "incoming", "retrieved", &files);
            ensure_eq!(fdinfo(&session)?, before, "fdinfo before RETRIEVE_FD");
            session.retrieve(u64::MAX)?;
            let files = [(5, "incoming"), (u64::MAX, "retrieved")];
            let after = expected(NAME, "incoming", "retrieved", &files);
            ensure_eq!(fdinfo(&session)?, after, "fdinfo after RETRIEVE_FD");
            Ok(session.finish()?)
        },
    )
    .hazard("4.1")
}

fn debugfs_case() -> Case {
    const NAME: &str = "views-debugfs";
    Case::two(
        "debugfs",
        |stage| {
            let outgoing = |name| listed(name, "outgoing");
            ensure_eq!(outgoing(NAME)?, [], "the list before the session exists");
            let session = create(NAME)?;
            session.preserve(memfd::with(Pattern::new(701, 10))?, 3)?;
            let lines = expected(NAME, "outgoing", "active", &[(3, "preserved")]);
            ensure_eq!(outgoing(NAME)?, lines, "the list");
            drop(create("views-debugfs-closed")?);
            ensure_eq!(
                outgoing("views-debugfs-closed")?,
                [],
                "the list without a closed session"
            );
            stage.hold(session);
            Ok(())
        },
        |_| {
            let incoming = || listed(NAME, "incoming");
            ensure_eq!(
                listed(NAME, "outgoing")?,
                [],
                "the list of outgoing sessions"
            );
            let start = incoming()?;
            let wanted = expected(NAME, "incoming", "available", &[(3, "")]);
            ensure_eq!(start.get(..4), wanted.get(..4), "the list at first");
            let session = retrieve(NAME)?;
            let lines = expected(NAME, "incoming", "retrieved", &[(3, "incoming")]);
            ensure_eq!(incoming()?, lines, "the list after RETRIEVE_SESSION");
            drop(session.retrieve(3)?);
            drop(session);
            let lines = expected(NAME, "incoming", "available", &[(3, "retrieved")]);
            ensure_eq!(incoming()?, lines, "the list after closing without FINISH");
            retrieve(NAME)?.finish()?;
            ensure_eq!(incoming()?, [], "the list after FINISH");
            Ok(())
        },
    )
    .hazard("4.2")
}

/// A temporary error does not change the state of the file, which can be retrieved again.
fn errors_that_pass() -> Case {
    const NAME: &str = "views-errors";
    let pattern = Pattern::new(702, 100_000);
    let files = |state| expected(NAME, "incoming", "retrieved", &[(1, state)]);
    Case::two(
        "errors_that_pass",
        move |stage| {
            let session = create(NAME)?;
            session.preserve(memfd::with(pattern)?, 1)?;
            stage.hold(session);
            Ok(())
        },
        move |_| {
            let session = retrieve(NAME)?;
            let result = Faults::new()?.call(1, || session.retrieve(1))?.result;
            ensure!(result.is_err(), "RETRIEVE_FD succeeded without memory");
            ensure_eq!(fdinfo(&session)?, files("incoming"), "fdinfo after it");
            memfd::check(session.retrieve(1)?, pattern)?;
            ensure_eq!(fdinfo(&session)?, files("retrieved"), "fdinfo in the end");
            Ok(session.finish()?)
        },
    )
    .hazard("4.6")
}

/// A permanent error changes the state.
fn errors_that_stay() -> Case {
    const NAME: &str = "views-failed";
    Case::two(
        "errors_that_stay",
        |stage| {
            let device = TestDevice::open(TestDevice::C)?;
            device.write("fail-retrieve 5")?;
            let session = create(NAME)?;
            session.preserve(&device, 1)?;
            stage.hold((session, device));
            Ok(())
        },
        |_| {
            let session = retrieve(NAME)?;
            for _ in 0..2 {
                expect_errno(session.retrieve(1), Errno::IO, "RETRIEVE_FD")?;
                let lines = fdinfo(&session)?;
                let file = lines.last().map(|(_, value)| value.as_str());
                let wanted = "token 1 handler luo-test-v1 state failed error -5";
                ensure_eq!(file, Some(wanted), "the line of the file");
            }
            Ok(session.finish()?)
        },
    )
    .hazard_unseen("4.6", NO_HANDLER)
}

/// Readers of reports must not be able to change state.
/// The file of Kexec Handover that shows the root of LUO must not show other memory later.
fn root_of_previous_kernel() -> Case {
    const ROOT: &str = "/sys/kernel/debug/kho/in/sub_fdts/LUO";
    Case::two(
        "root_stays_what_it_was",
        |stage| {
            let file = memfd::with(Pattern::new(70, 10))?;
            let session = create("views-root")?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        |_| {
            retrieve("views-root")?.finish()?;
            let look = || fs::read(ROOT).at(ROOT);
            let before = look()?;
            ensure!(before.starts_with(b"luo-v5\0"), "{ROOT} has other contents");
            // Freed memory is in use now.
            let free = meminfo::line("MemFree")? << 10;
            let _memory = memfd::with(Pattern::new(71, free / 8 * 7))?;
            ensure!(look()? == before, "{ROOT} has changed");
            Ok(())
        },
    )
    .hazard("1C.9")
}

fn permissions() -> Case {
    Case::one("debugfs_is_read_only", |_| {
        use std::os::unix::fs::PermissionsExt;

        let mode = fs::metadata(LIST).at(LIST)?.permissions().mode();
        ensure!(mode & 0o222 == 0, "the mode is {mode:o}");
        Ok(())
    })
}

pub fn suite() -> Suite {
    let cases = vec![
        fdinfo_case(),
        debugfs_case(),
        errors_that_pass(),
        errors_that_stay(),
        permissions(),
        root_of_previous_kernel(),
    ];
    Suite::new("views", cases)
}
