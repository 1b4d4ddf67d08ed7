// SPDX-License-Identifier: GPL-2.0

//! The sockets.
//!
//! One thread waits for all of them at once and never for a single one: a client that is slow,
//! silent or sends malformed lines affects only itself.

mod admission;
mod socket;

pub use socket::{listen, restrict, Socket};

use crate::{
    config::{Credentials, Identity, Process},
    machine::{ConnId, Machine, Output},
    world::World,
};
use admission::Admission;
use luod_protocol::{
    encode, Decoder, Direction, ErrorCode, Event, FrameError, Message, Outbox, ParseError, Receive,
    SessionName, LINE_MAX,
};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    net::sockopt::socket_peercred,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

/// The maximum size of queued events of a client that does not read, in bytes.
const OUTBOX_MAX: usize = 256 * 1024;

/// The same for an operator, to whom luod sends a list of all sessions.
const OPERATOR_OUTBOX_MAX: usize = 16 * 1024 * 1024;

/// The number of connections that are accepted before other events are handled.
const ACCEPTS_PER_TURN: usize = 32;

/// How long no connection is accepted after a failure to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How long a peer may take to read the last events before the connection is closed.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long all clients together may take to read FROZEN before the next kernel is started.
const FROZEN_WAIT: Duration = Duration::from_millis(100);

/// A connection.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    credentials: Credentials,
    decoder: Decoder,
    outbox: Outbox,
    /// The last event of each session while the queue was full.
    skipped: BTreeMap<(SessionName, u8), Event>,
    /// Whether FROZEN was sent but may not have been read.
    frozen: bool,
    /// The connection is closed when all events are sent, or at this time.
    closing: Option<Instant>,
}

/// The subject of an event that a later event can replace; removed sessions come first.
fn topic(event: &Event) -> Option<(SessionName, u8)> {
    match event {
        Event::Gone { session, .. } => Some((session.clone(), 0)),
        Event::Change { info } => {
            let direction = match info.direction {
                Direction::Outgoing => 1,
                Direction::Incoming => 2,
                _ => 3,
            };
            Some((info.session.clone(), direction))
        }
        _ => None,
    }
}

impl Connection {
    /// Queues an event, and sends as much as possible. If the peer does not read, events for
    /// display are delayed and merged.
    fn send(&mut self, message: &Message<Event>, fd: Option<OwnedFd>) -> io::Result<()> {
        if let Some(topic) = topic(&message.body) {
            if !self.skipped.is_empty() || self.outbox.waiting() > OUTBOX_MAX / 2 {
                if topic.1 == 0 {
                    for direction in 0..=3 {
                        self.skipped.remove(&(topic.0.clone(), direction));
                    }
                }
                self.skipped.insert(topic, message.body.clone());
                return Ok(());
            }
        }
        self.frozen |= matches!(message.body, Event::Frozen { .. });
        self.push(message, fd)
    }

    fn push(&mut self, message: &Message<Event>, fd: Option<OwnedFd>) -> io::Result<()> {
        let fds = fd.into_iter().collect();
        let pushed = self.outbox.push(encode(message)?, fds);
        pushed.map_err(io::Error::other)?;
        self.outbox.flush(&self.stream).map(drop)
    }

    /// Sends delayed events as far as the peer reads them. Returns true if none is left.
    fn catch_up(&mut self) -> io::Result<bool> {
        while self.outbox.is_empty() {
            let Some((_, event)) = self.skipped.pop_first() else {
                return Ok(true);
            };
            self.push(&Message::from(event), None)?;
        }
        Ok(self.skipped.is_empty())
    }
}

/// The sockets.
#[derive(Debug)]
pub struct Server {
    socket: Socket,
    admission: Admission,
    /// Connections with delayed events.
    behind: BTreeSet<ConnId>,
    connections: BTreeMap<ConnId, Connection>,
    next_id: u64,
    accept_after: Option<Instant>,
}

impl Server {
    /// Serves the clients that connect to a socket.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made non-blocking.
    pub fn new(socket: impl Into<Socket>) -> io::Result<Self> {
        let socket = socket.into();
        socket.listener.set_nonblocking(true)?;
        Ok(Self {
            socket,
            admission: Admission::default(),
            behind: BTreeSet::new(),
            connections: BTreeMap::new(),
            next_id: 1,
            accept_after: None,
        })
    }

    /// Waits for events, up to `timeout`, and handles them. `wake` is another descriptor to wait
    /// for; returns true if it is readable.
    ///
    /// # Errors
    ///
    /// If waiting is impossible.
    pub fn turn<W: World>(
        &mut self,
        machine: &mut Machine<W>,
        wake: &UnixStream,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        let now = Instant::now();
        self.accept_after = self.accept_after.filter(|after| *after > now);
        let closing = self.connections.values().filter_map(|c| c.closing).min();
        let instants = closing.into_iter().chain(self.accept_after);
        let instants = instants.map(|at| at.saturating_duration_since(now));
        let timeout = instants
            .chain(machine.next_tick())
            .chain(timeout)
            .min()
            // Round up: waking too early would cause repeated wake-ups.
            .and_then(|left| Timespec::try_from(left + Duration::from_micros(100)).ok());

        let ids: Vec<ConnId> = self.connections.keys().copied().collect();
        let accept = match self.accept_after {
            Some(_) => PollFlags::empty(),
            None => PollFlags::IN,
        };
        let mut fds = vec![
            PollFd::new(wake, PollFlags::IN),
            PollFd::new(&self.socket.listener, accept),
        ];
        for connection in self.connections.values() {
            let mut flags = PollFlags::empty();
            if connection.closing.is_none() {
                flags |= PollFlags::IN;
            }
            if !connection.outbox.is_empty() {
                flags |= PollFlags::OUT;
            }
            fds.push(PollFd::new(&connection.stream, flags));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);

        let mut events = events.into_iter();
        let woken = events.next().is_some_and(|events| !events.is_empty());
        let listener = events.next().unwrap_or(PollFlags::empty());
        for (id, events) in ids.into_iter().zip(events) {
            if !events.is_empty() {
                self.serve(machine, id, events);
            }
        }
        if !listener.is_empty() {
            self.accept(machine);
        }
        machine.tick();
        self.carry_out(machine);
        self.catch_up(machine);
        self.close_overdue(machine);
        Ok(woken)
    }

    /// Accepts a limited number of connections, so that a client that connects repeatedly does not
    /// block other events.
    fn accept<W: World>(&mut self, machine: &mut Machine<W>) {
        for _ in 0..ACCEPTS_PER_TURN {
            let stream = match self.socket.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                    _ => {
                        tracing::warn!("cannot accept a connection: {error}");
                        self.accept_after = Some(Instant::now() + ACCEPT_PAUSE);
                        return;
                    }
                },
            };
            if let Err(error) = self.welcome(machine, stream) {
                tracing::debug!("a connection failed at once: {error}");
            }
        }
    }

    fn welcome<W: World>(
        &mut self,
        machine: &mut Machine<W>,
        stream: UnixStream,
    ) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let cred = socket_peercred(&stream)?;
        let credentials = Credentials {
            pid: cred.pid.as_raw_nonzero().get(),
            uid: cred.uid.as_raw(),
            gid: cred.gid.as_raw(),
        };
        let groups = liveupdate::raw::peer_groups(stream.as_fd()).unwrap_or_else(|error| {
            tracing::warn!("the groups of a client are unknown: {error}");
            Vec::new()
        });
        // Without it, no limit of the process is changed.
        let process = liveupdate::raw::peer_process(stream.as_fd()).ok();
        let who = Identity {
            credentials,
            groups,
            process: process.map(Process::new),
        };
        let now = Instant::now();
        if !self.admission.admits(machine.config(), &who, now) {
            return refuse(&stream);
        }
        let limit = match machine.config().is_operator(&who) {
            true => OPERATOR_OUTBOX_MAX,
            false => OUTBOX_MAX,
        };
        let connection = Connection {
            stream,
            credentials,
            decoder: Decoder::new(LINE_MAX),
            outbox: Outbox::new(limit),
            skipped: BTreeMap::new(),
            frozen: false,
            closing: None,
        };
        let id = ConnId(self.next_id);
        self.next_id += 1;
        self.connections.insert(id, connection);
        self.admission.opened(credentials.uid);
        machine.connected(id, who);
        self.carry_out(machine);
        Ok(())
    }

    /// Reads and writes without blocking.
    fn serve<W: World>(&mut self, machine: &mut Machine<W>, id: ConnId, events: PollFlags) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if events.contains(PollFlags::OUT) {
            if let Err(error) = connection.outbox.flush(&connection.stream) {
                tracing::debug!(conn = id.0, "cannot send: {error}");
                return self.drop_connection(machine, id);
            }
        }
        if connection.closing.is_some() {
            if events.intersects(PollFlags::ERR | PollFlags::HUP) {
                self.drop_connection(machine, id);
            }
            return;
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        match connection.decoder.receive(&connection.stream) {
            Ok(Receive::Nothing) => {}
            Ok(Receive::Some) => self.read(machine, id),
            Ok(Receive::End) => self.drop_connection(machine, id),
            Err(error) => {
                tracing::debug!(conn = id.0, "cannot receive: {error}");
                self.drop_connection(machine, id);
            }
        }
    }

    /// Handles all received lines.
    fn read<W: World>(&mut self, machine: &mut Machine<W>, id: ConnId) {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            if connection.closing.is_some() {
                return;
            }
            match connection.decoder.next_frame() {
                Ok(None) => return,
                Ok(Some(frame)) => {
                    let fds = frame.fds.len();
                    drop(frame.fds);
                    match Message::parse(&frame.line) {
                        Ok(message) => machine.request(id, message, fds),
                        Err(error) => machine.bad_line(id, error),
                    }
                }
                Err(error) => {
                    let code = match error {
                        FrameError::LineTooLong => ErrorCode::LineTooLong,
                        FrameError::TooManyFds => ErrorCode::UnexpectedFds,
                    };
                    let error = ParseError {
                        code,
                        seq: None,
                        message: format!("{error}; the connection ends"),
                    };
                    machine.bad_line(id, error);
                    self.carry_out(machine);
                    return self.close(machine, id);
                }
            }
            self.carry_out(machine);
        }
    }

    /// Executes the actions of the machine.
    pub fn carry_out<W: World>(&mut self, machine: &mut Machine<W>) {
        while let Some(output) = machine.next_output() {
            match output {
                Output::Send { to, message, fd } => self.send(machine, to, &message, fd),
                Output::Close(id) => self.close(machine, id),
                Output::Jump => {
                    self.flush_frozen(FROZEN_WAIT);
                    machine.jump();
                }
            }
        }
    }

    fn send<W: World>(
        &mut self,
        machine: &mut Machine<W>,
        to: ConnId,
        message: &Message<Event>,
        fd: Option<OwnedFd>,
    ) {
        let Some(connection) = self.connections.get_mut(&to) else {
            return;
        };
        let sent = connection.send(message, fd);
        if !connection.skipped.is_empty() {
            self.behind.insert(to);
        }
        if let Err(error) = sent {
            let credentials = connection.credentials;
            tracing::debug!(conn = to.0, pid = credentials.pid, "dropped: {error}");
            self.drop_connection(machine, to);
        }
    }

    /// Closes a connection after its queued events are sent.
    fn close<W: World>(&mut self, machine: &mut Machine<W>, id: ConnId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.outbox.is_empty() {
            return self.drop_connection(machine, id);
        }
        connection
            .closing
            .get_or_insert(Instant::now() + LAST_WORDS);
    }

    fn drop_connection<W: World>(&mut self, machine: &mut Machine<W>, id: ConnId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.behind.remove(&id);
            self.admission.closed(connection.credentials.uid);
            machine.disconnected(id);
        }
    }

    /// Sends delayed events to peers that read again.
    fn catch_up<W: World>(&mut self, machine: &mut Machine<W>) {
        for id in std::mem::take(&mut self.behind) {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            match connection.catch_up() {
                Ok(true) => {}
                Ok(false) => {
                    self.behind.insert(id);
                }
                Err(error) => {
                    tracing::debug!(conn = id.0, "cannot send: {error}");
                    self.drop_connection(machine, id);
                }
            }
        }
    }

    fn close_overdue<W: World>(&mut self, machine: &mut Machine<W>) {
        let now = Instant::now();
        let overdue = self.connections.iter();
        let overdue: Vec<ConnId> = overdue
            .filter(|(_, c)| c.closing.is_some_and(|at| c.outbox.is_empty() || at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in overdue {
            self.drop_connection(machine, id);
        }
        self.carry_out(machine);
    }

    /// Waits until all clients have read FROZEN, up to a time. Returns the number of waits. Does
    /// not wait for other connections.
    fn flush_frozen(&mut self, time: Duration) -> u32 {
        let end = Instant::now() + time;
        let mut waits = 0;
        loop {
            let mut waiting = Vec::new();
            for connection in self.connections.values_mut() {
                if !std::mem::take(&mut connection.frozen) {
                    continue;
                }
                if matches!(connection.outbox.flush(&connection.stream), Ok(false)) {
                    connection.frozen = true;
                    waiting.push(PollFd::new(&connection.stream, PollFlags::OUT));
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if waiting.is_empty() || left.is_zero() {
                return waits;
            }
            waits += 1;
            // Errors are ignored; the time is limited.
            let _ = poll(&mut waiting, Timespec::try_from(left).ok().as_ref());
        }
    }

    /// Sends queued events, up to a time.
    pub fn flush(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let mut left = false;
            for connection in self.connections.values_mut() {
                left |= matches!(connection.outbox.flush(&connection.stream), Ok(false));
            }
            if !left || Instant::now() >= end {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Sends an error to a peer: there are too many connections.
fn refuse(stream: &UnixStream) -> io::Result<()> {
    let event = Event::Error {
        code: ErrorCode::TooMany,
        message: "there are too many connections; try again later".into(),
        cmd: None,
        id: None,
    };
    let mut outbox = Outbox::new(OUTBOX_MAX);
    // It fits into the buffer of the socket; otherwise it is dropped.
    let _ = outbox.push(encode(&Message::from(event))?, Vec::new());
    outbox.flush(stream).map(drop)
}

#[cfg(test)]
mod tests;
