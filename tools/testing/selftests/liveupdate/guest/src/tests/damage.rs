// SPDX-License-Identifier: GPL-2.0

//! Malformed data of the previous kernel.
//!
//! Our kernel damages the data that it hands over right before the jump, if it was built with this
//! option. Only damaged objects may be lost: other files and sessions must exist, new ones can be
//! created, and the loss must be logged.

pub mod fate;
mod files;
pub mod unknown;

use self::{
    fate::{check_fate, damage, healthy, preserve, reported, Fate, BAD, GOOD, NOWHERE},
    files::{check_huge, clean_folios, huge, small},
};
use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    kernel_log::kernel_log,
    kexec, memfd, meminfo,
    pattern::Pattern,
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, fdinfo, hold_files, retrieve},
    wait::eventually,
};
use liveupdate::Device;
use rustix::io::Errno;
use std::fs;

/// A memfd refers to memory of another one. The kernel cannot decide which of them is correct, but
/// no file may get the memory of both.
fn stolen_folio() -> Case {
    const NAME: &str = "folio_of_another_file";
    Case::two(
        NAME,
        |stage| {
            damage(NAME, &["folio @ 1 0 pfn = folio @ 2 0 pfn"])?;
            preserve(stage, NAME, small()?)
        },
        |_| {
            let session = retrieve(NAME)?;
            memfd::check(session.retrieve(2)?, GOOD)?;
            expect_errno(session.retrieve(1), Errno::INVAL, "RETRIEVE_FD")?;
            healthy(NAME)?;
            Ok(session.finish()?)
        },
    )
    .reader_only()
}

/// A page of a large folio is preserved once more, and a file refers to it. The folio must have only one
/// owner, in any order of the files.
fn part_of_folio(name: &'static str, tokens: [u64; 2]) -> Case {
    Case::two(
        name,
        move |stage| {
            let lines = [
                "folio @ 2 0 pfn = folio @ 1 0 pfn",
                "folio @ 2 0 pfn = +1",
                "preserve folio @ 2 0 address",
            ];
            damage(name, &lines)?;
            preserve(stage, name, huge()?)
        },
        move |_| {
            let session = retrieve(name)?;
            for token in tokens {
                let result = session.retrieve(token);
                match token {
                    1 => check_huge(&result?.into())?,
                    _ => expect_errno(result, Errno::INVAL, "RETRIEVE_FD")?,
                }
            }
            reported(&["KHO:", "is part of other preserved memory"])?;
            healthy(name)?;
            Ok(session.finish()?)
        },
    )
    .reader_only()
}

/// `data` refers to memory of a user, who must not be able to exploit that.
fn data_of_user() -> Case {
    const NAME: &str = "data_of_a_user";
    Case::two(
        NAME,
        |stage| {
            damage(NAME, &["file @ 1 data = folio @ 1 0 address"])?;
            preserve(stage, NAME, small()?)
        },
        |_| {
            let session = retrieve(NAME)?;
            ensure!(session.retrieve(1).is_err(), "the file could be retrieved");
            memfd::check(session.retrieve(2)?, GOOD)?;
            healthy(NAME)?;
            Ok(session.finish()?)
        },
    )
    .reader_only()
}

/// The memory of a file that cannot be restored is freed.
fn memory_of_refused_file() -> Case {
    const NAME: &str = "unknown_seals_free_the_memory";
    const LEN: u64 = 32 << 20;
    Case::two(
        NAME,
        |stage| {
            damage(NAME, &["memfd @ 1 seals = 0x40000000"])?;
            let file = memfd::with(Pattern::new(602, LEN))?;
            preserve(stage, NAME, file)
        },
        |_| {
            let session = retrieve(NAME)?;
            let before = meminfo::free()?;
            expect_errno(session.retrieve(1), Errno::OPNOTSUPP, "RETRIEVE_FD")?;
            memfd::check(session.retrieve(2)?, GOOD)?;
            session.finish()?;
            eventually("memory is missing", || {
                Ok(meminfo::free()? >= before + LEN / 1024 * 3 / 4)
            })?;
            healthy(NAME)
        },
    )
    .hazard("1A.4")
    .reader_only()
}

/// Two files with one token: only one of them can be retrieved, and other files are not affected.
fn token_twice() -> Case {
    const NAME: &str = "token_twice";
    Case::two(
        NAME,
        |stage| {
            damage(NAME, &["file @ 1 token = 3"])?;
            let more = memfd::with(BAD)?;
            preserve(stage, NAME, small()?)?;
            let session = create("token_twice_more")?;
            session.preserve(&more, 3)?;
            stage.hold((session, more));
            Ok(())
        },
        |_| {
            let session = retrieve(NAME)?;
            expect_errno(session.retrieve(1), Errno::NOENT, "RETRIEVE_FD")?;
            memfd::check(session.retrieve(3)?, BAD)?;
            memfd::check(session.retrieve(2)?, GOOD)?;
            session.finish()?;
            let session = retrieve("token_twice_more")?;
            memfd::check(session.retrieve(3)?, BAD)?;
            healthy(NAME)?;
            Ok(session.finish()?)
        },
    )
    .reader_only()
}

/// The list of a session's files is damaged; `left` is the number of remaining files.
fn list_case(name: &'static str, lines: &'static [&'static str], left: u64) -> Case {
    /// More than fit into one block.
    const FILES: u64 = 70;
    let pattern = |token| Pattern::new(610 + token, 10);
    Case::two(
        name,
        move |stage| {
            damage(name, lines)?;
            hold_files(stage, name, 0..FILES, pattern)
        },
        move |_| {
            healthy(name)?;
            let session = retrieve(name)?;
            for token in 0..FILES {
                let file = session.retrieve(token);
                if token < left {
                    memfd::check(file?, pattern(token)).at(format_args!("file {token}"))?;
                } else {
                    expect_errno(file, Errno::NOENT, "RETRIEVE_FD of a file that is lost")?;
                }
            }
            let state = ("luo-state".into(), "damaged".into());
            ensure!(
                fdinfo(&session)?.contains(&state),
                "fdinfo does not report it"
            );
            reported(&["session", name])?;
            Ok(session.finish()?)
        },
    )
    .hazard("1D.1")
    .reader_only()
}

fn list_cases() -> Vec<Case> {
    vec![
        list_case("files_nowhere", &["session @ files = 0x7f0000001000"], 0),
        list_case("files_not_preserved", &["session @ files = 0x1000"], 0),
        list_case("files_count_wrong", &["session @ count = 5"], 70),
        list_case(
            "files_count_huge",
            &["session @ count = 0xffffffffffffffff"],
            70,
        ),
        list_case("files_cycle", &["files @ 1 next = here"], 70),
        list_case(
            "files_next_nowhere",
            &["files @ 0 next = 0x7f0000001000"],
            63,
        ),
        list_case(
            "files_next_of_data",
            &["files @ 0 next = file @ 69 data"],
            63,
        ),
        list_case("files_block_empty", &["files @ 1 count = 0"], 63),
        list_case("files_block_overfull", &["files @ 1 count = 64"], 63),
    ]
}

/// The name of one session is damaged. Only this session is lost.
fn name_case(name: &'static str, value: &'static str) -> Case {
    Case::two(
        name,
        move |stage| {
            let line = format!("session @ name = {value}");
            damage(name, &[&line])?;
            preserve(stage, name, small()?)
        },
        move |_| {
            healthy(name)?;
            expect_errno(
                Device::open()?.retrieve_session(name),
                Errno::NOENT,
                "RETRIEVE_SESSION",
            )?;
            reported(&["luo:", "session"])
        },
    )
    .reader_only()
}

/// Two sessions, the first of which refers to the list of files of the other one.
fn share_list(stage: &mut Stage<'_>, names: [&str; 2]) -> Result {
    let line = format!("session @ files = session {} files", names[1]);
    damage(names[0], &[&line])?;
    names
        .iter()
        .try_for_each(|name| preserve(stage, name, small()?))
}

/// A list of another session is not read any more when its memory has been freed, though the list of this
/// session was not claimed.
pub fn looked_at_suite() -> Suite {
    const NAMES: [&str; 2] = ["list_that_is_freed", "list_that_is_freed_owner"];
    const IN_USE: &str = "/sys/kernel/liveupdate/in_use";
    let formats = || fs::read_to_string(IN_USE).at(IN_USE);
    let case = Case::two(
        NAMES[0],
        |stage| share_list(stage, NAMES),
        move |_| {
            ensure!(formats()?.contains("memfd-v2"), "no memfd is in use");
            retrieve(NAMES[1])?.finish()?;
            let left = formats()?;
            ensure!(!left.contains("memfd-v2"), "freed memory was read: {left}");
            let other = retrieve(NAMES[0])?;
            expect_errno(other.retrieve(1), Errno::NOENT, "RETRIEVE_FD")?;
            Ok(other.finish()?)
        },
    );
    alone("damage_looked_at", case.reader_only())
}

/// A session refers to the list of files of another one.
fn stolen_list() -> Case {
    const NAMES: [&str; 2] = ["files_of_another_session", "files_of_another_session_owner"];
    Case::two(
        NAMES[0],
        |stage| share_list(stage, NAMES),
        |_| {
            let owner = retrieve(NAMES[1])?;
            memfd::check(owner.retrieve(1)?, BAD)?;
            let other = retrieve(NAMES[0])?;
            expect_errno(other.retrieve(1), Errno::NOENT, "RETRIEVE_FD")?;
            other.finish()?;
            memfd::check(owner.retrieve(2)?, GOOD)?;
            healthy(NAMES[0])?;
            Ok(owner.finish()?)
        },
    )
    .reader_only()
}

/// The entries of shared state are damaged, which loses no file.
fn flbs_case(name: &'static str, lines: &'static [&'static str]) -> Case {
    Case::two(
        name,
        move |stage| {
            damage(name, lines)?;
            preserve(stage, name, small()?)
        },
        move |_| {
            let session = retrieve(name)?;
            check_fate(&session, Fate::Intact)?;
            memfd::check(session.retrieve(2)?, GOOD)?;
            reported(&["luo:", "FLB"])?;
            healthy(name)?;
            Ok(session.finish()?)
        },
    )
    .reader_only()
}

pub fn suite() -> Suite {
    let mut cases = files::cases();
    cases.extend([
        stolen_folio(),
        part_of_folio("part_of_a_folio_late", [1, 2]),
        part_of_folio("part_of_a_folio_early", [2, 1]),
        data_of_user(),
        memory_of_refused_file(),
    ]);
    cases.push(clean_folios());
    cases.push(token_twice());
    cases.extend(list_cases());
    cases.push(name_case("session_name_empty", "\"\""));
    cases.push(name_case("session_name_not_terminated", "fill x"));
    cases.push(stolen_list());
    Suite::new("damage", cases)
}

/// One of the shared states, on which no memfd depends.
pub fn flb_suite() -> Suite {
    let lines = &["flb 0 name = fill x", "flb 1 count = 0xffffffffffffffff"];
    let case = flbs_case("name_not_terminated", lines).hazard("1D.7");
    alone("damage_flb", case)
}

/// The page of all shared states.
pub fn flbs_suite() -> Suite {
    let case = flbs_case("count", &["flbs count = 0xffffffff"]);
    alone("damage_flbs", case)
}

/// The previous kernel had no shared states.
pub fn no_flbs_suite() -> Suite {
    const NAME: &str = "no_shared_state";
    let case = Case::two(
        NAME,
        |stage| {
            damage(NAME, &["flbs count = 0"])?;
            preserve(stage, NAME, small()?)
        },
        |_| {
            let session = retrieve(NAME)?;
            check_fate(&session, Fate::Intact)?;
            session.finish()?;
            let log = kernel_log()?;
            ensure!(
                !log.contains("refcount_t:") && !log.contains("WARNING:"),
                "FINISH has caused a warning"
            );
            healthy(NAME)
        },
    )
    .hazard("1C.5")
    .reader_only();
    alone("damage_no_flbs", case)
}

/// The list of sessions is damaged: the sessions after the damage are lost.
fn sessions_case() -> Case {
    const NAME: &str = "list_nowhere";
    Case::two(
        NAME,
        |stage| {
            let line = format!("root sessions = {NOWHERE}");
            damage(NAME, &[&line])?;
            preserve(stage, NAME, small()?)
        },
        |_| {
            healthy(NAME)?;
            expect_errno(
                Device::open()?.retrieve_session(NAME),
                Errno::NOENT,
                "RETRIEVE_SESSION",
            )?;
            reported(&["luo:", "list of", "sessions is damaged"])
        },
    )
    .hazard("1D.1")
    .reader_only()
}

/// A case that makes all other cases lose their sessions.
fn alone(name: &'static str, case: Case) -> Suite {
    Suite {
        // A suite with parameters only runs if it is named.
        cmdline: "liveupdate=on",
        ..Suite::new(name, vec![case])
    }
}

pub fn sessions_suite() -> Suite {
    alone("damage_sessions", sessions_case())
}

/// The next kernel has another version. It logs this, does not change the data, and works; `off`
/// is whether live updates are disabled there.
fn version_case(name: &'static str, off: bool) -> Case {
    const LEN: u64 = 64 << 20;
    Case::two(
        name,
        move |stage| {
            damage(name, &["root compatible = \"luo-v6\""])?;
            if off {
                kexec::add_param("liveupdate=off")?;
            }
            stage.put("total", meminfo::line("MemTotal")?)?;
            let file = memfd::with(Pattern::new(603, LEN))?;
            preserve(stage, name, file)
        },
        move |stage| {
            reported(&["luo:", "cannot use", "stays reserved"])?;
            let lost = stage
                .get("total")?
                .saturating_sub(meminfo::line("MemTotal")?);
            ensure!(lost >= LEN / 1024, "only {lost} KiB are reserved");
            if off {
                ensure_eq!(
                    fs::exists("/dev/liveupdate").ok(),
                    Some(false),
                    "the existence of the device"
                );
                return Ok(());
            }
            expect_errno(
                Device::open()?.retrieve_session(name),
                Errno::NOENT,
                "RETRIEVE_SESSION",
            )?;
            healthy(name)
        },
    )
    .hazard("1A.13")
    .reader_only()
}

const UNREAD: &str = "/sys/kernel/liveupdate/unread";
const REFUSED: &str = "the kexec is refused";
const LOST: &str = "is lost";

/// Feature masks, which a later format may have instead of a version: supported, required, and
/// active features.
const FEATURE_MASKS: [&str; 3] = [
    "root compatible = 7",
    "root number = 1",
    "root sessions = 3",
];

/// A kexec does not drop data that the kernel keeps, unless the administrator permits it.
fn not_dropped(name: &'static str) -> Case {
    const LEN: u64 = 64 << 20;
    let is_kept = || -> Result {
        expect_errno(
            Err::<(), _>(kexec::try_jump()),
            Errno::INVAL,
            "reboot(KEXEC)",
        )?;
        let text = fs::read_to_string(UNREAD).at(UNREAD)?;
        ensure_eq!(text.trim(), "keep", "the contents of {UNREAD}");
        let log = kernel_log()?;
        ensure!(log.contains(REFUSED), "the kernel log has no reason");
        ensure!(!log.contains(LOST), "the kernel log reports a loss");
        Ok(())
    };
    let total = |stage: &Stage<'_>| stage.put("total", meminfo::line("MemTotal")?);
    Case::with_parts(
        name,
        vec![
            Box::new(move |stage| {
                damage(name, &FEATURE_MASKS)?;
                kexec::add_param("liveupdate=off")?;
                preserve(stage, name, memfd::with(Pattern::new(603, LEN))?)
            }),
            Box::new(move |stage| {
                reported(&["luo:", "cannot use", "stays reserved"])?;
                // Live updates are disabled, and this image cannot take over data.
                kexec::load_legacy().at("kexec_load")?;
                is_kept()?;
                total(stage)?;
                kexec::add_param("liveupdate=on")
            }),
            Box::new(move |stage| {
                let before: u64 = stage.get("total")?;
                let now = meminfo::line("MemTotal")?;
                ensure!(now < before + LEN / 2048, "the memory was dropped");
                let session = create(name)?;
                kexec::Plan::dry()?.load()?;
                is_kept()?;
                let nonsense = fs::write(UNREAD, "nonsense");
                expect_errno(nonsense, Errno::INVAL, "writing an unknown word")?;
                fs::write(UNREAD, "drop\n").at(UNREAD)?;
                let text = fs::read_to_string(UNREAD).at(UNREAD)?;
                ensure_eq!(text.trim(), "drop", "the contents of {UNREAD}");
                stage.hold(session);
                total(stage)
            }),
            Box::new(move |stage| {
                let before: u64 = stage.get("total")?;
                let now = meminfo::line("MemTotal")?;
                ensure!(now >= before + LEN / 2048, "the memory was not dropped");
                ensure!(!fs::exists(UNREAD).at(UNREAD)?, "there is data left");
                Ok(retrieve(name)?.finish()?)
            }),
        ],
    )
    .hazard("5.7")
    .hazard("5.17")
    .hazard("1A.13")
    .reader_only()
}

/// A suite of its own, since live updates are disabled in the second kernel.
pub fn not_dropped_suite() -> Suite {
    alone("damage_version_kept", not_dropped("other_version_is_kept"))
}

pub fn version_suite() -> Suite {
    alone("damage_version", version_case("other_version", false))
}

/// A suite of its own, since live updates are disabled in the second kernel.
pub fn version_off_suite() -> Suite {
    alone(
        "damage_version_off",
        version_case("other_version_and_off", true),
    )
}
