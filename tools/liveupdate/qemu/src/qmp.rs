// SPDX-License-Identifier: GPL-2.0

//! A client of the QEMU Machine Protocol.

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::retry_on_intr,
};
use serde::{de::DeserializeOwned, Deserialize};
use serde_json::{json, Map, Value};
use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// The interval of polling for state that QEMU does not report.
const POLL: Duration = Duration::from_millis(1);

/// The time between two checks whether QEMU still runs before it sends its greeting.
const GREETING: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// The time limit for an answer of QEMU. No command takes longer than a request to the medium of
/// a disk.
const ANSWER: Duration = Duration::from_secs(60);

/// The failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection does not work.
    #[error("QEMU cannot be reached by QMP: {0}")]
    Io(#[from] io::Error),
    /// QEMU sent something that is not QMP.
    #[error("QEMU sent something unexpected by QMP: {0}")]
    Protocol(String),
    /// QEMU refused a command.
    #[error("QEMU refuses {command}: {message}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's reason.
        message: String,
    },
    /// A migration to or from a file failed.
    #[error("QEMU cannot {what} the state of the guest: {message}")]
    State {
        /// `save` or `load`.
        what: &'static str,
        /// QEMU's reason.
        message: String,
    },
    /// A command took too long.
    #[error("QEMU did not {0} in time")]
    Late(&'static str),
}

/// The answer to a command.
pub type Result<T = ()> = std::result::Result<T, Error>;

/// The state of the virtual machine, or of a migration, in the words of QEMU.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Status {
    /// `running`, `paused`, `postmigrate`, `inmigrate`, ...
    #[serde(default)]
    pub status: String,
    /// Why a migration failed.
    #[serde(default, rename = "error-desc")]
    pub error: Option<String>,
}

/// The requested statistics of KVM about a virtual processor.
#[derive(Debug, Deserialize)]
struct Statistics {
    stats: Vec<Statistic>,
}

/// A statistic of a virtual processor.
#[derive(Debug, Deserialize)]
struct Statistic {
    value: Value,
}

/// A virtual processor.
#[derive(Debug, Deserialize)]
struct Processor {
    #[serde(rename = "thread-id")]
    thread: u32,
}

/// A connection to a QEMU.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    /// The beginning of a line whose end was not received in time.
    line: Vec<u8>,
    /// The number of the last command. QEMU repeats it in the answer, which may arrive when nothing
    /// waits for it any more.
    command: u64,
    /// Whether the guest may have run since [`Self::save`].
    has_run: bool,
}

fn parsed<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| Error::Protocol(error.to_string()))
}

impl Qmp {
    /// Connects to the socket `path`, which QEMU creates when it starts. `alive` is called
    /// between attempts to check that QEMU still runs.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer within `timeout`, or `alive` fails.
    pub fn connect(
        path: &Path,
        timeout: Duration,
        mut alive: impl FnMut() -> io::Result<()>,
    ) -> Result<Self> {
        let end = Instant::now() + timeout;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => return Err(error.into()),
                Err(_) => {}
            }
            alive()?;
            sleep(POLL);
        };
        // The socket is there before the memory of the guest, and the greeting comes after it.
        let readable = || {
            let ready = || poll(&mut [PollFd::new(&stream, PollFlags::IN)], Some(&GREETING));
            retry_on_intr(ready).map_err(io::Error::from)
        };
        while readable()? == 0 {
            if Instant::now() > end {
                return Err(Error::Late("start"));
            }
            alive()?;
        }
        stream.set_read_timeout(Some(ANSWER))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
            line: Vec::new(),
            command: 0,
            has_run: true,
        };
        let greeting = match qmp.line() {
            Ok(greeting) => greeting,
            Err(error) => {
                // QEMU is most likely ending: then `alive` has the reason.
                let end = Instant::now() + Duration::from_secs(1);
                while Instant::now() < end {
                    alive()?;
                    sleep(POLL);
                }
                return Err(error);
            }
        };
        if !greeting.contains_key("QMP") {
            return Err(Error::Protocol(format!("{greeting:?}")));
        }
        qmp.call("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> Result<Map<String, Value>> {
        match self.reader.read_until(b'\n', &mut self.line) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Late("answer"))
            }
            Err(error) => return Err(error.into()),
        }
        let line = std::mem::take(&mut self.line);
        serde_json::from_slice(&line)
            .map_err(|_| Error::Protocol(String::from_utf8_lossy(&line).into_owned()))
    }

    /// Runs a command and returns its result. Of events, only that the guest runs is of interest.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if QEMU refuses it.
    pub fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.command += 1;
        let request = json!({ "execute": command, "arguments": arguments, "id": self.command });
        let mut bytes = request.to_string().into_bytes();
        bytes.push(b'\n');
        self.reader.get_mut().write_all(&bytes)?;
        loop {
            let mut answer = self.line()?;
            // Events are sent in order, before the answer to a later command.
            self.has_run |= answer.get("event").is_some_and(|name| name == "RESUME");
            // Skips a late answer to an earlier command. An error without a number can be about
            // anything that was sent.
            if answer.get("id").is_some_and(|id| *id != self.command) {
                continue;
            }
            if let Some(value) = answer.remove("return") {
                return Ok(value);
            }
            if let Some(error) = answer.get("error") {
                let message = error.get("desc").and_then(Value::as_str);
                return Err(Error::Refused {
                    command: command.to_owned(),
                    message: message.unwrap_or("without a reason").to_owned(),
                });
            }
        }
    }

    fn ask(&mut self, command: &str) -> Result<Status> {
        let value = self.call(command, json!({}))?;
        parsed(value)
    }

    /// The state of the virtual machine.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn status(&mut self) -> Result<String> {
        Ok(self.ask("query-status")?.status)
    }

    /// Why the state of the guest cannot be saved at present, in QEMU's words: devices and disks
    /// that cannot be migrated, also those that were added while the guest ran.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn obstacles(&mut self) -> Result<Vec<String>> {
        let mut found = self.call("query-migrate", json!({}))?;
        match found.get_mut("blocked-reasons").map(Value::take) {
            None => Ok(Vec::new()),
            Some(reasons) => parsed(reasons),
        }
    }

    /// Makes migrations exclude the memory of the guest, and end with a stopped guest that can
    /// continue.
    ///
    /// # Errors
    ///
    /// If this QEMU does not support it because it is older than 8.2.
    pub fn keep_memory(&mut self) -> Result {
        let capability = json!({ "capability": "x-ignore-shared", "state": true });
        self.call(
            "migrate-set-capabilities",
            json!({ "capabilities": [capability] }),
        )?;
        self.call("migrate-set-parameters", json!({ "mode": "cpr-reboot" }))?;
        Ok(())
    }

    /// Waits for the end of a migration.
    fn migrated(&mut self, what: &'static str, limit: Duration) -> Result {
        let end = Instant::now() + limit;
        loop {
            let found = self.ask("query-migrate")?;
            match found.status.as_str() {
                "completed" => return Ok(()),
                "failed" | "cancelled" => {
                    let message = found.error.unwrap_or_else(|| "without a reason".to_owned());
                    return Err(Error::State { what, message });
                }
                _ if Instant::now() > end => return Err(Error::Late("save or load its state")),
                _ => sleep(POLL),
            }
        }
    }

    /// Stops the guest, and saves all state except its memory to `uri`. Writes of the guest to
    /// disks are then on stable storage, if the cache mode permits it.
    ///
    /// # Errors
    ///
    /// If QEMU cannot do it. The caller must resume the guest with [`Self::go_on`].
    pub fn save(&mut self, uri: &str, limit: Duration) -> Result {
        let end = Instant::now() + limit;
        self.call("migrate", json!({ "uri": uri }))?;
        self.migrated("save", limit)?;
        // QEMU finally stops the guest after it has reported that the migration is completed, and
        // must not be told to resume the guest before that.
        while self.status()? == "finish-migrate" {
            if Instant::now() > end {
                return Err(Error::Late("stop the guest"));
            }
            sleep(POLL);
        }
        self.has_run = false;
        Ok(())
    }

    /// Whether the state that [`Self::save`] has saved is still that of the guest, which is stopped:
    /// nobody has resumed it since.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn is_saved(&mut self) -> Result<bool> {
        let stopped = self.status()? == "postmigrate";
        Ok(stopped && !self.has_run)
    }

    /// Loads the state that [`Self::save`] has saved. The guest is not running yet.
    ///
    /// # Errors
    ///
    /// If this QEMU, or this host, cannot continue from that state.
    pub fn load(&mut self, uri: &str, limit: Duration) -> Result {
        self.call("migrate-incoming", json!({ "uri": uri }))?;
        self.migrated("load", limit)
    }

    /// Resumes the guest.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it was not resumed. After any other error, it may run.
    pub fn resume(&mut self) -> Result {
        self.call("cont", json!({})).map(drop)
    }

    /// Whether KVM runs, or has run, each virtual processor in this QEMU. [`None`] if KVM does not
    /// count that, or is not used.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn entered(&mut self) -> Result<Option<Vec<bool>>> {
        // The exits from the guest, and whether the processor waits for an interrupt in KVM: one that
        // was halted before the update may do that without an exit for ever.
        let names = json!({ "provider": "kvm", "names": ["exits", "blocking"] });
        let question = json!({ "target": "vcpu", "providers": [names] });
        let found: Vec<Statistics> = parsed(self.call("query-stats", question)?)?;
        if found.is_empty() || found.iter().any(|processor| processor.stats.is_empty()) {
            return Ok(None);
        }
        let entered = |one: &Statistic| one.value == true || one.value.as_u64() > Some(0);
        let entered = |processor: &Statistics| processor.stats.iter().any(entered);
        Ok(Some(found.iter().map(entered).collect()))
    }

    /// The ids of the threads of the virtual processors.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn threads(&mut self) -> Result<Vec<u32>> {
        let found: Vec<Processor> = parsed(self.call("query-cpus-fast", json!({}))?)?;
        Ok(found.iter().map(|processor| processor.thread).collect())
    }

    /// Resumes the guest, and checks that it runs.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn go_on(&mut self) -> Result {
        self.resume()?;
        match self.status()?.as_str() {
            "running" => Ok(()),
            other => Err(Error::Protocol(format!("the guest is {other} after cont"))),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::{
        os::unix::net::UnixListener,
        thread::{self, JoinHandle},
    };

    /// A QEMU that greets and takes the capabilities; then `talk` gets its side of the connection, and
    /// a function that waits for the next command. Returns its thread as well.
    pub(crate) fn qemu<T: Send + 'static>(
        talk: impl FnOnce(UnixStream, &mut dyn FnMut() -> Option<Value>) -> T + Send + 'static,
    ) -> (Qmp, JoinHandle<T>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut next = || Some(serde_json::from_str(&lines.next()?.unwrap()).unwrap());
            writeln!(stream, r#"{{"QMP": {{}}}}"#).unwrap();
            let _: Value = next().unwrap();
            writeln!(stream, r#"{{"return": {{}}}}"#).unwrap();
            talk(stream, &mut next)
        });
        (Qmp::connect(&path, ANSWER, || Ok(())).unwrap(), thread)
    }

    /// Returns the result of [`Qmp::obstacles`] for the lines of `answer`.
    fn obstacles(answer: &'static str) -> Result<Vec<String>> {
        let (mut qmp, thread) = qemu(move |mut stream, next| {
            next().unwrap();
            writeln!(stream, "{answer}").unwrap();
        });
        let found = qmp.obstacles();
        thread.join().unwrap();
        found
    }

    #[test]
    fn the_end_of_qemu_has_a_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let qemu = thread::spawn(move || {
            let stream = listener.accept().unwrap();
            sleep(Duration::from_millis(100));
            drop(stream);
        });
        let mut checked = 0;
        let found = Qmp::connect(&path, ANSWER, || {
            checked += 1;
            // While QEMU allocates memory, and when it has ended.
            match qemu.is_finished() && checked > 3 {
                true => Err(io::Error::other("there is no memory")),
                false => Ok(()),
            }
        });
        let error = found.unwrap_err().to_string();
        assert!(error.contains("there is no memory"), "{error}");
        qemu.join().unwrap();
    }

    #[test]
    fn a_late_answer_is_not_that_to_the_next_command() {
        let (mut qmp, thread) = qemu(|mut stream, next| {
            let mut answer = |status| {
                let id = &next().unwrap()["id"];
                json!({ "return": { "status": status }, "id": id }).to_string()
            };
            // Half of the first answer is in time.
            let first = answer("late");
            let (half, rest) = first.split_at(9);
            stream.write_all(half.as_bytes()).unwrap();
            writeln!(stream, "{rest}\n{}", answer("running")).unwrap();
        });
        let set_limit = |qmp: &Qmp, limit| {
            let stream = qmp.reader.get_ref();
            stream.set_read_timeout(Some(limit)).unwrap();
        };
        set_limit(&qmp, Duration::from_millis(20));
        assert!(matches!(qmp.status(), Err(Error::Late(_))));
        set_limit(&qmp, ANSWER);
        assert_eq!(qmp.status().unwrap(), "running");
        thread.join().unwrap();
    }

    #[test]
    fn the_guest_is_stopped_when_its_state_is_saved() {
        let (mut qmp, thread) = qemu(|mut stream, next| {
            // The answer to the command, and then the states of the migration and of the guest.
            for answer in ["", "completed", "finish-migrate", "postmigrate"] {
                next().unwrap();
                writeln!(stream, r#"{{"return": {{"status": "{answer}"}}}}"#).unwrap();
            }
            next()
        });
        qmp.save("file:x", ANSWER).unwrap();
        drop(qmp);
        assert_eq!(thread.join().unwrap(), None, "a further question");
    }

    #[test]
    fn obstacles_are_qemus() {
        assert!(obstacles(r#"{"return": {}}"#).unwrap().is_empty());
        let found = obstacles(r#"{"return": {"blocked-reasons": ["a", "b"]}}"#);
        assert_eq!(found.unwrap(), ["a", "b"]);
        let odd = obstacles(r#"{"return": {"blocked-reasons": 1}}"#);
        assert!(matches!(odd, Err(Error::Protocol(_))));
        let refused = obstacles(r#"{"error": {"desc": "no"}}"#);
        assert!(matches!(refused, Err(Error::Refused { .. })));
        // The second command has the number 2.
        let late = concat!(
            r#"{"return": {"blocked-reasons": ["late"]}, "id": 1}"#,
            "\n",
            r#"{"return": {"blocked-reasons": ["in time"]}, "id": 2}"#
        );
        assert_eq!(obstacles(late).unwrap(), ["in time"]);
    }
}
