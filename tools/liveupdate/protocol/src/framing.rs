// SPDX-License-Identifier: GPL-2.0

//! Lines from bytes and back, with descriptors.
//!
//! A UNIX stream has no boundaries: a line can come in pieces, and several can come at once. The
//! kernel returns descriptors with the piece that has the first byte of what they were sent with,
//! and nothing that was sent later is in that piece. Who sends descriptors with a part of one line
//! and nothing else, as [`Outbox`] does, can hence rely on this: the line that the last byte of
//! the piece belongs to is the line that they were sent with.

use crate::{Message, FDS_MAX};
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};
use serde::Serialize;
use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// How much is read at once.
const PIECE: usize = 16 * 1024;

/// What room for [`FDS_MAX`] descriptors takes.
const ROOM: usize = rustix::cmsg_space!(ScmRights(FDS_MAX));

/// Makes a line of a message, with the newline.
///
/// # Errors
///
/// Never with the messages of this library, which all can be JSON.
pub fn encode<T: Serialize>(message: &Message<T>) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// A line, without its newline, and the descriptors that came with it.
#[derive(Debug)]
pub struct Frame {
    /// The line.
    pub line: Vec<u8>,
    /// The descriptors. They are closed if nobody takes them.
    pub fds: Vec<OwnedFd>,
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A line is too long.
    LineTooLong,
    /// More than [`FDS_MAX`] descriptors came with one line.
    TooManyFds,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LineTooLong => write!(f, "a line is too long"),
            Self::TooManyFds => write!(f, "a line has too many descriptors"),
        }
    }
}

impl Error for FrameError {}

/// What became of an attempt to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Something came.
    Some,
    /// There is nothing now.
    Nothing,
    /// The other side has closed the connection.
    End,
}

/// Finds lines in a stream of bytes and descriptors.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// The line that has no end yet.
    partial: Vec<u8>,
    /// What came with it.
    fds: Vec<OwnedFd>,
    frames: VecDeque<Frame>,
    error: Option<FrameError>,
}

impl Decoder {
    /// Makes a decoder for lines of up to `limit` bytes, with the newline.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            partial: Vec::new(),
            fds: Vec::new(),
            frames: VecDeque::new(),
            error: None,
        }
    }

    /// Takes a piece of the stream, as one call of `recvmsg` returned it.
    ///
    /// Nothing is taken any more after an error, which [`Self::next_frame`] reports.
    pub fn push(&mut self, piece: &[u8], fds: Vec<OwnedFd>) {
        if self.error.is_some() {
            return;
        }
        let mut fds = Some(fds);
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end + 1);
            if after.is_empty() {
                self.fds.extend(fds.take().into_iter().flatten());
            }
            if !self.append(line) {
                return;
            }
            self.complete();
            rest = after;
        }
        if !rest.is_empty() {
            self.fds.extend(fds.take().into_iter().flatten());
            self.append(rest);
        }
    }

    /// Adds to the current line; false if that is not possible.
    fn append(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.limit.saturating_sub(self.partial.len()) {
            self.error = Some(FrameError::LineTooLong);
        } else if self.fds.len() > FDS_MAX {
            self.error = Some(FrameError::TooManyFds);
        } else {
            self.partial.extend_from_slice(bytes);
            return true;
        }
        self.partial = Vec::new();
        self.fds = Vec::new();
        false
    }

    /// Ends the current line.
    fn complete(&mut self) {
        let mut line = std::mem::take(&mut self.partial);
        let fds = std::mem::take(&mut self.fds);
        line.pop();
        if !line.iter().all(u8::is_ascii_whitespace) {
            self.frames.push_back(Frame { line, fds });
        }
    }

    /// Returns the next line that is there. Lines before an error come before it, empty lines not
    /// at all.
    ///
    /// # Errors
    ///
    /// If the stream is beyond repair; again and again.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        match (self.frames.pop_front(), self.error) {
            (Some(frame), _) => Ok(Some(frame)),
            (None, None) => Ok(None),
            (None, Some(error)) => Err(error),
        }
    }

    /// Reads once from a socket, without waiting.
    ///
    /// # Errors
    ///
    /// Whatever the kernel returns, besides `EAGAIN` and `EINTR`, which are [`Receive::Nothing`].
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<Receive> {
        let mut piece = vec![0; PIECE];
        let mut room = [MaybeUninit::uninit(); ROOM];
        let mut ancillary = RecvAncillaryBuffer::new(&mut room);
        let received = rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut piece)],
            &mut ancillary,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        );
        let received = match received {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Receive::Nothing),
            Err(error) => return Err(error.into()),
        };
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                fds.extend(came);
            }
        }
        if received.bytes == 0 {
            return Ok(Receive::End);
        }
        // The kernel has closed what did not fit, so that the line is not what was sent.
        let truncated = received.flags.contains(ReturnFlags::CTRUNC);
        if truncated && self.error.is_none() {
            self.error = Some(FrameError::TooManyFds);
        }
        self.push(piece.get(..received.bytes).unwrap_or_default(), fds);
        Ok(Receive::Some)
    }
}

/// Lines that wait to be sent.
#[derive(Debug)]
pub struct Outbox {
    limit: usize,
    bytes: usize,
    lines: VecDeque<Line>,
}

#[derive(Debug)]
struct Line {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// There is no room for a line, since the other side does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxFull;

impl fmt::Display for OutboxFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "too much waits to be read")
    }
}

impl Error for OutboxFull {}

impl Outbox {
    /// Makes an outbox in which up to `limit` bytes can wait.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: 0,
            lines: VecDeque::new(),
        }
    }

    /// Whether there is nothing to be sent.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many bytes wait to be sent.
    pub fn waiting(&self) -> usize {
        self.bytes
    }

    /// Adds a line, as [`encode`] makes it, and descriptors that go along.
    ///
    /// # Errors
    ///
    /// If more than the limit would wait; a single line always gets in.
    pub fn push(&mut self, line: Vec<u8>, fds: Vec<OwnedFd>) -> Result<(), OutboxFull> {
        if !self.is_empty() && line.len() > self.limit.saturating_sub(self.bytes) {
            return Err(OutboxFull);
        }
        self.bytes += line.len();
        self.lines.push_back(Line {
            bytes: line,
            sent: 0,
            fds,
        });
        Ok(())
    }

    /// Sends what can be sent without waiting. True if nothing is left.
    ///
    /// # Errors
    ///
    /// Whatever the kernel returns, besides `EAGAIN` and `EINTR`.
    pub fn flush(&mut self, socket: impl AsFd) -> io::Result<bool> {
        while let Some(line) = self.lines.front_mut() {
            let rest = line.bytes.get(line.sent..).unwrap_or_default();
            let fds: Vec<BorrowedFd<'_>> = line.fds.iter().map(AsFd::as_fd).collect();
            match send(socket.as_fd(), rest, &fds) {
                Ok(sent) => {
                    line.sent += sent;
                    self.bytes -= sent;
                    line.fds.clear();
                }
                Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            if line.sent >= line.bytes.len() {
                self.lines.pop_front();
            }
        }
        Ok(true)
    }
}

/// Sends once, without waiting.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOMANYREFS);
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    )
}

#[cfg(test)]
mod tests;
