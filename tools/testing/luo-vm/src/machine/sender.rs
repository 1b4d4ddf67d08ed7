// SPDX-License-Identifier: GPL-2.0

//! A peer of a network card that user space in the machine drives: it sends numbered frames all the
//! time, whether the card takes them or not.
//!
//! It starts with the first frame that it gets. Both sides number their frames from 1 on, and say how
//! many they have received. If QEMU takes no frame, as the card has no buffer, does not write to
//! memory, or as the machine is busy, frames wait, or are lost, see [`Refused`]. [`Counter`] tells how
//! many QEMU has taken so far.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The length of all frames.
const FRAME: usize = 64;

/// The address of the card, which takes all frames.
const ADDRESS: &str = "52:54:00:12:34:01";

/// Broadcast, from a local address, of the first type for local experiments.
const HEADER: [u8; 14] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0x4c, 0x55, 0x4f, 0x88, 0xb5,
];

/// The time between two readings of the clock.
const PAUSE: Duration = Duration::from_millis(1);

/// What becomes of frames that QEMU does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// They wait, in order.
    Wait,
    /// They are lost, as in a network.
    Lost,
}

/// What this side has sent and received.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The number of frames that QEMU took.
    pub sent: u64,
    /// The number of frames that came from the card.
    pub received: u64,
    /// When QEMU took frames, and when frames came from the card.
    pub taken: Times,
    pub heard: Times,
    /// The numbers of the frames that were lost.
    lost: Vec<u64>,
    /// The first frame that was not the expected one.
    fault: Option<String>,
}

/// When something happened, in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Times(Vec<Instant>);

impl Times {
    fn add(&mut self) {
        self.0.push(Instant::now());
    }

    /// The longest time without, some of which was between `from` and `to`.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Option<Duration> {
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        pairs
            .filter(|(start, end)| **start < to && **end > from)
            .map(|(start, end)| *end - *start)
            .max()
    }
}

impl Outcome {
    /// Takes a frame from the card.
    fn take(&mut self, bytes: &[u8]) {
        let expected = self.received + 1;
        let number = bytes
            .strip_prefix(&HEADER)
            .and_then(|content| Some(u64::from_le_bytes(*content.first_chunk()?)));
        if bytes.len() != FRAME || number != Some(expected) {
            let what = format!("expected frame {expected}, received {bytes:x?}");
            self.fault.get_or_insert(what);
        }
        self.received = expected;
    }

    /// How many of the frames up to the one with the number `last` were lost.
    pub fn lost(&self, last: u64) -> u64 {
        self.lost.iter().filter(|number| **number <= last).count() as u64
    }

    /// Returns what was wrong with the frames from the card, if anything was.
    pub fn complaint(&self) -> Option<String> {
        match &self.fault {
            Some(fault) => Some(fault.clone()),
            None if self.received == 0 => Some("no frame came from the card".to_owned()),
            None => None,
        }
    }
}

/// The frame with the number `number`.
fn frame(number: u64, received: u64) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let [header, numbers @ ..] = [&HEADER[..], &number.to_le_bytes(), &received.to_le_bytes()];
    frame[..HEADER.len()].copy_from_slice(header);
    for (to, from) in frame[HEADER.len()..].chunks_exact_mut(8).zip(numbers) {
        to.copy_from_slice(from);
    }
    frame
}

/// The number of frames that QEMU has taken so far.
#[derive(Debug, Default, Clone)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A thread that sends and receives.
pub struct Sender {
    /// The socket of this side, and the one of QEMU.
    sockets: [PathBuf; 2],
    ends: Arc<AtomicBool>,
    counter: Counter,
    thread: JoinHandle<Outcome>,
}

impl Sender {
    /// Starts the thread, which sends `rate` frames a second. The names of its sockets begin with
    /// `path`.
    pub fn start(path: &Path, rate: u32, refused: Refused) -> Result<Self> {
        let sockets = ["peer", "card"].map(|end| path.with_extension(end));
        for socket in &sockets {
            let _ = fs::remove_file(socket);
        }
        let socket = UnixDatagram::bind(&sockets[0])
            .with_context(|| format!("create the socket {}", sockets[0].display()))?;
        socket.set_nonblocking(true)?;
        let ends = Arc::new(AtomicBool::new(false));
        let counter = Counter::default();
        let mut work = Work {
            socket,
            card: sockets[1].clone(),
            rate,
            refused,
            started: None,
            numbered: 0,
            waiting: VecDeque::new(),
            counter: counter.clone(),
            outcome: Outcome::default(),
        };
        let end = ends.clone();
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                work.step();
                thread::sleep(PAUSE);
            }
            work.outcome
        });
        Ok(Self {
            sockets,
            ends,
            counter,
            thread,
        })
    }

    /// Counts the frames that QEMU has taken.
    pub fn counter(&self) -> Counter {
        self.counter.clone()
    }

    /// The QEMU options for the network card.
    pub fn devices(&self) -> [String; 4] {
        let [peer, card] = self.sockets.each_ref().map(|path| path.display());
        [
            "-netdev".to_owned(),
            format!(
                "dgram,id=frames,local.type=unix,local.path={card},remote.type=unix,remote.path={peer}"
            ),
            "-device".to_owned(),
            format!("igb,bus=above,netdev=frames,mac={ADDRESS}"),
        ]
    }

    /// Ends the thread.
    pub fn end(self) -> Outcome {
        self.ends.store(true, Ordering::Relaxed);
        let outcome = self.thread.join().unwrap_or_default();
        for socket in &self.sockets {
            let _ = fs::remove_file(socket);
        }
        outcome
    }
}

/// The state of the thread.
struct Work {
    socket: UnixDatagram,
    card: PathBuf,
    rate: u32,
    refused: Refused,
    /// When the first frame came.
    started: Option<Instant>,
    /// The number of frames that were numbered.
    numbered: u64,
    /// The numbers of those that were not sent.
    waiting: VecDeque<u64>,
    counter: Counter,
    outcome: Outcome,
}

impl Work {
    /// Receives and sends without blocking.
    fn step(&mut self) {
        // One byte more than a frame: a longer one is a fault.
        let mut bytes = [0; FRAME + 1];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            self.outcome.take(&bytes[..length]);
            self.outcome.heard.add();
            self.started.get_or_insert_with(Instant::now);
        }
        let elapsed = self.started.map_or(Duration::ZERO, |time| time.elapsed());
        self.number(elapsed);
        while let Some(number) = self.waiting.front() {
            let frame = frame(*number, self.outcome.received);
            if self.send(&frame).is_err() {
                if self.refused == Refused::Lost {
                    self.outcome.lost.extend(self.waiting.drain(..));
                }
                break;
            }
            self.waiting.pop_front();
            self.outcome.sent += 1;
            self.outcome.taken.add();
            self.counter.0.store(self.outcome.sent, Ordering::Relaxed);
        }
    }

    /// Numbers the frames of the time that has elapsed.
    fn number(&mut self, elapsed: Duration) {
        let due = (elapsed.as_secs_f64() * f64::from(self.rate)) as u64;
        self.waiting.extend(self.numbered + 1..=due);
        self.numbered = due;
    }

    fn send(&self, frame: &[u8]) -> io::Result<usize> {
        self.socket.send_to(frame, &self.card)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(frames: &[&[u8]]) -> Outcome {
        let mut outcome = Outcome::default();
        for frame in frames {
            outcome.take(frame);
        }
        outcome
    }

    #[test]
    fn frames_in_order_are_good() {
        let good = outcome(&[&frame(1, 0), &frame(2, 7)]);
        assert_eq!((good.received, good.complaint()), (2, None));
    }

    #[test]
    fn other_frames_are_faults() {
        assert!(outcome(&[]).complaint().is_some());
        assert!(outcome(&[&frame(2, 0)]).complaint().is_some());
        assert!(outcome(&[&frame(1, 0), &frame(1, 0)]).complaint().is_some());
        assert!(outcome(&[&frame(1, 0)[1..]]).complaint().is_some());
        assert!(outcome(&[b"short"]).complaint().is_some());
    }

    #[test]
    fn gaps_are_found() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let times = Times([0, 9, 10, 13, 14].map(at).to_vec());
        assert_eq!(times.longest_gap(at(9), at(14)), Some(at(3) - start));
        assert_eq!(times.longest_gap(at(8), at(14)), Some(at(9) - start));
        assert_eq!(times.longest_gap(at(14), at(20)), None);
    }

    #[test]
    fn frames_wait_for_qemu() {
        let mut work = Work {
            socket: UnixDatagram::unbound().unwrap(),
            card: PathBuf::new(),
            rate: 1000,
            refused: Refused::Wait,
            started: None,
            numbered: 0,
            waiting: VecDeque::new(),
            counter: Counter::default(),
            outcome: Outcome::default(),
        };
        work.number(Duration::from_millis(400));
        assert_eq!(work.waiting.len(), 400);
        work.number(Duration::from_millis(700));
        assert_eq!(work.waiting.front(), Some(&1));
        assert_eq!(work.waiting.back(), Some(&700));
        assert_eq!(work.counter.get(), 0);
    }

    #[test]
    fn frames_are_lost() {
        let mut work = Work {
            socket: UnixDatagram::unbound().unwrap(),
            card: PathBuf::new(),
            rate: 1,
            refused: Refused::Lost,
            started: Instant::now().checked_sub(Duration::from_secs(10)),
            numbered: 0,
            waiting: VecDeque::new(),
            counter: Counter::default(),
            outcome: Outcome::default(),
        };
        work.socket.set_nonblocking(true).unwrap();
        work.step();
        assert!(work.waiting.is_empty());
        assert_eq!(work.outcome.lost(4), 4);
        assert!(work.outcome.lost(u64::MAX) >= 10);
    }
}
