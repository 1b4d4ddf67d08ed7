// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Answers to requests of a program. The test acts as luod.

use luod_protocol::{Channel, Event, Request};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

/// The time after which an event is considered missing.
const SOON: Option<Duration> = Some(Duration::from_secs(60));

/// Reads a request, and returns its number.
fn number(luod: &mut BufReader<UnixStream>) -> u64 {
    let mut line = String::new();
    luod.read_line(&mut line).unwrap();
    let request: serde_json::Value = serde_json::from_str(&line).unwrap();
    request["seq"].as_u64().unwrap()
}

fn ok(seq: &str, cmd: &str) -> String {
    format!("{{{seq}\"event\":\"OK\",\"cmd\":\"{cmd}\"}}\n")
}

/// The answer to a request is the one with its number, independent of earlier events.
#[test]
fn answers_have_numbers() {
    let (client, luod) = UnixStream::pair().unwrap();
    let mut channel = Channel::from(client);
    let luod = thread::spawn(move || {
        let mut reader = BufReader::new(luod);
        let first = number(&mut reader);
        let second = number(&mut reader);
        assert_ne!(first, second);
        let said = [
            ok("", "NOBODY"),
            ok(&format!("\"seq\":{first},"), "LATE"),
            ok(&format!("\"seq\":{},", second + 1), "WRONG"),
            ok(&format!("\"seq\":{second},"), "RIGHT"),
        ];
        reader
            .get_mut()
            .write_all(said.concat().as_bytes())
            .unwrap();
        reader
    });
    channel.send(&Request::Status, Some(1 << 40)).unwrap();
    let (answer, _) = channel.call(&Request::List, SOON).unwrap();
    assert!(
        matches!(&answer, Event::Ok { cmd, .. } if cmd == "RIGHT"),
        "{answer:?}"
    );
    // Other events are not lost.
    for expected in ["NOBODY", "LATE", "WRONG"] {
        assert!(channel.has_early());
        let (message, _) = channel.receive(SOON).unwrap().unwrap();
        assert!(
            matches!(&message.body, Event::Ok { cmd, .. } if cmd == expected),
            "{message:?}"
        );
    }
    assert!(!channel.has_early());
    drop(luod.join().unwrap());
}

/// A late answer is not used for the next request.
#[test]
fn an_answer_that_is_late() {
    let (client, luod) = UnixStream::pair().unwrap();
    let mut channel = Channel::from(client);
    let mut luod = BufReader::new(luod);
    let error = channel
        .call(&Request::Status, Some(Duration::ZERO))
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let late = number(&mut luod);
    let luod = thread::spawn(move || {
        let said = ok(&format!("\"seq\":{late},"), "LATE");
        luod.get_mut().write_all(said.as_bytes()).unwrap();
        let next = number(&mut luod);
        let said = ok(&format!("\"seq\":{next},"), "NEXT");
        luod.get_mut().write_all(said.as_bytes()).unwrap();
        luod
    });
    let (answer, _) = channel.call(&Request::List, SOON).unwrap();
    assert!(
        matches!(&answer, Event::Ok { cmd, .. } if cmd == "NEXT"),
        "{answer:?}"
    );
    drop(luod.join().unwrap());
}
