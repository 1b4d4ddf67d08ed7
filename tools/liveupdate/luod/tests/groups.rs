// SPDX-License-Identifier: GPL-2.0

//! Permissions of users by their supplementary groups.

use luod_protocol::{Channel, Event, Request};
use std::{
    env, fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(120);

/// The socket for the client.
const SOCKET: &str = "LUOD_TEST_SOCKET";

/// Runs a program as a user with only these supplementary groups.
fn with_groups(groups: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=47110", "--regid=47110", "--groups", groups]);
    command
}

/// Sends a request for operators as another user.
fn client(socket: &Path, groups: &str) -> Output {
    let mut command = with_groups(groups);
    command.arg(env::current_exe().unwrap());
    command.args(["--exact", "an_operator_by_a_supplementary_group"]);
    command.env(SOCKET, socket).output().unwrap()
}

/// The part of the test that runs as another user.
fn ask(socket: &Path) {
    let mut channel = Channel::connect(socket).unwrap();
    let (answer, _) = channel.call(&Request::Status, Some(SOON)).unwrap();
    assert!(matches!(answer, Event::Status(_)), "{answer:?}");
}

#[test]
fn an_operator_by_a_supplementary_group() {
    if let Some(socket) = env::var_os(SOCKET) {
        return ask(Path::new(&socket));
    }
    let may = with_groups("47111").arg("true").output();
    if !may.is_ok_and(|output| output.status.success()) {
        println!("skipped: the test needs root and setpriv");
        return;
    }
    let dir = env::temp_dir().join(format!("luod-groups-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let config = dir.join("luod.toml");
    // The other user may connect.
    let text = "[operators]\ngroups = [47111]\n[[client]]\ngroup = 47112\nsessions = [\"a\"]\n";
    fs::write(&config, text).unwrap();
    let socket = dir.join("sock");
    let mut luod = Command::new(env!("CARGO_BIN_EXE_luod"));
    luod.arg("--config")
        .arg(&config)
        .arg("--socket")
        .arg(&socket);
    let mut luod = luod.stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while Channel::connect(&socket).is_err() {
        assert!(start.elapsed() < SOON);
        sleep(Duration::from_millis(10));
    }
    // More groups than fit into the first buffer.
    let groups = (47200..47240).fold(String::new(), |groups, gid| format!("{groups}{gid},"));
    let member = client(&socket, &(groups + "47111"));
    let other = client(&socket, "47112");
    luod.kill().unwrap();
    luod.wait().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert!(member.status.success(), "{member:?}");
    assert!(!other.status.success(), "{other:?}");
    let said = String::from_utf8_lossy(&other.stdout).into_owned();
    assert!(said.contains("NotAllowed"), "{said}");
}
