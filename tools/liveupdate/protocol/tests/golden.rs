// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Messages of every released version are still supported.
//!
//! `golden/N` has the messages of version N of the protocol: one line for each message and each
//! value. These files do not change; a new version gets a directory of its own.

use luod_protocol::{
    encode, Direction, ErrorCode, Event, MarkName, Message, Outcome, Phase, Request, SessionState,
};
use serde::{de::DeserializeOwned, Serialize};
use serde_json::Value;

const REQUESTS: [&str; 4] = [
    include_str!("golden/1/requests.jsonl"),
    include_str!("golden/2/requests.jsonl"),
    include_str!("golden/3/requests.jsonl"),
    include_str!("golden/4/requests.jsonl"),
];
const EVENTS: [&str; 4] = [
    include_str!("golden/1/events.jsonl"),
    include_str!("golden/2/events.jsonl"),
    include_str!("golden/3/events.jsonl"),
    include_str!("golden/4/events.jsonl"),
];

/// Reads lines, and expects that they are unchanged when they are written again.
fn read<T: DeserializeOwned + Serialize>(lines: &str) -> Vec<T> {
    let read = lines.lines().map(|line| {
        let message: Message<T> =
            Message::parse(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
        let again: Value = serde_json::from_slice(&encode(&message).unwrap()).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(line).unwrap());
        message.body
    });
    read.collect()
}

#[test]
fn requests() {
    for lines in REQUESTS {
        assert!(!read::<Request>(lines).is_empty());
    }
}

#[test]
fn events() {
    for lines in EVENTS {
        for event in read::<Event>(lines) {
            assert_ne!(event, Event::Unknown);
        }
        // Each word has a variant of its own.
        let value = format!("{:?}", read::<Event>(lines));
        assert!(!value.contains("Other("), "{value}");
    }
}

/// A new value must be added to the lines of the next version as well.
#[test]
fn all_values_are_there() {
    let all = EVENTS.concat();
    let known = |words: Vec<String>| {
        for word in words {
            assert!(all.contains(&format!("\"{word}\"")), "{word}");
        }
    };
    known(Phase::KNOWN.iter().map(Phase::to_string).collect());
    known(Direction::KNOWN.iter().map(Direction::to_string).collect());
    known(SessionState::KNOWN.iter().map(|s| s.to_string()).collect());
    known(MarkName::KNOWN.iter().map(MarkName::to_string).collect());
    known(Outcome::KNOWN.iter().map(Outcome::to_string).collect());
    known(ErrorCode::KNOWN.iter().map(ErrorCode::to_string).collect());
}
