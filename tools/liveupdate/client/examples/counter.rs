// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A counter that survives live updates.
//!
//! It counts in a memfd, ten times a second, and prints the counter. Run as `counter [SOCKET [NAME
//! [refuse|hang|crash|late-refuse|late-hang]]]`; the last argument makes it fail in the first
//! update: with `late-` when luod pauses it, since all others are ready, and otherwise when it is
//! to preserve.

use liveupdate::luod::{Member, Participant, Result, SessionName, SOCKET_PATH};
use liveupdate::{IncomingSession, OutgoingSession};
use rustix::fs::{memfd_create, MemfdFlags};
use std::{
    env,
    fs::File,
    io,
    os::unix::fs::FileExt,
    thread::sleep,
    time::{Duration, Instant},
};

struct Counter {
    memory: File,
    counting: bool,
    misbehave: Option<String>,
    /// How it fails when it is paused.
    late: Option<String>,
}

impl Counter {
    fn value(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, 0)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn count(&self) -> io::Result<()> {
        let next = self.value()? + 1;
        self.memory.write_all_at(&next.to_le_bytes(), 0)
    }
}

impl Participant for Counter {
    fn preserve(&mut self, id: &SessionName, session: &OutgoingSession) -> Result {
        match self.misbehave.take().as_deref() {
            Some("refuse") => return Err("I do not feel like it".into()),
            Some("hang") => sleep(Duration::from_secs(60)),
            Some("crash") => std::process::abort(),
            late => self.late = late.map(str::to_owned),
        }
        self.counting = false;
        session.preserve(&self.memory, 1)?;
        println!("{id}: preserved at {}", self.value()?);
        Ok(())
    }

    fn pauses(&self) -> bool {
        self.late.is_some()
    }

    fn pause(&mut self, _: &SessionName, _: &OutgoingSession) -> Result {
        match self.late.take().as_deref() {
            Some("late-refuse") => Err("I have changed my mind".into()),
            _ => {
                sleep(Duration::from_secs(60));
                Ok(())
            }
        }
    }

    fn cancelled(&mut self, id: &SessionName, reason: &str) {
        println!("{id}: continues: {reason}");
        self.counting = true;
    }

    fn restore(&mut self, id: &SessionName, session: &IncomingSession) -> Result {
        self.memory = session.retrieve(1)?.into();
        println!("{id}: restored at {}", self.value()?);
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let mut args = env::args().skip(1);
    let socket = args.next().unwrap_or_else(|| SOCKET_PATH.into());
    let name = args.next().unwrap_or_else(|| "counter".into());
    let memory = File::from(memfd_create("counter", MemfdFlags::CLOEXEC)?);
    memory.write_all_at(&0_u64.to_le_bytes(), 0)?;
    let counter = Counter {
        memory,
        counting: true,
        misbehave: args.next(),
        late: None,
    };
    let mut member = Member::join_at(socket, &name, &[&name], counter)?;
    println!("{name}: joined at {}", member.participant().value()?);
    let mut next = Instant::now();
    loop {
        member.step(Some(next.saturating_duration_since(Instant::now())))?;
        if Instant::now() >= next {
            next += Duration::from_millis(100);
            if member.participant().counting {
                member.participant().count()?;
            }
        }
    }
}
