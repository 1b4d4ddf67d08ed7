// SPDX-License-Identifier: GPL-2.0

//! The program luod, on a machine without `/dev/liveupdate`; the test is its service manager.

use luod_protocol::{Channel, Event, Request, Status};
use rustix::process::{kill_process, Pid, Signal};
use std::{
    env, fs,
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixDatagram, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const LUOD: &str = env!("CARGO_BIN_EXE_luod");
const SOON: Duration = Duration::from_secs(120);

/// A directory for one test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = env::temp_dir().join(format!("luod-daemon-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a configuration that permits everything to the user of the test.
    fn config(&self, more: &str) -> PathBuf {
        let path = self.path("luod.toml");
        let uid = rustix::process::getuid().as_raw();
        let text = format!("{more}\n[operators]\nusers = [{uid}]\n");
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Daemon(Child);

impl Daemon {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn end(mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < SOON);
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn status(path: &Path) -> Status {
    let start = Instant::now();
    let mut channel = loop {
        match Channel::connect(path) {
            Ok(channel) => break channel,
            Err(error) => assert!(start.elapsed() < SOON, "{error}"),
        }
        sleep(Duration::from_millis(10));
    };
    match channel.call(&Request::Status, Some(SOON)).unwrap().0 {
        Event::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

fn luod(dir: &Dir) -> Command {
    let mut command = Command::new(LUOD);
    command.arg("--config").arg(dir.config(""));
    command.arg("--socket").arg(dir.path("sock"));
    command.stderr(Stdio::null());
    command
}

#[test]
fn starts_and_stops() {
    let dir = Dir::new("plain");
    let daemon = Daemon::start(&mut luod(&dir));
    let status = status(&dir.path("sock"));
    assert_eq!(status.update, 0);
    assert!(!status.kernel.is_empty());
    daemon.signal(Signal::TERM);
    assert!(daemon.end().success());
    assert!(!dir.path("sock").exists());
}

/// Two signals at the same time are both handled.
#[test]
fn stops_though_it_is_to_reload() {
    let dir = Dir::new("both");
    let daemon = Daemon::start(&mut luod(&dir));
    status(&dir.path("sock"));
    daemon.signal(Signal::STOP);
    daemon.signal(Signal::HUP);
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::CONT);
    assert!(daemon.end().success());
}

#[test]
fn a_socket_that_was_left() {
    let dir = Dir::new("left");
    drop(UnixListener::bind(dir.path("sock")).unwrap());
    let _daemon = Daemon::start(&mut luod(&dir));
    status(&dir.path("sock"));
    // A socket in use is not replaced.
    let second = Daemon::start(&mut luod(&dir));
    assert_eq!(second.end().code(), Some(1));
    status(&dir.path("sock"));
}

/// Waits for a notification to the service manager.
fn hear(manager: &UnixDatagram, what: &str) {
    let mut heard = Vec::new();
    loop {
        let mut text = [0; 4096];
        let length = manager.recv(&mut text).unwrap_or_else(|error| {
            panic!("{what} was not sent, but {heard:?}: {error}");
        });
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        if text.contains(what) {
            return;
        }
        heard.push(text);
    }
}

#[test]
fn under_a_service_manager() {
    let dir = Dir::new("managed");
    let manager = UnixDatagram::bind(dir.path("notify")).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let listener = UnixListener::bind(dir.path("activated")).unwrap();
    // The shell passes the socket like systemd, and keeps its process number.
    let mut command = Command::new("/bin/sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$@\"";
    command.args(["-c", script, "sh", LUOD, "--config"]);
    command.arg(dir.config(""));
    command
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stderr(Stdio::null())
        .env("NOTIFY_SOCKET", dir.path("notify"))
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "luod.socket")
        .env("WATCHDOG_USEC", "200000");
    let daemon = Daemon::start(&mut command);
    hear(&manager, "READY=1");
    status(&dir.path("activated"));
    hear(&manager, "WATCHDOG=1");
    hear(&manager, "WATCHDOG=1");

    fs::write(dir.path("luod.toml"), "nonsense").unwrap();
    daemon.signal(Signal::HUP);
    hear(&manager, "RELOADING=1");
    hear(&manager, "READY=1");
    // The old configuration is kept: the user is still an operator.
    status(&dir.path("activated"));
    dir.config("timeout = 7");
    daemon.signal(Signal::HUP);
    hear(&manager, "READY=1");
    status(&dir.path("activated"));

    daemon.signal(Signal::TERM);
    hear(&manager, "STOPPING=1");
    assert!(daemon.end().success());
    // It belongs to the service manager.
    assert!(dir.path("activated").exists());
}

#[test]
fn configurations() {
    let dir = Dir::new("config");
    for (text, code) in [("timeout = 3", 0), ("timeout = -3", 2), ("colour = 1", 2)] {
        let mut command = Command::new(LUOD);
        command.arg("--check-config").arg("--config");
        let output = command.arg(dir.config(text)).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert_eq!(output.stderr.is_empty(), code == 0, "{text}");
    }
    let mut command = Command::new(LUOD);
    command.args(["--check-config", "--config", "/nonexistent"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// Names that are not in the files are those of the name service switch.
#[test]
fn names_of_the_switch() {
    let dir = Dir::new("switch");
    let getent = dir.path("getent");
    let script = "#!/bin/sh\n[ \"$*\" = 'group -- remote' ] || exit 2\necho 'remote:x:4711:'\n";
    fs::write(&getent, script).unwrap();
    fs::set_permissions(&getent, fs::Permissions::from_mode(0o755)).unwrap();
    let paths = format!("{}:{}", dir.0.display(), env::var("PATH").unwrap());
    for (group, code) in [("remote", 0), ("nobody-at-all", 2)] {
        let config = dir.config(&format!("socket-group = \"{group}\""));
        let mut command = Command::new(LUOD);
        command.arg("--check-config").arg("--config").arg(config);
        let output = command.env("PATH", &paths).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            said.contains("getent does not find it"),
            code != 0,
            "{said}"
        );
    }
}

/// A process of its own syncs the file systems.
#[test]
fn a_process_that_writes_out() {
    let mut command = Command::new(LUOD);
    command.args(["--sync", "--config", "/nonexistent"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

/// The unit permits fewer descriptors than the configuration: luod warns at its start.
#[test]
fn a_store_that_is_too_small() {
    for (most, warns) in [("10", true), ("11", false)] {
        let dir = Dir::new(&format!("store-{most}"));
        let mut command = luod(&dir);
        dir.config("max-sessions = 10");
        let log = fs::File::create(dir.path("log")).unwrap();
        let daemon = Daemon::start(command.stderr(log).env("FDSTORE", most));
        status(&dir.path("sock"));
        daemon.signal(Signal::TERM);
        assert!(daemon.end().success());
        let said = fs::read_to_string(dir.path("log")).unwrap();
        let warned = said.contains("FileDescriptorStoreMax=10 in the unit");
        assert_eq!(warned, warns, "{said}");
    }
}
