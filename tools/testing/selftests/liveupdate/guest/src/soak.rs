// SPDX-License-Identifier: GPL-2.0

//! Consecutive kexecs, with random sessions and files.
//!
//! The seed and the number of the stage determine the data to hand over, so that the next kernel
//! can verify it without further data.

use crate::support::{
    args::Args,
    error::{ensure, ensure_eq, At, Failure, Result},
    kexec, memfd, meminfo,
    pattern::{Pattern, Random},
};
use liveupdate::{Device, IncomingSession};
use rustix::fs::SealFlags;
use std::{cmp::Ordering, fs::File, os::fd::OwnedFd};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A memfd: pieces of data with holes between them.
struct Wanted {
    token: u64,
    len: u64,
    pieces: Vec<(u64, Pattern)>,
    /// Data that is written after the file was preserved.
    late: Option<(u64, Pattern)>,
    position: u64,
    seals: SealFlags,
}

struct Session {
    name: String,
    files: Vec<Wanted>,
    /// The number of further kernels in which it is left unfinished.
    waits: usize,
    /// Its use in those kernels.
    between: Between,
}

#[derive(Clone, Copy)]
enum Between {
    Untouched,
    Opened,
    /// The first file is retrieved.
    Begun,
}

impl Between {
    const ALL: [Self; 3] = [Self::Untouched, Self::Opened, Self::Begun];
}

/// The sessions that the kernel of `stage` hands over.
fn plan(seed: u64, stage: u64) -> Vec<Session> {
    let mut random = Random::new(seed.wrapping_add(stage.wrapping_mul(0x1_0000)));
    let mut below = move |limit: u64| random.number() % limit;
    let mut pattern_seed = stage << 32;
    let sessions = 1 + below(5);
    let mut plan = Vec::new();
    for number in 0..sessions {
        let mut files = Vec::new();
        for token in 0..below(8) {
            // Most files are small, and some have holes of gigabytes.
            let len = match below(10) {
                0 => 0,
                1..=5 => 1 + below(64 * 1024),
                6..=8 => 1 + below(6 * MIB),
                _ => (1 << 32) + below(1 << 33),
            };
            let mut pieces = Vec::new();
            let mut at = 0;
            for _ in 0..1 + below(4) {
                let room = len.saturating_sub(at).min(3 * MIB);
                if room == 0 {
                    break;
                }
                pattern_seed += 1;
                let pattern = Pattern::new(pattern_seed, 1 + below(room));
                pieces.push((at, pattern));
                at += pattern.len + below(40) * PAGE;
            }
            pattern_seed += 1;
            let late = (at < len && below(2) == 0).then(|| {
                let room = (len - at).min(100_000);
                (at, Pattern::new(pattern_seed, 1 + below(room)))
            });
            let seals = [
                SealFlags::empty(),
                SealFlags::GROW | SealFlags::SHRINK,
                SealFlags::FUTURE_WRITE | SealFlags::SEAL,
            ];
            files.push(Wanted {
                token: token * 7,
                len,
                pieces,
                late,
                position: below(len + 2),
                seals: seals[below(3) as usize],
            });
        }
        plan.push(Session {
            name: format!("soak-{stage}-{number}"),
            files,
            waits: below(10).saturating_sub(6) as usize,
            between: Between::ALL[below(3) as usize],
        });
    }
    plan
}

impl Wanted {
    fn make(&self) -> Result<File> {
        let file = memfd::new()?;
        file.set_len(self.len).at("set the size")?;
        for (at, pattern) in &self.pieces {
            pattern.write(&file, *at)?;
        }
        Ok(file)
    }

    /// Data that may be written after the file was preserved.
    fn change(&self, file: &File) -> Result {
        if let Some((at, pattern)) = self.late {
            pattern.write(file, at)?;
        }
        memfd::seek(file, self.position)?;
        memfd::seal(file, self.seals)
    }

    fn check(&self, fd: OwnedFd) -> Result {
        let file = File::from(fd);
        ensure_eq!(memfd::len(&file)?, self.len, "the size");
        ensure_eq!(memfd::position(&file)?, self.position, "the position");
        ensure_eq!(memfd::seals(&file)?, self.seals, "the seals");
        for (at, pattern) in self.pieces.iter().chain(&self.late) {
            pattern.check(&file, *at)?;
        }
        Ok(())
    }
}

/// The maximum number of kernels in which a session is unfinished.
const MOST_WAITS: usize = 3;

impl Session {
    /// Retrieves all files.
    fn verify(&self) -> Result<(u64, u64)> {
        let (mut files, mut bytes) = (0, 0);
        let session = self.retrieve()?;
        for file in &self.files {
            let fd = session.retrieve(file.token).at(self.context(file.token))?;
            file.check(fd).map_err(|failure| {
                Failure::new(format!("{}: {failure}", self.context(file.token)))
            })?;
            files += 1;
            bytes += file
                .pieces
                .iter()
                .chain(&file.late)
                .map(|(_, pattern)| pattern.len)
                .sum::<u64>();
        }
        session.finish()?;
        Ok((files, bytes))
    }

    /// Leaves the session for a later kernel.
    fn leave(&self) -> Result {
        if matches!(self.between, Between::Untouched) {
            return Ok(());
        }
        let session = self.retrieve()?;
        if let (Between::Begun, Some(file)) = (self.between, self.files.first()) {
            let fd = session.retrieve(file.token).at(self.context(file.token))?;
            file.check(fd)?;
        }
        Ok(())
    }

    fn retrieve(&self) -> Result<IncomingSession> {
        Device::open()?
            .retrieve_session(&self.name)
            .at(format_args!("session {}", self.name))
    }

    fn context(&self, token: u64) -> String {
        format!("session {}, token {token}", self.name)
    }
}

/// Retrieves sessions of earlier kernels, and leaves some for later ones.
fn verify(seed: u64, stage: usize) -> Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for from in stage.saturating_sub(1 + MOST_WAITS).max(1)..stage {
        for session in plan(seed, from as u64) {
            let due = from + 1 + session.waits;
            match due.cmp(&stage) {
                Ordering::Less => {}
                Ordering::Equal => {
                    let (more_files, more_bytes) = session.verify()?;
                    files += more_files;
                    bytes += more_bytes;
                }
                Ordering::Greater => session.leave()?,
            }
        }
    }
    Ok((files, bytes))
}

/// Runs one stage, and starts the next one.
pub fn run(args: &Args) -> Result<u8> {
    let stage = args.stage()?;
    let count = args.number("count", 5)? as usize;
    let seed = args.number("seed", 1)?;
    let number = stage as u64;

    if stage > 1 {
        let (files, bytes) = verify(seed, stage)?;
        println!(
            "@soak {} files {files} bytes {bytes} free {}",
            stage - 1,
            meminfo::free_without_caches()?
        );
    }
    if stage > count {
        println!("@soak done {count}");
        return Ok(0);
    }
    let mut held = Vec::new();
    for wanted in plan(seed, number) {
        let session = Device::open()?.create_session(&wanted.name)?;
        for file in &wanted.files {
            let memfd = file.make()?;
            session.preserve(&memfd, file.token)?;
            file.change(&memfd)?;
            held.push(memfd);
        }
        // A session that is closed again, and one with files of other handlers.
        if Random::new(seed ^ number).number() % 3 == 0 {
            let other = Device::open()?.create_session("soak-given-up")?;
            let memfd = memfd::with(Pattern::new(number, 300_000))?;
            other.preserve(&memfd, 1)?;
        }
        std::mem::forget(session);
    }
    if Random::new(seed.wrapping_mul(3) ^ number).number() % 4 == 0 {
        kexec::load_legacy().at("kexec_load")?;
        let error = kexec::try_jump();
        ensure!(
            liveupdate::errno(&error) == Some(libc::EINVAL),
            "an image without handover: {error}"
        );
    }
    kexec::Plan::stage(args, stage + 1)?.load()?;
    Err(kexec::jump())
}
