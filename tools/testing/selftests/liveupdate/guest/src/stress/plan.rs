// SPDX-License-Identifier: GPL-2.0

//! The data that the next kernel must find.

use crate::support::{
    error::{ensure_eq, At, Failure, Result},
    memfd,
    pattern::Pattern,
    sessions::{create, retrieve},
};
use liveupdate::OutgoingSession;
use std::{collections::BTreeMap, fmt::Write, fs::File, io::Read};

/// The contents of a memfd: patterns and their offsets; all other bytes are 0.
#[derive(Clone, Default)]
pub struct Contents {
    pub len: u64,
    pub pieces: Vec<(u64, Pattern)>,
}

impl Contents {
    pub fn check(&self, file: &File) -> Result {
        ensure_eq!(memfd::len(file)?, self.len, "the size");
        for (at, pattern) in &self.pieces {
            pattern.check(file, *at)?;
        }
        Ok(())
    }
}

/// Sessions by name, and their files by token.
#[derive(Default)]
pub struct Plan(pub BTreeMap<String, BTreeMap<u64, Contents>>);

fn session_name(stage: u64) -> String {
    format!("stress-plan-{stage}")
}

impl Plan {
    /// Hands the plan itself over to the kernel of `stage`.
    pub fn send(&self, stage: u64) -> Result<(OutgoingSession, File)> {
        let mut text = String::new();
        for (name, files) in &self.0 {
            let _ = writeln!(text, "session {name}");
            for (token, contents) in files {
                let _ = write!(text, "{token} {}", contents.len);
                for (at, pattern) in &contents.pieces {
                    let _ = write!(text, " {at} {} {}", pattern.seed, pattern.len);
                }
                text.push('\n');
            }
        }
        let file = memfd::new()?;
        std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0).at("write the plan")?;
        let session = create(&session_name(stage))?;
        session.preserve(&file, 0)?;
        Ok((session, file))
    }

    /// Retrieves the plan that was [sent](Self::send) to the kernel of
    /// `stage`.
    pub fn receive(stage: u64) -> Result<Self> {
        let session = retrieve(&session_name(stage))?;
        let mut text = String::new();
        File::from(session.retrieve(0)?)
            .read_to_string(&mut text)
            .at("read the plan")?;
        session.finish()?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut plan = Self::default();
        let mut files = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("session ") {
                files = Some(plan.0.entry(name.to_owned()).or_default());
                continue;
            }
            let numbers = line.split(' ').map(str::parse);
            let numbers: Vec<u64> = numbers.collect::<std::result::Result<_, _>>()?;
            let (Some(files), [token, len, pieces @ ..]) = (&mut files, &numbers[..]) else {
                return Err(Failure::new(format!("the plan has the line '{line}'")));
            };
            let pieces = pieces
                .chunks_exact(3)
                .map(|piece| (piece[0], Pattern::new(piece[1], piece[2])))
                .collect();
            files.insert(*token, Contents { len: *len, pieces });
        }
        Ok(plan)
    }

    /// Retrieves and verifies all files, and returns their number.
    pub fn verify(&self) -> Result<usize> {
        for (name, files) in &self.0 {
            let session = retrieve(name).at(name)?;
            for (token, contents) in files {
                let place = format!("session {name}, token {token}");
                let file = session.retrieve(*token).at(&place)?;
                contents.check(&file.into()).at(&place)?;
            }
            session.finish().at(name)?;
        }
        Ok(self.0.values().map(BTreeMap::len).sum())
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn unknown_lines_are_refused() {
        assert!(Plan::parse("1 2").is_err());
        assert!(Plan::parse("session a\n1").is_err());
        assert!(Plan::parse("session a\n1 x").is_err());
    }

    #[test]
    fn a_plan_is_parsed() {
        let plan = Plan::parse("session a\n1 50 0 7 40\n2 0\nsession b\n").unwrap();
        assert_eq!(plan.0.len(), 2);
        let contents = &plan.0["a"][&1];
        assert_eq!((contents.len, contents.pieces.len()), (50, 1));
        assert_eq!(contents.pieces[0].1.seed, 7);
    }
}
