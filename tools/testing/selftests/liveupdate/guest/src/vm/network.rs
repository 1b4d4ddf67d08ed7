// SPDX-License-Identifier: GPL-2.0

//! A TCP connection with a peer outside of the host.
//!
//! Both sides send lines all the time, each with its number and the number of lines received so far.
//! The connection must survive the updates: it is never opened again.

use crate::support::error::{At, Result};
use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread::{self, sleep},
    time::Duration,
};

/// The port of the guest.
const PORT: u16 = 7000;

/// The length of a line, without its end.
const WIDTH: usize = 1023;

/// The number of lines that were received.
static RECEIVED: AtomicU64 = AtomicU64::new(0);

/// Whether the guest has a network card.
pub(super) fn exists() -> bool {
    fs::exists("/sys/class/net/eth0").unwrap_or(false)
}

/// Waits for the peer, which starts when it sees a line at the serial port `port`, and exchanges lines
/// with it.
pub(super) fn talk(port: &str) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).at("listen")?;
    let mut port = OpenOptions::new()
        .write(true)
        .open(port)
        .at("open the serial port")?;
    writeln!(port, "vm: listens").at("write to the serial port")?;
    let (stream, _) = listener.accept().at("accept the connection of the peer")?;
    let sender = stream.try_clone().at("duplicate the socket")?;
    thread::spawn(move || {
        if let Err(error) = send(sender) {
            println!("vm: BAD {error}");
        }
    });
    receive(stream)
}

fn send(mut stream: TcpStream) -> Result<()> {
    for number in 1_u64.. {
        let line = format!("{number} {}", RECEIVED.load(Relaxed));
        let line = format!("{line:>WIDTH$}\n");
        stream.write_all(line.as_bytes()).at("send a line")?;
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Prints the number of lines that the peer has received, and the number that came from it.
fn receive(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    for expected in 1_u64.. {
        line.clear();
        stream.read_line(&mut line).at("receive a line")?;
        let mut words = line.split_whitespace();
        let number = words.next().unwrap_or_default();
        if line.len() != WIDTH + 1 || number != expected.to_string() {
            println!("vm: BAD line {expected} of the peer: {}", line.trim());
            return Ok(());
        }
        RECEIVED.store(expected, Relaxed);
        if expected % 5 == 0 {
            println!(
                "vm: network {} {expected}",
                words.next().unwrap_or_default()
            );
        }
    }
    Ok(())
}
