// SPDX-License-Identifier: GPL-2.0

//! TCP connections with a peer outside of the host, and with another guest.
//!
//! Both sides send lines all the time, each with its number and the number of lines received so far.
//! The connections must survive the updates: they are never opened again.

use crate::support::error::{At, Result};
use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        Arc,
    },
    thread::{self, sleep},
    time::Duration,
};

/// The port of the guest, for the peer outside.
const PORT: u16 = 7000;

/// Its port for another guest.
const PAIR_PORT: u16 = 7001;

/// The length of a line, without its end.
const WIDTH: usize = 1023;

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
    exchange(stream, "network")
}

/// Waits for another guest, and exchanges lines with it.
pub(super) fn wait_for_guest() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PAIR_PORT)).at("listen")?;
    let (stream, _) = listener.accept().at("accept the connection of a guest")?;
    exchange(stream, "pair")
}

/// Exchanges lines with the guest that waits at an address.
pub(super) fn talk_to_guest(address: Ipv4Addr) -> Result<()> {
    let stream = TcpStream::connect((address, PAIR_PORT)).at("connect to the other guest")?;
    exchange(stream, "pair")
}

/// Sends lines, and prints what is received.
fn exchange(stream: TcpStream, name: &str) -> Result<()> {
    let sender = stream.try_clone().at("duplicate the socket")?;
    let received = Arc::new(AtomicU64::new(0));
    let answered = received.clone();
    thread::spawn(move || {
        if let Err(error) = send(sender, &answered) {
            println!("vm: BAD {error}");
        }
    });
    receive(stream, name, &received)
}

fn send(mut stream: TcpStream, received: &AtomicU64) -> Result<()> {
    for number in 1_u64.. {
        let line = format!("{number} {}", received.load(Relaxed));
        let line = format!("{line:>WIDTH$}\n");
        stream.write_all(line.as_bytes()).at("send a line")?;
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Prints the number of lines that the other side has received, and the number that came from it.
fn receive(stream: TcpStream, name: &str, received: &AtomicU64) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    for expected in 1_u64.. {
        line.clear();
        stream.read_line(&mut line).at("receive a line")?;
        let mut words = line.split_whitespace();
        let number = words.next().unwrap_or_default();
        if line.len() != WIDTH + 1 || number != expected.to_string() {
            println!("vm: BAD line {expected} of {name}: {}", line.trim());
            return Ok(());
        }
        received.store(expected, Relaxed);
        if expected % 5 == 0 {
            println!("vm: {name} {} {expected}", words.next().unwrap_or_default());
        }
    }
    Ok(())
}
