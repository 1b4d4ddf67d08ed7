// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Conversion between lines and bytes, with descriptors.
//!
//! A UNIX stream has no boundaries: a line can arrive in pieces, and several at once. The kernel
//! returns descriptors with the piece that contains the first byte of the message with which they
//! were sent, and that piece contains no later message. If a sender sends descriptors with a part
//! of one line only, as [`Outbox`] does, they belong to the line that contains the last byte of
//! the piece.

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

/// The size of a read, in bytes.
const PIECE: usize = 16 * 1024;

/// The buffer size for [`FDS_MAX`] descriptors.
const ROOM: usize = rustix::cmsg_space!(ScmRights(FDS_MAX));

/// Encodes a message as a line, with the newline.
///
/// # Errors
///
/// Never for messages of this library, which can all be encoded as JSON.
pub fn encode<T: Serialize>(message: &Message<T>) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// A line, without its newline, and its descriptors.
#[derive(Debug)]
pub struct Frame {
    /// The line.
    pub line: Vec<u8>,
    /// The descriptors. They are closed on drop.
    pub fds: Vec<OwnedFd>,
}

/// Fatal errors of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A line is too long.
    LineTooLong,
    /// A line has more than [`FDS_MAX`] descriptors.
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

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Data was received.
    Some,
    /// There is no data now.
    Nothing,
    /// The other side has closed the connection.
    End,
}

/// Finds lines in a stream of bytes and descriptors.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// The incomplete line.
    partial: Vec<u8>,
    /// Its descriptors.
    fds: Vec<OwnedFd>,
    frames: VecDeque<Frame>,
    error: Option<FrameError>,
}

impl Decoder {
    /// Creates a decoder for lines of up to `limit` bytes, with the newline.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            partial: Vec::new(),
            fds: Vec::new(),
            frames: VecDeque::new(),
            error: None,
        }
    }

    /// Adds a piece of the stream, as returned by one call of `recvmsg`.
    ///
    /// After an error, which [`Self::next_frame`] reports, further data is ignored.
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

    /// Adds to the current line; returns false if it gets too long.
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

    /// Returns the next complete line. Lines before an error are returned before it; empty lines
    /// are skipped.
    ///
    /// # Errors
    ///
    /// If the stream is malformed; each later call returns the same error.
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
    /// All errors of the kernel except `EAGAIN` and `EINTR`, which are [`Receive::Nothing`].
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
        // The kernel has closed descriptors that did not fit, so that the line is incomplete.
        let truncated = received.flags.contains(ReturnFlags::CTRUNC);
        if truncated && self.error.is_none() {
            self.error = Some(FrameError::TooManyFds);
        }
        self.push(piece.get(..received.bytes).unwrap_or_default(), fds);
        Ok(Receive::Some)
    }
}

/// Queued lines to be sent.
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

/// The queue is full, since the other side does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxFull;

impl fmt::Display for OutboxFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the queue is full, since the other side does not read")
    }
}

impl Error for OutboxFull {}

impl Outbox {
    /// Creates an outbox for up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: 0,
            lines: VecDeque::new(),
        }
    }

    /// Returns whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The number of queued bytes.
    pub fn waiting(&self) -> usize {
        self.bytes
    }

    /// Adds a line from [`encode`], and its descriptors.
    ///
    /// # Errors
    ///
    /// If the limit would be exceeded; a single line is always accepted.
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

    /// Sends as much as possible without blocking. Returns true if the queue is empty.
    ///
    /// # Errors
    ///
    /// All errors of the kernel except `EAGAIN` and `EINTR`.
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

/// Sends once, without blocking.
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
