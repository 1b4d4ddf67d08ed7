// SPDX-License-Identifier: GPL-2.0

//! The sockets.
//!
//! One thread, which waits for all of them at once and never for one of them alone: a client that
//! is slow, silent or talks nonsense costs nobody but itself.

use crate::{
    config::{Config, Credentials},
    machine::{ConnId, Machine, Output},
    world::World,
};
use luod_protocol::{
    encode, Decoder, ErrorCode, Event, FrameError, Message, Outbox, ParseError, Receive, LINE_MAX,
};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    net::sockopt::socket_peercred,
};
use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    time::{Duration, Instant},
};

/// How much can wait for a client that does not read, in bytes.
const OUTBOX_MAX: usize = 256 * 1024;

/// For how long nobody is accepted after that has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How long clients may take to read what they are told before the kernel goes down.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A connection.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    credentials: Credentials,
    decoder: Decoder,
    outbox: Outbox,
    /// It is closed as soon as everything is sent, or at some time.
    closing: Option<Instant>,
}

/// Makes the socket that luod listens at.
///
/// # Errors
///
/// `EADDRINUSE` if somebody listens there.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        match UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!("another luod listens at {}", path.display()),
                ))
            }
            // It was left by one that is gone.
            Err(_) => fs::remove_file(path)?,
        }
    }
    let listener = UnixListener::bind(path)?;
    // Who may do what is decided by the credentials of who connects.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Whether somebody who connects would be one too many; `others` are the users who are connected.
fn too_many(config: &Config, who: Credentials, others: &[u32]) -> bool {
    let same = others.iter().filter(|uid| **uid == who.uid);
    // Operators get in, whatever others do.
    !config.is_operator(who)
        && (others.len() >= config.max_connections
            || same.count() >= config.max_connections_per_user)
}

/// The sockets.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    connections: BTreeMap<ConnId, Connection>,
    next_id: u64,
    accept_after: Option<Instant>,
}

impl Server {
    /// Serves whoever connects to a socket.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made non-blocking.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            connections: BTreeMap::new(),
            next_id: 1,
            accept_after: None,
        })
    }

    /// Waits until something happens, up to `timeout`, and deals with it. `wake` is something else
    /// to wait for; true if it is readable.
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
            // Rather a bit too late than again and again a bit too early.
            .and_then(|left| Timespec::try_from(left + Duration::from_micros(100)).ok());

        let ids: Vec<ConnId> = self.connections.keys().copied().collect();
        let accept = match self.accept_after {
            Some(_) => PollFlags::empty(),
            None => PollFlags::IN,
        };
        let mut fds = vec![
            PollFd::new(wake, PollFlags::IN),
            PollFd::new(&self.listener, accept),
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
        self.close_overdue(machine);
        Ok(woken)
    }

    fn accept<W: World>(&mut self, machine: &mut Machine<W>) {
        loop {
            let stream = match self.listener.accept() {
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
        let mut connection = Connection {
            stream,
            credentials,
            decoder: Decoder::new(LINE_MAX),
            outbox: Outbox::new(OUTBOX_MAX),
            closing: None,
        };
        let others: Vec<u32> = self
            .connections
            .values()
            .map(|c| c.credentials.uid)
            .collect();
        if too_many(machine.config(), credentials, &others) {
            let event = Event::Error {
                code: ErrorCode::TooMany,
                message: "there are too many connections; try it again later".into(),
                cmd: None,
                id: None,
            };
            let line = encode(&Message::from(event))?;
            // It fits into the socket's buffer, or else it does not matter.
            let _ = connection.outbox.push(line, Vec::new());
            connection.outbox.flush(&connection.stream)?;
            return Ok(());
        }
        let id = ConnId(self.next_id);
        self.next_id += 1;
        self.connections.insert(id, connection);
        machine.connected(id, credentials);
        self.carry_out(machine);
        Ok(())
    }

    /// Reads and writes what can be read and written.
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

    /// Deals with the lines that are there.
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

    /// Does what the machine wants to be done.
    pub fn carry_out<W: World>(&mut self, machine: &mut Machine<W>) {
        while let Some(output) = machine.next_output() {
            match output {
                Output::Send { to, message, fd } => self.send(machine, to, &message, fd),
                Output::Close(id) => self.close(machine, id),
                Output::Jump => {
                    self.flush(LAST_WORDS);
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
        let sent = encode(message).and_then(|line| {
            let fds = fd.into_iter().collect();
            connection
                .outbox
                .push(line, fds)
                .map_err(io::Error::other)?;
            connection.outbox.flush(&connection.stream)
        });
        if let Err(error) = sent {
            let credentials = connection.credentials;
            tracing::debug!(conn = to.0, pid = credentials.pid, "dropped: {error}");
            self.drop_connection(machine, to);
        }
    }

    /// Closes a connection after what it is still to be told.
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
        if self.connections.remove(&id).is_some() {
            machine.disconnected(id);
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

    /// Sends what can be sent, up to a time.
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

#[cfg(test)]
mod tests;
