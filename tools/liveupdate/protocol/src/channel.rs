// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A connection to luod, for programs that may block.

use crate::{
    encode, Decoder, Event, FrameError, Message, Outbox, Receive, Request, LINE_MAX, REPLY_MAX,
};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
};
use std::{
    collections::VecDeque,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

/// A connection to luod.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    decoder: Decoder,
    /// Events that were received before an answer.
    early: VecDeque<(Message<Event>, Vec<OwnedFd>)>,
    next_seq: u64,
}

impl Channel {
    /// Connects to luod at `path`, usually [`SOCKET_PATH`](crate::SOCKET_PATH).
    ///
    /// # Errors
    ///
    /// `ENOENT` or `ECONNREFUSED` if luod is not running, `EACCES` if the user may not connect.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        UnixStream::connect(path).map(Self::from)
    }

    /// Sends a request; luod copies `seq` to the answer.
    ///
    /// # Errors
    ///
    /// `EPIPE` if luod has closed the connection.
    pub fn send(&mut self, request: &Request, seq: Option<u64>) -> io::Result<()> {
        let line = encode(&Message { seq, body: request })?;
        if line.len() > LINE_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the request is longer than luod accepts",
            ));
        }
        let mut outbox = Outbox::new(line.len());
        outbox.push(line, Vec::new()).map_err(io::Error::other)?;
        while !outbox.flush(&self.stream)? {
            self.wait(PollFlags::OUT, None)?;
        }
        Ok(())
    }

    /// Returns the next event and its descriptors. [`None`] if there is none in time.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if luod has closed the connection,
    /// [`io::ErrorKind::InvalidData`] if a line is malformed.
    pub fn receive(
        &mut self,
        timeout: Option<Duration>,
    ) -> io::Result<Option<(Message<Event>, Vec<OwnedFd>)>> {
        match self.early.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.read(timeout),
        }
    }

    /// Sends a request and returns its answer. [`Self::receive`] returns earlier events later.
    ///
    /// # Errors
    ///
    /// See [`Self::send`] and [`Self::receive`]; [`io::ErrorKind::TimedOut`] if there is no
    /// answer in time. A refusal of luod is not an error here, but an answer: [`Event::Error`].
    pub fn call(
        &mut self,
        request: &Request,
        timeout: Option<Duration>,
    ) -> io::Result<(Event, Vec<OwnedFd>)> {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.send(request, Some(seq))?;
        let end = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            match self.read(left)? {
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("luod did not answer to {} in time", request.command()),
                    ))
                }
                Some((message, fds)) if message.seq == Some(seq) => return Ok((message.body, fds)),
                Some(event) => self.early.push_back(event),
            }
        }
    }

    /// Returns whether there is a queued event, which [`Self::receive`] returns without reading
    /// from the socket.
    ///
    /// Must be checked before polling the socket.
    pub fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    fn read(
        &mut self,
        timeout: Option<Duration>,
    ) -> io::Result<Option<(Message<Event>, Vec<OwnedFd>)>> {
        let bad = |error: FrameError| io::Error::new(io::ErrorKind::InvalidData, error);
        let end = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(bad)? {
                let message = Message::parse(&frame.line)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                return Ok(Some((message, frame.fds)));
            }
            match self.decoder.receive(&self.stream)? {
                Receive::Some => {}
                Receive::End => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "luod has closed the connection",
                    ))
                }
                Receive::Nothing => {
                    if !self.wait(PollFlags::IN, end)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Waits until the socket is ready; returns false if it is not in time.
    fn wait(&self, for_what: PollFlags, end: Option<Instant>) -> io::Result<bool> {
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = [PollFd::new(&self.stream, for_what)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl From<UnixStream> for Channel {
    fn from(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: Decoder::new(REPLY_MAX),
            early: VecDeque::new(),
            next_seq: 1,
        }
    }
}

impl AsFd for Channel {
    /// For polling; readable when luod has sent something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
