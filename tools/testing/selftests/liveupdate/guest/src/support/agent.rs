// SPDX-License-Identifier: GPL-2.0

//! Agents: processes that use the device on request.

use crate::support::{
    error::{At, Failure, Result},
    memfd,
    pattern::Pattern,
    socket::Socket,
};
use liveupdate::{Device, IncomingSession, OutgoingSession};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, Command, Stdio},
};

/// The orders of an agent.
#[derive(Clone, Copy)]
pub enum Order<'a> {
    /// Open the device and keep it open.
    Open,
    /// Close the device.
    Close,
    Create(&'a str),
    RetrieveSession(&'a str),
    /// Take over an outgoing session that is sent with the order.
    AdoptOutgoing,
    /// Take over an incoming session that is sent with the order.
    AdoptIncoming,
    /// Preserve a new memfd.
    Preserve(u64, Pattern),
    /// Retrieve a memfd and compare it.
    Retrieve(u64, Pattern),
    Finish,
}

impl Order<'_> {
    fn text(self) -> String {
        match self {
            Order::Open => "open".into(),
            Order::Close => "close".into(),
            Order::Create(name) => format!("create {name}"),
            Order::RetrieveSession(name) => format!("session {name}"),
            Order::AdoptOutgoing => "outgoing".into(),
            Order::AdoptIncoming => "incoming".into(),
            Order::Preserve(token, Pattern { seed, len }) => {
                format!("preserve {token} {seed} {len}")
            }
            Order::Retrieve(token, Pattern { seed, len }) => {
                format!("retrieve {token} {seed} {len}")
            }
            Order::Finish => "finish".into(),
        }
    }
}

/// A process that waits for orders. Dropping it kills it.
pub struct Agent {
    process: Child,
    socket: Socket,
}

impl Agent {
    pub fn start() -> Result<Self> {
        let (ours, theirs) = Socket::pair().at("socketpair")?;
        let process = Command::new("/proc/self/exe")
            .args(["child", "agent"])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .at("start an agent")?;
        Ok(Self {
            process,
            socket: ours,
        })
    }

    /// Makes the agent execute an order.
    ///
    /// Returns the error of the agent, with its number, if it has one.
    pub fn order(&self, order: Order<'_>) -> io::Result<()> {
        self.send(order, None)
    }

    /// Like [`Self::order`], with a descriptor.
    pub fn give(&self, order: Order<'_>, fd: impl AsFd) -> io::Result<()> {
        self.send(order, Some(fd.as_fd()))
    }

    fn send(&self, order: Order<'_>, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.socket.send(&order.text(), fd)?;
        let (answer, _) = self.socket.receive()?;
        match answer.split_once(' ') {
            None if answer == "ok" => Ok(()),
            Some((errno, message)) => Err(match errno.parse() {
                Ok(0) | Err(_) => io::Error::other(format!("agent: {message}")),
                Ok(errno) => io::Error::from_raw_os_error(errno),
            }),
            None => Err(io::Error::other("the agent has died")),
        }
    }

    /// Kills the agent and reaps it.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have died already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The open files of an agent.
#[derive(Default)]
struct Hands {
    device: Option<Device>,
    outgoing: Option<OutgoingSession>,
    incoming: Option<IncomingSession>,
    files: Vec<File>,
}

enum Trouble {
    Kernel(io::Error),
    Other(Failure),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Kernel(error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Other(failure)
    }
}

impl Hands {
    /// The device: the open one, or a new one for one operation.
    fn with_device<T>(&self, act: impl FnOnce(&Device) -> io::Result<T>) -> io::Result<T> {
        match &self.device {
            Some(device) => act(device),
            None => act(&Device::open()?),
        }
    }

    fn obey(&mut self, order: &str, fd: Option<OwnedFd>) -> std::result::Result<(), Trouble> {
        let no_fd = || Failure::new("there is no descriptor with this order");
        let no_session = || Failure::new("the agent does not have this session");
        let words: Vec<&str> = order.split(' ').collect();
        match *words.as_slice() {
            ["open"] => self.device = Some(Device::open()?),
            ["close"] => self.device = None,
            ["create", name] => {
                self.outgoing = Some(self.with_device(|device| device.create_session(name))?);
            }
            ["session", name] => {
                self.incoming = Some(self.with_device(|device| device.retrieve_session(name))?);
            }
            ["outgoing"] => self.outgoing = Some(fd.ok_or_else(no_fd)?.into()),
            ["incoming"] => self.incoming = Some(fd.ok_or_else(no_fd)?.into()),
            ["preserve", token, seed, len] => {
                let (token, pattern) = numbers(token, seed, len)?;
                let file = memfd::with(pattern)?;
                let session = self.outgoing.as_ref().ok_or_else(no_session)?;
                session.preserve(&file, token)?;
                self.files.push(file);
            }
            ["retrieve", token, seed, len] => {
                let (token, pattern) = numbers(token, seed, len)?;
                let session = self.incoming.as_ref().ok_or_else(no_session)?;
                let file = memfd::check(session.retrieve(token)?, pattern)?;
                self.files.push(file);
            }
            ["finish"] => {
                let session = self.incoming.take().ok_or_else(no_session)?;
                session.finish().map_err(io::Error::from)?;
            }
            _ => return Err(Failure::new(format!("unknown order '{order}'")).into()),
        }
        Ok(())
    }
}

fn numbers(token: &str, seed: &str, len: &str) -> Result<(u64, Pattern)> {
    Ok((token.parse()?, Pattern::new(seed.parse()?, len.parse()?)))
}

fn agent() -> Result<u8> {
    let stdin = io::stdin().as_fd().try_clone_to_owned().at("dup")?;
    let socket = Socket::from(stdin);
    let mut hands = Hands::default();
    loop {
        let (order, fd) = socket.receive().at("receive an order")?;
        if order.is_empty() {
            return Ok(0);
        }
        let answer = match hands.obey(&order, fd) {
            Ok(()) => "ok".into(),
            Err(Trouble::Kernel(error)) => {
                format!("{} {error}", liveupdate::errno(&error).unwrap_or(0))
            }
            Err(Trouble::Other(failure)) => format!("0 {failure}"),
        };
        socket.send(&answer, None).at("answer")?;
    }
}

/// The main function of an agent.
pub fn run(args: &[String]) -> Result<u8> {
    match args.first().map(String::as_str) {
        Some("agent") => agent(),
        _ => Err(Failure::new("no such role")),
    }
}
