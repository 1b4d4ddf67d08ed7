// SPDX-License-Identifier: GPL-2.0

//! The numbered frames that the driver of the machine sends all the time, and those it gets.
//!
//! It starts with the first frame that it gets. Its frames have a number that is one more than in the
//! frame before, and the number of frames that it has received.

use super::{word, Igb, FRAME};
use crate::support::error::{ensure, ensure_eq, At, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// The message of a failure that does not tell anything about the kernel: the ring was too small for
/// the rate of the sender. The driver of the machine repeats the run.
pub const FULL: &str = "the ring was full";

/// When there are no frames any more.
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
    /// How many frames its sender has received.
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

/// A device that works, and the frames that it exchanges.
pub struct Link(pub Igb);

impl Link {
    fn count(&self, word: usize) -> u64 {
        self.0.memory.read_long(word)
    }

    /// How many frames were received.
    pub fn received(&self) -> u64 {
        self.count(word::RECEIVED)
    }

    /// Receives the next frame, if there is one, and checks that it is the next of the sender.
    fn poll(&self) -> Result<Option<Frame>> {
        let Some(bytes) = self.0.receive()? else {
            return Ok(None);
        };
        let frame = Frame::parse(&bytes)?;
        let number = self.received() + 1;
        ensure_eq!(frame.number, number, "the number of a frame");
        self.0.memory.write_long(word::RECEIVED, number);
        Ok(Some(frame))
    }

    /// Receives frames until one is the last one.
    fn receive_until(&self, mut last: impl FnMut(Frame) -> bool) -> Result {
        let mut heard = Instant::now();
        loop {
            match self.poll()? {
                Some(frame) if last(frame) => return self.0.replenish(),
                Some(_) => heard = Instant::now(),
                None => {
                    self.0.replenish()?;
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
        self.0.replenish()
    }

    /// Sends `count` frames.
    pub fn send(&self, count: u64) -> Result {
        for _ in 0..count {
            let frame = Frame {
                number: self.count(word::SENT) + 1,
                received: self.received(),
            };
            self.0.send(frame.bytes())?;
        }
        Ok(())
    }

    /// Receives frames until the sender says that it has all frames that were sent to it.
    pub fn receive_answer(&self) -> Result {
        let sent = self.count(word::SENT);
        self.receive_until(|frame| frame.received >= sent)
    }

    /// Fails unless a frame raises the interrupt.
    pub fn interrupts(&self) -> Result {
        let counter = self.0.enable_interrupt()?;
        let mut fds = [PollFd::new(&counter, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: SILENCE.as_secs() as i64,
            tv_nsec: 0,
        };
        let ready = rustix::event::poll(&mut fds, Some(&timeout)).at("poll")?;
        ensure!(ready == 1, "no interrupt");
        self.0.disable_interrupt()?;
        self.drain()
    }
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
