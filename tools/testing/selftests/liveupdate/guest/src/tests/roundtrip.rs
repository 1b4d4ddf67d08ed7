// SPDX-License-Identifier: GPL-2.0

//! A mix of sessions and files that every kernel with live updates supports.

use crate::support::{
    error::{ensure_eq, At, Result},
    memfd,
    pattern::{Pattern, Random},
    registry::{Case, Suite},
    sessions::{create, hold_files, retrieve},
};
use liveupdate::NAME_MAX;
use rustix::fs::SealFlags;
use std::fs::File;

/// A file of the mix.
struct Item {
    token: u64,
    pattern: Pattern,
    /// The size of the hole after the pattern, in bytes.
    hole: u64,
    position: u64,
    seals: SealFlags,
}

impl Item {
    fn make(&self) -> Result<File> {
        let file = memfd::with(self.pattern)?;
        file.set_len(self.pattern.len + self.hole)
            .at("set the size")?;
        memfd::seek(&file, self.position)?;
        if !self.seals.is_empty() {
            memfd::seal(&file, self.seals)?;
        }
        Ok(file)
    }

    fn check(&self, file: &File) -> Result {
        ensure_eq!(memfd::len(file)?, self.pattern.len + self.hole, "the size");
        ensure_eq!(memfd::position(file)?, self.position, "the position");
        ensure_eq!(memfd::seals(file)?, self.seals, "the set of seals");
        self.pattern.check(file, 0)?;
        let zeros = vec![0; self.hole as usize];
        let mut found = vec![1; self.hole as usize];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut found, self.pattern.len)
            .at("read the hole")?;
        ensure_eq!(found == zeros, true, "the emptiness of the hole");
        Ok(())
    }
}

/// The files of the session number `session`.
fn items(session: u64) -> Vec<Item> {
    const SIZES: [u64; 9] = [
        0,
        1,
        4095,
        4096,
        4097,
        65_536,
        100_000,
        (2 << 20) + 1,
        5 << 20,
    ];
    let seals = [
        SealFlags::empty(),
        SealFlags::SEAL,
        SealFlags::SHRINK,
        SealFlags::GROW,
        SealFlags::WRITE,
        SealFlags::FUTURE_WRITE,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    ];
    let mut random = Random::new(session + 1);
    let count = 1 + session * 7 % 20;
    (0..count)
        .map(|i| {
            let choice = |len: usize| ((i + session) % len as u64) as usize;
            let len = SIZES.get(choice(SIZES.len())).copied().unwrap_or(0);
            Item {
                token: random.number(),
                pattern: Pattern::new((session << 16) | i, len),
                hole: if i % 3 == 0 { 12_345 } else { 0 },
                position: random.number() % (len + 10),
                seals: seals
                    .get(choice(seals.len()))
                    .copied()
                    .unwrap_or(SealFlags::empty()),
            }
        })
        .collect()
}

const SESSIONS: u64 = 8;

fn name(session: u64) -> String {
    let name = format!("roundtrip-{session}-");
    // Short names and names of the greatest length.
    match session % 2 {
        0 => name,
        _ => format!("{name:x<NAME_MAX$}"),
    }
}

fn mix() -> Case {
    Case::two(
        "mix",
        |stage| {
            for number in 0..SESSIONS {
                let session = create(&name(number))?;
                for item in items(number) {
                    let file = item.make()?;
                    session.preserve(&file, item.token)?;
                    stage.hold(file);
                }
                stage.hold(session);
            }
            Ok(())
        },
        |stage| {
            let mut count = 0;
            for number in (0..SESSIONS).rev() {
                let session = retrieve(&name(number))?;
                for item in items(number).iter().rev() {
                    let file = session.retrieve(item.token)?.into();
                    item.check(&file)
                        .at(format_args!("session {number}, file {:#x}", item.token))?;
                    count += 1;
                }
                session.finish()?;
            }
            stage.note(format_args!(
                "{count} files in {SESSIONS} sessions verified"
            ));
            Ok(())
        },
    )
}

fn content_changed_late() -> Case {
    let (old, new) = (Pattern::new(801, 200_000), Pattern::new(802, 100_000));
    Case::two(
        "written_and_moved_after_preserve",
        move |stage| {
            let session = create("roundtrip-late")?;
            let file = memfd::with(old)?;
            session.preserve(&file, 1)?;
            new.write(&file, 50_000)?;
            memfd::seek(&file, 4242)?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("roundtrip-late")?;
            let file = session.retrieve(1)?.into();
            ensure_eq!(memfd::len(&file)?, old.len, "the size");
            ensure_eq!(memfd::position(&file)?, 4242, "the position");
            new.check(&file, 50_000)?;
            Ok(session.finish()?)
        },
    )
}

/// Files whose list needs several pages.
fn many_small() -> Case {
    let pattern = |token| Pattern::new(5000 + token, token * 11);
    Case::two(
        "200_small_files",
        move |stage| hold_files(stage, "roundtrip-many", 0..200, pattern),
        move |_| {
            let session = retrieve("roundtrip-many")?;
            for token in (0..200).rev() {
                memfd::check(session.retrieve(token)?, pattern(token))
                    .at(format_args!("file {token}"))?;
            }
            Ok(session.finish()?)
        },
    )
}

/// Sessions whose list needs several pages.
fn many_sessions() -> Case {
    let name = |i: u64| format!("roundtrip-many-{i}");
    Case::two(
        "120_sessions",
        move |stage| {
            for i in 0..120 {
                let session = create(&name(i))?;
                session.preserve(memfd::with(Pattern::new(6000 + i, 64))?, i)?;
                stage.hold(session);
            }
            Ok(())
        },
        move |_| {
            for i in 0..120 {
                let session = retrieve(&name(i))?;
                memfd::check(session.retrieve(i)?, Pattern::new(6000 + i, 64))?;
                session.finish()?;
            }
            Ok(())
        },
    )
}

/// The suite of the matrix.
pub fn suite() -> Suite {
    let cases = vec![mix(), content_changed_late(), many_small(), many_sessions()];
    Suite {
        group: "matrix",
        ..Suite::new("roundtrip", cases)
    }
}
