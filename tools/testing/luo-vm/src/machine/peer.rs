// SPDX-License-Identifier: GPL-2.0

//! A TCP connection between this host and a program in a virtual machine.
//!
//! Both sides send lines of [`LINE`] bytes all the time, each with a number that is one more than the
//! previous one, and with the number of lines that they have received. The program in the machine
//! checks the lines of this side in the same way.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// The text that the program prints to the machine's console when it waits for a connection.
pub const LISTENS: &str = "vm: listens";

/// The address of the program in the network that QEMU emulates, and its port.
const INSIDE: &str = "10.0.2.15:7000";

/// The length of a line, with its end.
const LINE: usize = 1024;

/// The time between two lines.
const PAUSE: Duration = Duration::from_millis(100);

/// The number of lines that this side sends before the program must have received one. They fit
/// into its buffer: the network that QEMU emulates may not notice when a full buffer has room
/// again.
const AHEAD: u64 = 16;

/// The results of this side.
#[derive(Default)]
struct Seen {
    /// The number of connections that were made.
    connections: u32,
    /// The number of lines that were received.
    lines: u64,
    /// The number of lines that the program has received, as reported by it.
    answered: u64,
    /// The first line that was not the expected one.
    fault: Option<String>,
}

/// This side of the connection.
#[derive(Clone)]
pub struct Peer {
    port: u16,
    seen: Arc<Mutex<Seen>>,
}

impl Peer {
    /// Chooses a free port of this host.
    pub fn new() -> Result<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
        Ok(Self {
            port: free.local_addr()?.port(),
            seen: Arc::default(),
        })
    }

    /// The QEMU options for the network card through which the program is reached.
    pub fn devices(&self) -> [String; 4] {
        let (host, port) = (Ipv4Addr::LOCALHOST, self.port);
        [
            "-netdev".to_owned(),
            format!("user,id=net,restrict=on,hostfwd=tcp:{host}:{port}-{INSIDE}"),
            "-device".to_owned(),
            "virtio-net-pci,netdev=net,mac=52:54:00:12:34:01".to_owned(),
        ]
    }

    /// Takes a line of the machine's console: connects once the program listens.
    pub fn hear(&self, line: &str) {
        if !line.contains(LISTENS) {
            return;
        }
        let peer = self.clone();
        thread::spawn(move || {
            // The program notices the end of a connection, and this side only counts.
            let _ = peer.talk();
        });
    }

    fn seen<R>(&self, f: impl FnOnce(&mut Seen) -> R) -> R {
        f(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends and receives lines until the connection ends.
    fn talk(&self) -> io::Result<()> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        self.seen(|seen| seen.connections += 1);
        let mut sender = stream.try_clone()?;
        let peer = self.clone();
        thread::spawn(move || -> io::Result<()> {
            for number in 1_u64.. {
                while peer.seen(|seen| seen.answered).saturating_add(AHEAD) < number {
                    thread::sleep(PAUSE);
                }
                let received = peer.seen(|seen| seen.lines);
                let text = format!("{number} {received}");
                sender.write_all(format!("{text:>width$}\n", width = LINE - 1).as_bytes())?;
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        for line in BufReader::new(stream).lines() {
            let line = line?;
            self.seen(|seen| seen.take(&line));
        }
        Ok(())
    }

    /// Returns the first fault, if there was one.
    pub fn complaint(&self) -> Option<String> {
        self.seen(|seen| seen.complaint())
    }
}

impl Seen {
    /// Takes a line of the program.
    fn take(&mut self, line: &str) {
        let expected = self.lines + 1;
        let mut words = line.split_whitespace();
        let number = words.next().unwrap_or_default();
        let answered = words.next().and_then(|word| word.parse().ok());
        self.answered = answered.unwrap_or(self.answered);
        if line.len() != LINE - 1 || number != expected.to_string() {
            let what = format!(
                "expected line {expected}, received {} bytes: {}",
                line.len(),
                line.trim()
            );
            self.fault.get_or_insert(what);
        }
        self.lines = expected;
    }

    fn complaint(&self) -> Option<String> {
        let Self {
            connections, lines, ..
        } = self;
        match &self.fault {
            Some(fault) => Some(fault.clone()),
            None if *connections != 1 || *lines == 0 => Some(format!(
                "{connections} connections, on which {lines} lines were received"
            )),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(lines: &[&str]) -> Option<String> {
        let mut seen = Seen {
            connections: 1,
            ..Seen::default()
        };
        for line in lines {
            seen.take(&format!("{line:>width$}", width = LINE - 1));
        }
        seen.complaint()
    }

    #[test]
    fn lines_in_order_are_good() {
        assert_eq!(seen(&["1 0", "2 0", "3 2"]), None);
    }

    #[test]
    fn missing_and_repeated_lines_are_faults() {
        for (lines, expected) in [
            (["1 0", "3 0"], "expected line 2, received 1023 bytes: 3 0"),
            (["1 0", "1 0"], "expected line 2, received 1023 bytes: 1 0"),
            (["2 0", "2 0"], "expected line 1, received 1023 bytes: 2 0"),
        ] {
            assert_eq!(seen(&lines).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_connection_without_lines_is_a_fault() {
        assert!(seen(&[]).is_some());
    }
}
