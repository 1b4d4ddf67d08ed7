// SPDX-License-Identifier: GPL-2.0

//! The numbered frames that the driver of the machine sends all the time, and those it gets.
//!
//! It starts with the first frame that it gets. Its frames have a number that is one more than in the
//! frame before, and the number of frames that it has received.

use super::{word, Igb, BATCH, FRAME};
use crate::support::error::{ensure, ensure_eq, At, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    os::fd::OwnedFd,
    thread::sleep,
    time::{Duration, Instant},
};

/// The message of a failure that does not tell anything about the kernel: the ring was too small for
/// the rate of the sender. The driver of the machine repeats the run.
const FULL: &str = "the ring was full";

/// The time after which no further frame is expected.
const SILENCE: Duration = Duration::from_secs(20);

/// Broadcast, from a local address, of the first type for local experiments.
const HEADER: [u8; 14] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0x4c, 0x55, 0x4f, 0x88, 0xb5,
];

/// A frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    /// Its number, from 1 on.
    number: u64,
    /// The number of frames that its sender has received.
    received: u64,
}

impl Frame {
    fn bytes(self) -> [u8; FRAME] {
        let mut bytes = [0; FRAME];
        let numbers = [self.number, self.received].map(u64::to_le_bytes);
        let content = HEADER.iter().chain(numbers.as_flattened());
        for (to, from) in bytes.iter_mut().zip(content) {
            *to = *from;
        }
        bytes
    }

    fn parse(bytes: &[u8; FRAME]) -> Result<Self> {
        let content = bytes.strip_prefix(&HEADER);
        let content = content.at(format_args!("a frame with another header: {bytes:x?}"))?;
        let mut numbers = content
            .chunks_exact(8)
            .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        Ok(Self {
            number: numbers.next().unwrap_or_default(),
            received: numbers.next().unwrap_or_default(),
        })
    }
}

/// What may happen if the ring is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// Nothing: the ring is large enough, and the sender keeps all frames until QEMU takes them.
    Large,
    /// The sender loses frames that QEMU does not take at once.
    Small,
}

/// A device that works, and the frames that it exchanges.
pub struct Link {
    pub igb: Igb,
    ring: Ring,
}

impl Link {
    pub fn new(igb: Igb, ring: Ring) -> Self {
        Self { igb, ring }
    }

    fn count(&self, word: usize) -> u64 {
        self.igb.memory.read_long(word)
    }

    /// The number of the last frame that was received.
    pub fn received(&self) -> u64 {
        self.count(word::RECEIVED)
    }

    /// How many frames before it were lost.
    pub fn lost(&self) -> u64 {
        self.count(word::LOST)
    }

    /// Receives the next frame, if there is one, and checks that it is the next of the sender.
    fn poll(&self) -> Result<Option<Frame>> {
        let Some(bytes) = self.igb.receive()? else {
            return Ok(None);
        };
        let frame = Frame::parse(&bytes)?;
        let expected = self.received() + 1;
        let memory = &self.igb.memory;
        match self.ring {
            Ring::Large => ensure_eq!(frame.number, expected, "the number of a frame"),
            Ring::Small => {
                let missing = frame.number.checked_sub(expected);
                let missing = missing.at("a frame that is older than the one before")?;
                memory.write_long(word::LOST, self.lost() + missing);
            }
        }
        memory.write_long(word::RECEIVED, frame.number);
        if self.igb.next() % BATCH == 0 {
            self.replenish()?;
        }
        Ok(Some(frame))
    }

    /// Gives the descriptors of all received frames back to the device. Fails if the device had none
    /// left, and may have lost frames.
    fn replenish(&self) -> Result {
        ensure!(self.ring == Ring::Small || !self.igb.is_full(), "{FULL}");
        self.igb.give_back();
        Ok(())
    }

    /// Receives frames until one is the last one.
    fn receive_until(&self, mut last: impl FnMut(Frame) -> bool) -> Result {
        let mut heard = Instant::now();
        loop {
            match self.poll()? {
                Some(frame) if last(frame) => return self.replenish(),
                Some(_) => heard = Instant::now(),
                None => {
                    self.replenish()?;
                    ensure!(heard.elapsed() < SILENCE, "no more frames");
                    sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// Receives `count` frames.
    pub fn receive(&self, count: u64) -> Result {
        let end = self.received() + count;
        self.receive_until(|frame| frame.number >= end)
    }

    /// Receives all frames that are in the ring.
    pub fn drain(&self) -> Result {
        while self.poll()?.is_some() {}
        self.replenish()
    }

    /// Sends `count` frames.
    pub fn send(&self, count: u64) -> Result {
        for _ in 0..count {
            let frame = Frame {
                number: self.count(word::SENT) + 1,
                received: self.received(),
            };
            self.igb.send(frame.bytes())?;
        }
        Ok(())
    }

    /// Receives frames until the sender reports that it has all frames that were sent to it.
    pub fn receive_answer(&self) -> Result {
        let sent = self.count(word::SENT);
        self.receive_until(|frame| frame.received >= sent)
    }

    /// Fails unless frames raise interrupts. If the device was taken over, the first one is not of a
    /// frame.
    pub fn interrupts(&self) -> Result {
        let counter = self.igb.enable_interrupt()?;
        for _ in 0..2 {
            interrupted(&counter)?;
            self.igb.acknowledge()?;
            self.drain()?;
        }
        self.igb.disable_interrupt()?;
        self.drain()
    }
}

/// Waits for an interrupt.
fn interrupted(counter: &OwnedFd) -> Result {
    let mut fds = [PollFd::new(counter, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: SILENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let ready = rustix::event::poll(&mut fds, Some(&timeout)).at("poll")?;
    ensure!(ready == 1, "no interrupt");
    rustix::io::read(counter, &mut [0; 8]).at("read an eventfd")?;
    Ok(())
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn frames_are_parsed() {
        let frame = Frame {
            number: 0x0102_0304_0506_0708,
            received: 9,
        };
        let mut bytes = frame.bytes();
        assert_eq!(bytes[14], 8);
        assert_eq!(Frame::parse(&bytes).unwrap(), frame);
        bytes[12] = 0;
        assert!(Frame::parse(&bytes).is_err());
    }
}
