// SPDX-License-Identifier: GPL-2.0

//! The agent of QEMU in a guest, which sets the clock of the guest.

use crate::{options, spec};
use serde_json::{json, Value};
use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// The name of the agent's port.
const PORT: &str = "org.qemu.guest_agent.0";

/// What an answer to `guest-sync-delimited` begins with, and what makes the agent forget half a
/// command.
const DELIMITER: u8 = 0xff;

/// The time limit for an answer of the agent. A guest that was just resumed may be busy, and
/// nothing waits for the answer.
const ANSWER: Duration = Duration::from_secs(600);

/// The time by which a clock may differ without being set: asking the agent takes time as well.
const TOLERANCE_US: u64 = 100_000;

/// The maximum number of times that the clock is set, if the agent is so slow that the clock still
/// lags.
const TIMES: usize = 3;

/// The socket of the agent of a guest with the arguments `args`, relative to the working directory of
/// the guest. [`None`] if the guest has no agent, or if QEMU is not the server of its socket.
pub fn socket(args: &[String]) -> Option<PathBuf> {
    let mut devices = options::all(args, &["device"], "driver");
    let chardev = devices.find_map(|(_, device)| {
        let is_it = device.get("name") == Some(PORT);
        device.get("chardev").filter(|_| is_it).map(str::to_owned)
    })?;
    let mut chardevs = options::all(args, &["chardev"], "backend");
    chardevs.find_map(|(_, found)| {
        let is_it = found.get("id") == Some(&chardev)
            && found.get("backend") == Some("socket")
            && found.is_on("server");
        found.get("path").filter(|_| is_it).map(PathBuf::from)
    })
}

/// A connection to an agent.
struct Agent {
    reader: BufReader<UnixStream>,
}

fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl Agent {
    fn connect(path: &Path, limit: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut agent = Self {
            reader: BufReader::new(stream),
        };
        // Answers to others, from before, are skipped.
        let id = spec::now_us() >> 1;
        agent.send(&[DELIMITER])?;
        agent.command("guest-sync-delimited", json!({ "id": id }))?;
        loop {
            agent.read_until(DELIMITER)?;
            if agent.answer()? == json!(id) {
                return Ok(agent);
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    fn command(&mut self, name: &str, arguments: Value) -> io::Result<()> {
        let command = json!({ "execute": name, "arguments": arguments });
        self.send(format!("{command}\n").as_bytes())
    }

    fn read_until(&mut self, end: u8) -> io::Result<Vec<u8>> {
        let mut found = Vec::new();
        match self.reader.read_until(end, &mut found) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(found),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it does not answer",
            )),
            Err(error) => Err(error),
        }
    }

    /// Returns the minimum number of microseconds by which the clock of the guest lags, which is
    /// negative if the clock is fast. The agent reads the clock at an unknown time between the
    /// question and the answer.
    fn lag(&mut self) -> io::Result<i64> {
        let signed = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        let asked = signed(spec::now_us());
        self.command("guest-get-time", json!({}))?;
        let time = signed(self.answer()?.as_u64().ok_or_else(|| bad("no time"))? / 1000);
        let answered = signed(spec::now_us());
        Ok(0.clamp(asked - time, answered.max(asked) - time))
    }

    /// Sets the clock. After that, the agent also runs hwclock, which some guests do not have: an
    /// error does not mean that the clock was not set.
    fn set(&mut self) -> io::Result<()> {
        self.command("guest-set-time", json!({ "time": spec::now_us() * 1000 }))?;
        self.answer().map(drop)
    }

    fn answer(&mut self) -> io::Result<Value> {
        let line = self.read_until(b'\n')?;
        let answer = serde_json::from_slice(&line);
        let mut answer: Value = answer.map_err(|_| bad(String::from_utf8_lossy(&line)))?;
        match answer.get_mut("return").map(Value::take) {
            Some(value) => Ok(value),
            None => Err(bad(answer["error"]["desc"]
                .as_str()
                .unwrap_or("it refuses without a reason"))),
        }
    }
}

/// The number of microseconds by which the clock of a guest lagged, negative if it was fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// At first.
    pub before_us: i64,
    /// After the clock was set, for which the agent needs some time; [`None`] if it was not set.
    pub after_us: Option<i64>,
}

impl Set {
    /// The lag that is left.
    pub fn lag_us(&self) -> i64 {
        self.after_us.unwrap_or(self.before_us)
    }
}

/// Sets the clock of a guest to that of this host, by the agent at the socket `path`, unless they
/// differ by less than the tolerance.
///
/// # Errors
///
/// If the agent does not answer, or cannot set the clock.
pub fn set_clock(path: &Path) -> io::Result<Set> {
    set_clock_within(path, ANSWER)
}

fn set_clock_within(path: &Path, limit: Duration) -> io::Result<Set> {
    let mut agent = Agent::connect(path, limit)?;
    let mut set = Set {
        before_us: agent.lag()?,
        after_us: None,
    };
    for _ in 0..TIMES {
        let old = set.lag_us().unsigned_abs();
        if old <= TOLERANCE_US {
            break;
        }
        let answer = agent.set();
        set.after_us = Some(agent.lag()?);
        if set.lag_us().unsigned_abs() > old / 2 {
            // The lag did not shrink: the agent has not set the clock, or needs that long.
            answer?;
            break;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, thread};

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_socket_is_in_the_arguments() {
        let device = "-device virtserialport,chardev=a,name=org.qemu.guest_agent.0";
        let chardev = "-chardev socket,id=a,path=/x,server=on,wait=off";
        let both = format!("-device virtio-serial -chardev pty,id=b {chardev} {device}");
        assert_eq!(socket(&words(&both)), Some(PathBuf::from("/x")));
        assert_eq!(socket(&words(device)), None);
        assert_eq!(socket(&words(chardev)), None);
        let client = both.replace("server=on,wait=off", "reconnect-ms=9");
        assert_eq!(socket(&words(&client)), None);
    }

    /// What an agent does when it is asked to set the clock.
    #[derive(Clone, Copy)]
    enum Does {
        Sets,
        Fails,
        /// It sets the clock of the guest, and not its hardware clock.
        HasNoHwclock,
        /// It needs this number of microseconds to set the clock, and less time in the next
        /// attempt.
        Takes(u64),
    }

    /// An agent of a guest whose clock lags by `lag` microseconds. Returns what [`set_clock`]
    /// returns, and the commands.
    fn agent(mut lag: u64, does: Does) -> (io::Result<Set>, Vec<Value>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        let agent = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut flush = Vec::new();
            reader.read_until(DELIMITER, &mut flush).unwrap();
            // An answer to another program.
            stream.write_all(b"{\"return\": {}}\n").unwrap();
            let mut commands = Vec::new();
            for line in reader.lines() {
                let command: Value = serde_json::from_str(&line.unwrap()).unwrap();
                let answer = match command["execute"].as_str().unwrap() {
                    "guest-sync-delimited" => {
                        stream.write_all(&[DELIMITER]).unwrap();
                        json!({ "return": command["arguments"]["id"] })
                    }
                    "guest-get-time" => json!({ "return": (spec::now_us() - lag) * 1000 }),
                    _ => match does {
                        Does::Sets => {
                            lag = 0;
                            json!({ "return": {} })
                        }
                        Does::Takes(time) => {
                            lag = if lag > time { time } else { 0 };
                            json!({ "return": {} })
                        }
                        Does::Fails => json!({ "error": { "desc": "not today" } }),
                        Does::HasNoHwclock => {
                            lag = 0;
                            json!({ "error": { "desc": "no such file" } })
                        }
                    },
                };
                commands.push(command);
                writeln!(stream, "{answer}").unwrap();
            }
            commands
        });
        let found = set_clock(&path);
        (found, agent.join().unwrap())
    }

    /// Much less than the lag: the difference exceeds the time that a busy machine needs to answer.
    const MOST: i64 = 400_000_000;
    const LAG: u64 = 900_000_000;

    #[test]
    fn a_clock_that_lags_is_set() {
        let start = spec::now_us();
        let (found, commands) = agent(LAG, Does::Sets);
        let found = found.unwrap();
        assert!(found.before_us >= MOST, "{found:?}");
        assert_eq!(found.after_us, Some(0));
        // It is read again.
        assert_eq!(commands.len(), 4);
        let set = &commands[2];
        assert_eq!(set["execute"], "guest-set-time");
        let time = set["arguments"]["time"].as_u64().unwrap();
        assert!((start * 1000..=spec::now_us() * 1000).contains(&time));
    }

    #[test]
    fn a_clock_that_is_right_is_not_set() {
        let (found, commands) = agent(0, Does::Fails);
        let right = Set {
            before_us: 0,
            after_us: None,
        };
        assert_eq!(found.unwrap(), right);
        assert_eq!(commands.len(), 2);
    }

    #[test]
    fn a_slow_agent_is_asked_again() {
        let (found, commands) = agent(LAG, Does::Takes(LAG / 4));
        assert_eq!(found.unwrap().after_us, Some(0));
        assert_eq!(commands.len(), 6);
    }

    #[test]
    fn an_agent_may_refuse() {
        let error = agent(LAG, Does::Fails).0.unwrap_err();
        assert_eq!(error.to_string(), "not today");
    }

    #[test]
    fn a_guest_may_have_no_hwclock() {
        let (found, commands) = agent(LAG, Does::HasNoHwclock);
        assert_eq!(found.unwrap().after_us, Some(0));
        assert_eq!(commands.len(), 4);
    }

    #[test]
    fn an_agent_may_be_silent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let _listener = UnixListener::bind(&path).unwrap();
        let error = set_clock_within(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
